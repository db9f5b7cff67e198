"""Symmetric normalization of two images by local correlation (SyN; Avants et al. 2008, Medical Image Analysis 12:26).

Both images are warped towards a midpoint. In every iteration the gradient of the local correlation (over cubes of
voxels) is smoothed, scaled to a maximum step and composed with the half field of each image. The warp from one image
to the other goes to the midpoint by the inverse of its own half field, and from there by the half field of the other
image, so that one registration gives both directions. Levels go from voxels of about 8 mm to the chosen resolution.
Only voxels in and near the brains are interpolated, and every filter is separable. Nothing is random.
On a CPU every operation runs on one thread and no sum is split, so the warps do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from slant.config import SynSettings
from slant.displacement import DisplacementField
from slant.errors import GeometryError
from slant.filters import box_mean, gaussian, sampled
from slant.threads import SINGLE_THREAD, use_one_thread
from slant.volume import Volume

Array = NDArray[np.float32]

RADIUS = 2
"""Radius in voxels of the cubes over which the local correlation is computed."""

STEP = 0.4
"""Largest step of an iteration, in voxels of the level."""


@dataclass(frozen=True)
class Regularization:
    """How smooth the fields are.

    Attributes
    ----------
    update_sigma, total_sigma : float
        Standard deviations of the smoothing of each step and of the total half field, in voxels of the level.
    full_step_gradient : float
        Largest length of the smoothed gradient, per voxel, from which the largest step is `STEP`. Below it steps are
        shorter, so that images of one subject converge instead of following their noise.
    """

    update_sigma: float = 2.0
    total_sigma: float = 0.4
    full_step_gradient: float = 1e-12


BETWEEN_SUBJECTS, WITHIN_SUBJECT = Regularization(), Regularization(3.0, 0.8, 0.8)
"""For images of different subjects and of one subject; docs/experiments.md says how the second was chosen."""

_MIN_VARIANCE = 1e-6  # product of two variances in a cube below which the correlation is 0
_MARGIN = 3  # voxels around the brains that are still interpolated
_INVERSION_STEPS = 10  # fixed-point iterations; few are enough, because the half fields are smooth
_MIN_PARALLEL_VOXELS = 30_000  # smaller levels are faster on one thread


def register_syn(
    fixed: Volume,
    moving: Volume,
    settings: SynSettings,
    device: str = "cpu",
    regularization: Regularization = BETWEEN_SUBJECTS,
    n_threads: int = 2,
) -> tuple[DisplacementField, DisplacementField]:
    """Register two images nonlinearly, in both directions.

    Parameters
    ----------
    fixed, moving : Volume
        Affinely aligned brains, 0 outside, on the same axis-aligned grid of cubic voxels.
    device : str, optional
        Device for the computation: cpu, cuda, cuda:N or mps.
    regularization : Regularization, optional
        How smooth the warps are.
    n_threads : int, optional
        Threads of a CPU: two, or one if this or the number of torch is 1.

    Returns
    -------
    moving_from_fixed, fixed_from_moving : DisplacementField
        Warps between fixed and moving coordinates, on the grid of the images; exchanging these exchanges the warps.

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
    with SINGLE_THREAD as available, ThreadPoolExecutor(1, initializer=use_one_thread) as pool:
        n_threads = min(n_threads, available)
        images = [torch.tensor(image.data, device=torch_device) for image in (fixed, moving)]
        for shrink, iterations in settings.levels:
            pair = [_shrunk(image, shrink) for image in images]
            near = _NearBrain.around((pair[0] > 0.05) | (pair[1] > 0.05))
            halves = _refined(halves, near, shrink, shrink_before)
            parallel = n_threads > 1 and torch_device.type == "cpu" and pair[0].numel() >= _MIN_PARALLEL_VOXELS
            for_both = _for_both(pool if parallel else None)
            for _ in range(iterations):
                halves = _updated(halves, pair, near, for_both, regularization)
            shrink_before = shrink
        voxel_mm = float(fixed.grid.voxel_size_mm[0])
        warps = for_both(lambda own, other: _through_midpoint(own, other, near) * voxel_mm, halves, halves[::-1])
    moving_from_fixed, fixed_from_moving = (DisplacementField(warp.cpu().numpy(), fixed.grid) for warp in warps)
    return moving_from_fixed, fixed_from_moving


def parameters(settings: SynSettings) -> dict[str, Any]:
    """Everything that a registration depends on except the images, as plain values for records and hashes."""
    return {
        "resolution_mm": settings.resolution_mm,
        "radius": RADIUS,
        "iterations": list(settings.iterations),
        "step": STEP,
        "update_sigma": BETWEEN_SUBJECTS.update_sigma,
        "total_sigma": BETWEEN_SUBJECTS.total_sigma,
    }


def local_correlation(a: Array, b: Array, radius: int = RADIUS) -> Array:
    """Squared correlation of two (X, Y, Z) images in the cube around each voxel, float32; 0 where one is constant."""
    with SINGLE_THREAD:
        one, other = (_side(torch.tensor(image, dtype=torch.float32), radius) for image in (a, b))
        joint = _joint(one, other, radius)
        squared: Array = (joint.inverse * joint.covariance * joint.covariance).clamp(0, 1).numpy()
    return squared


def similarity(fixed: Volume, other: Array) -> float:
    """Mean local correlation in the brain of an image with another on its grid, 0 to 1; 0 without a brain."""
    inside = fixed.data > 0
    return float(np.sqrt(local_correlation(fixed.data, other))[inside].mean()) if inside.any() else 0.0


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
    mean, square = box_mean(torch.stack((image, image * image)), radius)
    return _Side(image, image - mean, mean, (square - mean * mean).clamp_(min=0))


def _joint(a: _Side, b: _Side, radius: int) -> _Joint:
    covariance = box_mean(a.image * b.image, radius) - a.mean * b.mean
    product = a.variance * b.variance
    varies = product > _MIN_VARIANCE
    return _Joint(covariance, varies / product.clamp_(min=_MIN_VARIANCE))


@dataclass(frozen=True, eq=False)
class _NearBrain:
    """The N voxels of a level in and near the brains, which are interpolated."""

    shape: torch.Size  # of the level
    flat: Tensor  # (N,) int64
    index: Tensor  # (3, N) float32

    @classmethod
    def around(cls, brains: Tensor) -> _NearBrain:
        """The voxels in and near (X, Y, Z) bool brains."""
        mask = ndimage.binary_dilation(brains.cpu().numpy(), iterations=_MARGIN)
        flat, index = np.flatnonzero(mask), np.argwhere(mask).T.astype(np.float32)
        return cls(brains.shape, torch.from_numpy(flat).to(brains.device), torch.from_numpy(index).to(brains.device))

    def zeros(self) -> Tensor:
        """(3, X, Y, Z) displacements of zero."""
        return torch.zeros((3, *self.shape), device=self.index.device)

    def of(self, field: Tensor) -> Tensor:
        """(C, N) values of a (C, X, Y, Z) field at these voxels."""
        return field.flatten(1).index_select(1, self.flat)

    def put(self, field: Tensor, values: Tensor) -> Tensor:
        """Write (C, N) values into a (C, X, Y, Z) field at these voxels, in place."""
        for component, new in zip(field, values, strict=True):
            component.view(-1).scatter_(0, self.flat, new)
        return field

    def at(self, field: Tensor, displacement: Tensor) -> Tensor:
        """(C, N) trilinear (outside: nearest) values of a (C, X, Y, Z) field at these voxels displaced by (3, N)."""
        base, fractions, offsets = torch.zeros_like(self.flat), [], [0]
        strides = (self.shape[1] * self.shape[2], self.shape[2], 1)
        for index, shift, size, stride in zip(self.index, displacement, self.shape, strides, strict=True):
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
    for_both: Callable[..., list[Any]],
    regularization: Regularization,
) -> list[Tensor]:
    """Both half fields after one step of gradient ascent on the local correlation."""

    def side(image: Tensor, half: Tensor) -> _Side:
        warped = near.put(torch.zeros_like(image)[None], near.at(image[None], near.of(half)))
        return _side(warped[0], RADIUS)

    sides = for_both(side, pair, halves)
    joint = _joint(sides[0], sides[1], RADIUS)
    gain = 2 * joint.covariance * joint.inverse

    def updated(half: Tensor, own: _Side, other: _Side) -> Tensor:
        slope = other.deviation - joint.covariance / own.variance.clamp(min=1e-12) * own.deviation
        force = torch.stack(torch.gradient(own.image)) * (gain * slope)
        return _stepped(half, force, near, regularization)

    return for_both(updated, halves, sides, sides[::-1])


def _stepped(half: Tensor, force: Tensor, near: _NearBrain, regularization: Regularization) -> Tensor:
    """The half field composed with a step along the smoothed force, and smoothed again."""
    step = gaussian(force, regularization.update_sigma)
    longest = (step[0] * step[0]).addcmul_(step[1], step[1]).addcmul_(step[2], step[2]).amax().sqrt_()
    step *= STEP / longest.clamp_(min=regularization.full_step_gradient)
    near_step = near.of(step)
    return gaussian(near.put(half + step, near_step + near.at(half, near_step)), regularization.total_sigma)


def _shrunk(image: Tensor, factor: int) -> Tensor:
    """The image smoothed and sampled at the centre of every cube of ``factor`` voxels along each edge."""
    if factor == 1:
        return image
    coordinates = [np.arange(-(-n // factor)) * factor + (factor - 1) / 2 for n in image.shape]
    return sampled(image, coordinates, sigma=0.5 * factor)


def _refined(halves: list[Tensor], near: _NearBrain, shrink: int, shrink_before: int) -> list[Tensor]:
    """Half fields of the previous level resampled to this level, in its voxels; 0 on the first level."""
    if not halves:
        return [near.zeros(), near.zeros()]
    coordinates = [(np.arange(n) * shrink + (shrink - shrink_before) / 2) / shrink_before for n in near.shape]
    return [sampled(half, coordinates) * (shrink_before / shrink) for half in halves]
