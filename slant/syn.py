"""Symmetric normalization of two images by local correlation (SyN; Avants et al. 2008, Medical Image Analysis 12:26).

Both images are warped toward a middle: in every step the gradient of the local correlation (over cubes of voxels) is
smoothed, scaled to a largest step and composed with each half's field. The warp from one image to the other goes to the
middle by the inverse of its own half, then on by the other's half, so that both directions come from one registration.
Levels go from voxels of about 8 mm to the chosen resolution. Only voxels in and near the brains are interpolated, and
every filter is separable; nothing is random.

On a CPU every operation runs on one thread, so that no sum is split, and two threads take a half each: the warps do not
depend on the number of threads.
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
from slant.errors import GeometryError
from slant.resample import resample
from slant.volume import Volume
from slant.warp import Warp

Array = NDArray[np.float32]

_LEAST_VARIANCE = 1e-6  # product of two variances in a cube under which there is nothing to correlate
_NEAR = 3  # voxels around the brains where places are still looked up
_INVERSIONS = 10  # fixed-point steps; the half fields are smooth, so that few suffice
_TRUNCATE = 3.0  # standard deviations at which Gaussians end
_WORTH_A_THREAD = 30_000  # voxels of a level; with fewer, handing work over costs more than it saves


def register_syn(fixed: Volume, moving: Volume, settings: SynSettings, device: str = "cpu") -> tuple[Warp, Warp]:
    """The warps that take places of the fixed image to those of the moving one, and back.

    Parameters
    ----------
    fixed, moving : Volume
        Brains, 0 outside, affinely aligned, on one grid of cubic voxels along the world's axes.
    settings : SynSettings
    device : str, optional
        Where it is computed: cpu, cuda, cuda:N or mps. A CPU uses two threads, unless torch is set to one.

    Returns
    -------
    moving_from_fixed, fixed_from_moving : Warp
        On the images' grid. Exchanging the images exchanges the warps, to the last bit.

    Raises
    ------
    GeometryError
        If the grids differ.
    """
    if not fixed.grid.same_as(moving.grid):
        raise GeometryError(f"images of {fixed.grid.shape} and {moving.grid.shape} voxels are not on one grid")
    on = torch.device(device)
    halves: list[Tensor] = []
    shrink_before = 1
    with _ONE_THREAD.each() as allowed, ThreadPoolExecutor(1, initializer=_alone) as pool:
        images = [torch.tensor(image.data, device=on) for image in (fixed, moving)]
        for shrink, iterations in settings.levels:
            pair = [_shrunk(image, shrink) for image in images]
            near = _Near((pair[0] > 0.05) | (pair[1] > 0.05))
            halves = _refined(halves, near, shrink, shrink_before)
            spread = on.type == "cpu" and allowed > 1 and pair[0].numel() >= _WORTH_A_THREAD
            both = _both(pool if spread else None)
            for _ in range(iterations):
                halves = _improved(halves, pair, near, settings, both)
            shrink_before = shrink
        voxel_mm = float(fixed.grid.voxel_size_mm[0])
        found = both(lambda own, other: _through_middle(own, other, near) * voxel_mm, halves, halves[::-1])
    there, back = (Warp(warp.cpu().numpy(), fixed.grid) for warp in found)
    return there, back


def coarsened(image: Volume, resolution_mm: float) -> Volume:
    """The image smoothed and sampled at a resolution, the one a registration works at."""
    if resolution_mm == image.grid.voxel_size_mm[0]:
        return image
    smooth = ndimage.gaussian_filter(image.data, 0.4 * resolution_mm / image.grid.voxel_size_mm[0])
    return resample(Volume(smooth, image.grid), image.grid.with_voxels_mm(resolution_mm))


def local_correlation(a: Array, b: Array, radius: int) -> Array:
    """(X, Y, Z) float32 squared correlation of two images in the cube around each voxel; 0 where either is flat.

    Parameters
    ----------
    a, b : (X, Y, Z) float32 array
    radius : int
        Voxels from the middle of a cube to its faces.
    """
    with _ONE_THREAD.each():
        one, other = (_side(torch.tensor(image, dtype=torch.float32), radius) for image in (a, b))
        joint = _joint(one, other, radius)
        found: Array = (joint.inverse * joint.covariance * joint.covariance).clamp(0, 1).numpy()
    return found


class _OneThread:
    """Holds torch to one thread while anything is computed here, by however many threads of Python."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._allowed = 1

    @contextmanager
    def each(self) -> Iterator[int]:
        """The calling thread's operations run on it alone; gives the threads that torch had, and has afterwards."""
        with self._lock:
            before = _alone()
            if not self._users:
                self._allowed = before
            self._users += 1
        try:
            yield self._allowed
        finally:
            with self._lock:
                self._users -= 1
                torch.set_num_threads(self._allowed)


def _alone() -> int:
    """Operations of this thread run on it alone; gives the number of threads it had.

    A thread takes over torch's number when it first asks for it, hence it must ask before it sets its own.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    return before


_ONE_THREAD = _OneThread()


def _both(pool: ThreadPoolExecutor | None) -> Callable[..., list[Any]]:
    """Calls a function for the first half here and for the second in the pool's thread, or for both here."""

    def call(function: Callable[..., Any], *arguments: Sequence[object]) -> list[Any]:
        first, second = zip(*arguments, strict=True)
        if pool is None:
            return [function(*first), function(*second)]
        waiting = pool.submit(function, *second)
        return [function(*first), waiting.result()]

    return call


@dataclass(frozen=True, eq=False)
class _Side:
    """An image, and over the cube around each voxel its deviation from the mean, mean and variance."""

    image: Tensor
    deviation: Tensor
    mean: Tensor
    variance: Tensor


@dataclass(frozen=True, eq=False)
class _Joint:
    """Covariance of two images in a cube, and 1 / (product of their variances), 0 where either is flat."""

    covariance: Tensor
    inverse: Tensor


def _side(image: Tensor, radius: int) -> _Side:
    mean, square = _mean(torch.stack((image, image * image)), radius)
    return _Side(image, image - mean, mean, (square - mean * mean).clamp_(min=0))


def _joint(a: _Side, b: _Side, radius: int) -> _Joint:
    covariance = _mean(a.image * b.image, radius) - a.mean * b.mean
    product = a.variance * b.variance
    there = product > _LEAST_VARIANCE
    return _Joint(covariance, there / product.clamp_(min=_LEAST_VARIANCE))


def _mean(values: Tensor, radius: int) -> Tensor:
    """Over the cube around each voxel; 0 outside the image counts."""
    return _filtered(values, [1 / (2 * radius + 1)] * (radius + 1), zero_outside=True)


def _smoothed(values: Tensor, sigma: float) -> Tensor:
    if sigma <= 0:
        return values
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(int(_TRUNCATE * sigma + 0.5) + 1)]
    total = 2 * sum(weights) - weights[0]
    return _filtered(values, [weight / total for weight in weights], zero_outside=False)


def _filtered(values: Tensor, weights: list[float], *, zero_outside: bool) -> Tensor:
    """(..., X, Y, Z) weighted sums along each axis in turn, with weights for distances of 0, 1, 2 ... voxels.

    Outside is 0, or the nearest value.
    """
    for axis in (-3, -2, -1):
        size = values.shape[axis]
        found = values * weights[0]
        for step, weight in enumerate(weights[1:], 1):
            near, far = min(step, size), max(size - step, 0)
            found.narrow(axis, near, size - near).add_(values.narrow(axis, 0, far), alpha=weight)
            found.narrow(axis, 0, far).add_(values.narrow(axis, near, size - near), alpha=weight)
            if not zero_outside:
                found.narrow(axis, 0, near).add_(values.narrow(axis, 0, 1), alpha=weight)
                found.narrow(axis, far, near).add_(values.narrow(axis, size - 1, 1), alpha=weight)
        values = found
    return values


class _Near:
    """The voxels of a level in and near the brains, where places are looked up; N of them.

    Parameters
    ----------
    brains : (X, Y, Z) bool tensor
    """

    def __init__(self, brains: Tensor) -> None:
        mask = ndimage.binary_dilation(brains.cpu().numpy(), iterations=_NEAR)
        self.shape = brains.shape
        self._flat = torch.from_numpy(np.flatnonzero(mask)).to(brains.device)
        self._index = torch.from_numpy(np.argwhere(mask).T.astype(np.float32)).to(brains.device)

    def zeros(self) -> Tensor:
        """(3, X, Y, Z) displacements that move nothing."""
        return torch.zeros((3, *self.shape), device=self._index.device)

    def of(self, field: Tensor) -> Tensor:
        """(C, N): the values of a (C, X, Y, Z) field at these voxels."""
        return field.flatten(1).index_select(1, self._flat)

    def put(self, field: Tensor, found: Tensor) -> Tensor:
        """The (C, X, Y, Z) field itself, with (C, N) new values at these voxels."""
        for component, values in zip(field, found, strict=True):
            component.view(-1).scatter_(0, self._flat, values)
        return field

    def at(self, field: Tensor, displacement: Tensor) -> Tensor:
        """(C, N): a (C, X, Y, Z) field, trilinear, at each of these voxels plus its (3, N) displacement in voxels.

        Outside of the field its nearest value holds.
        """
        base, share, reach = torch.zeros_like(self._flat), [], [0]
        strides = (self.shape[1] * self.shape[2], self.shape[2], 1)
        for index, moved, size, stride in zip(self._index, displacement, self.shape, strides, strict=True):
            place = (index + moved).clamp_(0, size - 1)
            low = place.floor().clamp_(max=max(size - 2, 0))
            share.append(place.sub_(low))
            base.add_(low.to(torch.int64), alpha=stride)
            reach = [corner + step for corner in reach for step in (0, stride if size > 1 else 0)]
        return torch.stack([self._between(component.flatten(), base, share, reach) for component in field])

    @staticmethod
    def _between(values: Tensor, base: Tensor, share: list[Tensor], reach: list[int]) -> Tensor:
        """(N,) values between the eight corners ``reach`` after each base."""
        corners = [values[step:].index_select(0, base) for step in reach]
        for along in reversed(share):
            corners = [torch.lerp(*ends, along) for ends in zip(corners[::2], corners[1::2], strict=True)]
        return corners[0]


def _through_middle(own: Tensor, other: Tensor, near: _Near) -> Tensor:
    """From an image to the middle by the inverse of its half field, then on to the other image; voxels."""
    to_middle = -near.of(own)
    for _ in range(_INVERSIONS):
        to_middle = -near.at(own, to_middle)
    return near.put(other - own, to_middle + near.at(other, to_middle))


def _improved(
    halves: list[Tensor], pair: list[Tensor], near: _Near, settings: SynSettings, both: Callable[..., list[Any]]
) -> list[Tensor]:
    """Both half fields after one step up the gradient of the local correlation."""

    def side(image: Tensor, half: Tensor) -> _Side:
        warped = near.put(torch.zeros_like(image)[None], near.at(image[None], near.of(half)))
        return _side(warped[0], settings.radius)

    sides = both(side, pair, halves)
    joint = _joint(sides[0], sides[1], settings.radius)
    gain = 2 * joint.covariance * joint.inverse

    def pushed(half: Tensor, own: _Side, other: _Side) -> Tensor:
        slope = other.deviation - joint.covariance / own.variance.clamp(min=1e-12) * own.deviation
        force = torch.stack(torch.gradient(own.image)) * (gain * slope)
        return _stepped(half, force, near, settings)

    return both(pushed, halves, sides, sides[::-1])


def _stepped(half: Tensor, force: Tensor, near: _Near, settings: SynSettings) -> Tensor:
    """The half field composed with a step along the smoothed force, smoothed."""
    step = _smoothed(force, settings.update_sigma)
    longest = (step[0] * step[0]).addcmul_(step[1], step[1]).addcmul_(step[2], step[2]).amax().sqrt_()
    step *= settings.step / longest.clamp_(min=1e-12)
    short = near.of(step)
    return _smoothed(near.put(half + step, short + near.at(half, short)), settings.total_sigma)


def _shrunk(image: Tensor, factor: int) -> Tensor:
    """The image smoothed and sampled at the middle of every cube of ``factor`` voxels along an edge."""
    if factor == 1:
        return image
    places = [np.arange(-(-n // factor)) * factor + (factor - 1) / 2 for n in image.shape]
    return _sampled(image, places, sigma=0.5 * factor)


def _refined(halves: list[Tensor], near: _Near, shrink: int, shrink_before: int) -> list[Tensor]:
    """Half fields of the level before, in voxels of this one; 0 if there is none before."""
    if not halves:
        return [near.zeros(), near.zeros()]
    places = [(np.arange(n) * shrink + (shrink - shrink_before) / 2) / shrink_before for n in near.shape]
    return [_sampled(half, places) * (shrink_before / shrink) for half in halves]


def _sampled(values: Tensor, places: Sequence[NDArray[np.floating]], sigma: float = 0.0) -> Tensor:
    """(..., X, Y, Z) values smoothed, then interpolated at the coordinates along each axis; outside the nearest."""
    x, y, z = (
        torch.tensor(_matrix(size, along, sigma), device=values.device)
        for size, along in zip(values.shape[-3:], places, strict=True)
    )
    found = y @ (values @ z.T)
    return (x @ found.flatten(-2)).reshape((*found.shape[:-3], len(x), *found.shape[-2:]))


def _matrix(size: int, places: NDArray[np.floating], sigma: float) -> Array:
    """(places, size) weights of the voxels along an axis."""
    smooth = np.eye(size)
    if sigma > 0:
        smooth = ndimage.gaussian_filter1d(smooth, sigma, axis=0, truncate=_TRUNCATE, mode="nearest")
    inside = np.clip(places, 0, size - 1)
    low = np.minimum(inside.astype(np.intp), max(size - 2, 0))
    share = (inside - low)[:, None]
    return np.asarray((1 - share) * smooth[low] + share * smooth[np.minimum(low + 1, size - 1)], dtype=np.float32)
