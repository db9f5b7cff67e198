"""Symmetric normalization of two images by local correlation (SyN; Avants et al. 2008, Medical Image Analysis 12:26).

Both images are warped towards a midpoint. In every iteration the gradient of the local correlation (over cubes of
voxels) is smoothed, scaled to a maximum step and composed with the half field of each image. The warp from one image
to the other goes to the midpoint by the inverse of its own half field, and from there by the half field of the other
image, so that one registration gives both directions. Levels go from voxels of about 8 mm to the chosen resolution.
Only voxels in and near the brains are interpolated, and every filter is separable. Nothing is random.

On a CPU every operation runs on one thread, so that no sum is split, and two threads compute one half field each: the
warps do not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from slant.config import SynSettings
from slant.displacement import DisplacementField
from slant.errors import GeometryError
from slant.resample import resample
from slant.volume import Volume

Array = NDArray[np.float32]

_MIN_VARIANCE = 1e-6  # product of two variances in a cube below which the correlation is 0
_MARGIN = 3  # voxels around the brains that are still interpolated
_INVERSION_STEPS = 10  # fixed-point iterations; few are enough, because the half fields are smooth
_TRUNCATE = 3.0  # standard deviations at which Gaussians end
_MIN_PARALLEL_VOXELS = 30_000  # smaller levels are faster on one thread


def register_syn(
    fixed: Volume, moving: Volume, settings: SynSettings, device: str = "cpu"
) -> tuple[DisplacementField, DisplacementField]:
    """Register two images nonlinearly, in both directions.

    Parameters
    ----------
    fixed, moving : Volume
        Affinely aligned brains, 0 outside, on the same axis-aligned grid of cubic voxels.
    settings : SynSettings
    device : str, optional
        Device for the computation: cpu, cuda, cuda:N or mps. A CPU uses two threads, unless torch is set to one.

    Returns
    -------
    moving_from_fixed, fixed_from_moving : DisplacementField
        Warps between fixed and moving coordinates, on the grid of the images. Exchanging the images exchanges the warps
        bit by bit.

    Raises
    ------
    GeometryError
        If the grids differ.
    """
    if not fixed.grid.same_as(moving.grid):
        raise GeometryError(f"images of {fixed.grid.shape} and {moving.grid.shape} voxels are not on the same grid")
    torch_device = torch.device(device)
    halves: list[Tensor] = []
    shrink_before = 1
    with _SINGLE_THREAD.hold() as n_threads, ThreadPoolExecutor(1, initializer=_use_one_thread) as pool:
        images = [torch.tensor(image.data, device=torch_device) for image in (fixed, moving)]
        for shrink, iterations in settings.levels:
            pair = [_shrunk(image, shrink) for image in images]
            near = _NearBrain((pair[0] > 0.05) | (pair[1] > 0.05))
            halves = _refined(halves, near, shrink, shrink_before)
            parallel = torch_device.type == "cpu" and n_threads > 1 and pair[0].numel() >= _MIN_PARALLEL_VOXELS
            for_both = _for_both(pool if parallel else None)
            for _ in range(iterations):
                halves = _updated(halves, pair, near, settings, for_both)
            shrink_before = shrink
        voxel_mm = float(fixed.grid.voxel_size_mm[0])
        warps = for_both(lambda own, other: _through_midpoint(own, other, near) * voxel_mm, halves, halves[::-1])
    moving_from_fixed, fixed_from_moving = (DisplacementField(warp.cpu().numpy(), fixed.grid) for warp in warps)
    return moving_from_fixed, fixed_from_moving


def coarsened(image: Volume, resolution_mm: float) -> Volume:
    """Smooth an image and resample it to the resolution of a registration."""
    if resolution_mm == image.grid.voxel_size_mm[0]:
        return image
    smooth = ndimage.gaussian_filter(image.data, 0.4 * resolution_mm / image.grid.voxel_size_mm[0])
    return resample(Volume(smooth, image.grid), image.grid.with_voxels_mm(resolution_mm))


def local_correlation(a: Array, b: Array, radius: int) -> Array:
    """Squared correlation of two images in the cube around each voxel, (X, Y, Z) float32; 0 where either is constant.

    Parameters
    ----------
    a, b : (X, Y, Z) float32 array
    radius : int
        Radius of the cubes in voxels.
    """
    with _SINGLE_THREAD.hold():
        one, other = (_side(torch.tensor(image, dtype=torch.float32), radius) for image in (a, b))
        joint = _joint(one, other, radius)
        squared: Array = (joint.inverse * joint.covariance * joint.covariance).clamp(0, 1).numpy()
    return squared


class _SingleThread:
    """Limits torch to one thread while any thread of Python computes here."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._n_threads = 1

    @contextmanager
    def hold(self) -> Iterator[int]:
        """Limit the calling thread to one thread of torch; yields the number of threads that torch had before."""
        with self._lock:
            before = _use_one_thread()
            if not self._users:
                self._n_threads = before
            self._users += 1
        try:
            yield self._n_threads
        finally:
            with self._lock:
                self._users -= 1
                torch.set_num_threads(self._n_threads)


def _use_one_thread() -> int:
    """Limit torch operations of this thread to one thread; returns the previous number.

    A thread adopts the global number of torch when it first reads it, so it must read it before it sets its own.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    return before


_SINGLE_THREAD = _SingleThread()


def _for_both(pool: ThreadPoolExecutor | None) -> Callable[..., list[Any]]:
    """A function that calls another for both half fields, the second in the thread of the pool if there is one."""

    def call(function: Callable[..., Any], *arguments: Sequence[object]) -> list[Any]:
        first, second = zip(*arguments, strict=True)
        if pool is None:
            return [function(*first), function(*second)]
        future = pool.submit(function, *second)
        return [function(*first), future.result()]

    return call


@dataclass(frozen=True, eq=False)
class _Side:
    """An image with its mean, deviation from the mean and variance in the cube around each voxel."""

    image: Tensor
    deviation: Tensor
    mean: Tensor
    variance: Tensor


@dataclass(frozen=True, eq=False)
class _Joint:
    """Covariance of two images in each cube, and 1 / (product of their variances), 0 where either is constant."""

    covariance: Tensor
    inverse: Tensor


def _side(image: Tensor, radius: int) -> _Side:
    mean, square = _mean(torch.stack((image, image * image)), radius)
    return _Side(image, image - mean, mean, (square - mean * mean).clamp_(min=0))


def _joint(a: _Side, b: _Side, radius: int) -> _Joint:
    covariance = _mean(a.image * b.image, radius) - a.mean * b.mean
    product = a.variance * b.variance
    varies = product > _MIN_VARIANCE
    return _Joint(covariance, varies / product.clamp_(min=_MIN_VARIANCE))


def _mean(values: Tensor, radius: int) -> Tensor:
    """Mean over the cube around each voxel, with 0 outside the image."""
    return _filtered(values, [1 / (2 * radius + 1)] * (radius + 1), zero_outside=True)


def _smoothed(values: Tensor, sigma: float) -> Tensor:
    if sigma <= 0:
        return values
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(int(_TRUNCATE * sigma + 0.5) + 1)]
    total = 2 * sum(weights) - weights[0]
    return _filtered(values, [weight / total for weight in weights], zero_outside=False)


def _filtered(values: Tensor, weights: list[float], *, zero_outside: bool) -> Tensor:
    """Filter (..., X, Y, Z) values along each axis in turn, with weights for distances of 0, 1, 2 ... voxels.

    Outside the image the values are 0, or the nearest value.
    """
    for axis in (-3, -2, -1):
        size = values.shape[axis]
        filtered = values * weights[0]
        for step, weight in enumerate(weights[1:], 1):
            near, far = min(step, size), max(size - step, 0)
            filtered.narrow(axis, near, size - near).add_(values.narrow(axis, 0, far), alpha=weight)
            filtered.narrow(axis, 0, far).add_(values.narrow(axis, near, size - near), alpha=weight)
            if not zero_outside:
                filtered.narrow(axis, 0, near).add_(values.narrow(axis, 0, 1), alpha=weight)
                filtered.narrow(axis, far, near).add_(values.narrow(axis, size - 1, 1), alpha=weight)
        values = filtered
    return values


class _NearBrain:
    """The N voxels of a level in and near the brains, which are interpolated.

    Parameters
    ----------
    brains : (X, Y, Z) bool tensor
    """

    def __init__(self, brains: Tensor) -> None:
        mask = ndimage.binary_dilation(brains.cpu().numpy(), iterations=_MARGIN)
        self.shape = brains.shape
        self._flat = torch.from_numpy(np.flatnonzero(mask)).to(brains.device)
        self._index = torch.from_numpy(np.argwhere(mask).T.astype(np.float32)).to(brains.device)

    def zeros(self) -> Tensor:
        """(3, X, Y, Z) displacements of zero."""
        return torch.zeros((3, *self.shape), device=self._index.device)

    def of(self, field: Tensor) -> Tensor:
        """(C, N) values of a (C, X, Y, Z) field at these voxels."""
        return field.flatten(1).index_select(1, self._flat)

    def put(self, field: Tensor, values: Tensor) -> Tensor:
        """Write (C, N) values into a (C, X, Y, Z) field at these voxels, in place."""
        for component, new in zip(field, values, strict=True):
            component.view(-1).scatter_(0, self._flat, new)
        return field

    def at(self, field: Tensor, displacement: Tensor) -> Tensor:
        """(C, N) trilinear values of a (C, X, Y, Z) field at these voxels displaced by (3, N) voxels.

        Outside the field its nearest value is used.
        """
        base, fractions, offsets = torch.zeros_like(self._flat), [], [0]
        strides = (self.shape[1] * self.shape[2], self.shape[2], 1)
        for index, shift, size, stride in zip(self._index, displacement, self.shape, strides, strict=True):
            coordinate = (index + shift).clamp_(0, size - 1)
            low = coordinate.floor().clamp_(max=max(size - 2, 0))
            fractions.append(coordinate.sub_(low))
            base.add_(low.to(torch.int64), alpha=stride)
            offsets = [offset + step for offset in offsets for step in (0, stride if size > 1 else 0)]
        return torch.stack([self._interpolate(component.flatten(), base, fractions, offsets) for component in field])

    @staticmethod
    def _interpolate(values: Tensor, base: Tensor, fractions: list[Tensor], offsets: list[int]) -> Tensor:
        """(N,) values interpolated between the eight corners at ``offsets`` from each base."""
        corners = [values[offset:].index_select(0, base) for offset in offsets]
        for fraction in reversed(fractions):
            corners = [torch.lerp(*ends, fraction) for ends in zip(corners[::2], corners[1::2], strict=True)]
        return corners[0]


def _through_midpoint(own: Tensor, other: Tensor, near: _NearBrain) -> Tensor:
    """Warp from an image to the midpoint by the inverse of its half field, then to the other image, in voxels."""
    to_midpoint = -near.of(own)
    for _ in range(_INVERSION_STEPS):
        to_midpoint = -near.at(own, to_midpoint)
    return near.put(other - own, to_midpoint + near.at(other, to_midpoint))


def _updated(
    halves: list[Tensor],
    pair: list[Tensor],
    near: _NearBrain,
    settings: SynSettings,
    for_both: Callable[..., list[Any]],
) -> list[Tensor]:
    """Both half fields after one step of gradient ascent on the local correlation."""

    def side(image: Tensor, half: Tensor) -> _Side:
        warped = near.put(torch.zeros_like(image)[None], near.at(image[None], near.of(half)))
        return _side(warped[0], settings.radius)

    sides = for_both(side, pair, halves)
    joint = _joint(sides[0], sides[1], settings.radius)
    gain = 2 * joint.covariance * joint.inverse

    def updated(half: Tensor, own: _Side, other: _Side) -> Tensor:
        slope = other.deviation - joint.covariance / own.variance.clamp(min=1e-12) * own.deviation
        force = torch.stack(torch.gradient(own.image)) * (gain * slope)
        return _stepped(half, force, near, settings)

    return for_both(updated, halves, sides, sides[::-1])


def _stepped(half: Tensor, force: Tensor, near: _NearBrain, settings: SynSettings) -> Tensor:
    """The half field composed with a step along the smoothed force, and smoothed again."""
    step = _smoothed(force, settings.update_sigma)
    longest = (step[0] * step[0]).addcmul_(step[1], step[1]).addcmul_(step[2], step[2]).amax().sqrt_()
    step *= settings.step / longest.clamp_(min=1e-12)
    near_step = near.of(step)
    return _smoothed(near.put(half + step, near_step + near.at(half, near_step)), settings.total_sigma)


def _shrunk(image: Tensor, factor: int) -> Tensor:
    """The image smoothed and sampled at the centre of every cube of ``factor`` voxels along each edge."""
    if factor == 1:
        return image
    coordinates = [np.arange(-(-n // factor)) * factor + (factor - 1) / 2 for n in image.shape]
    return _sampled(image, coordinates, sigma=0.5 * factor)


def _refined(halves: list[Tensor], near: _NearBrain, shrink: int, shrink_before: int) -> list[Tensor]:
    """Half fields of the previous level resampled to this level, in its voxels; 0 on the first level."""
    if not halves:
        return [near.zeros(), near.zeros()]
    coordinates = [(np.arange(n) * shrink + (shrink - shrink_before) / 2) / shrink_before for n in near.shape]
    return [_sampled(half, coordinates) * (shrink_before / shrink) for half in halves]


def _sampled(values: Tensor, coordinates: Sequence[NDArray[np.floating]], sigma: float = 0.0) -> Tensor:
    """(..., X, Y, Z) values smoothed, then interpolated at coordinates along each axis; outside, the nearest value."""
    x, y, z = (
        torch.tensor(_sampling_matrix(size, axis_coordinates, sigma), device=values.device)
        for size, axis_coordinates in zip(values.shape[-3:], coordinates, strict=True)
    )
    sampled_yz = y @ (values @ z.T)
    return (x @ sampled_yz.flatten(-2)).reshape((*sampled_yz.shape[:-3], len(x), *sampled_yz.shape[-2:]))


def _sampling_matrix(size: int, coordinates: NDArray[np.floating], sigma: float) -> Array:
    """(N, size) weights of the voxels along an axis for (N,) coordinates."""
    smooth = np.eye(size)
    if sigma > 0:
        smooth = ndimage.gaussian_filter1d(smooth, sigma, axis=0, truncate=_TRUNCATE, mode="nearest")
    inside = np.clip(coordinates, 0, size - 1)
    low = np.minimum(inside.astype(np.intp), max(size - 2, 0))
    fraction = (inside - low)[:, None]
    high = np.minimum(low + 1, size - 1)
    return np.asarray((1 - fraction) * smooth[low] + fraction * smooth[high], dtype=np.float32)
