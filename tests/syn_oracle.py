"""Symmetric normalization by numpy and scipy alone: what slant.syn was before it used torch, and must agree with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.config import SynSettings
from slant.errors import GeometryError
from slant.volume import Volume
from slant.warp import Warp

Array = NDArray[np.float32]

_LEAST_VARIANCE = 1e-6  # product of two variances in a cube under which there is nothing to correlate
_NEAR = 3  # voxels around the brains where places are still looked up
_INVERSIONS = 10  # fixed-point steps; the half fields are smooth, so that few suffice


def register_syn(fixed: Volume, moving: Volume, settings: SynSettings) -> tuple[Warp, Warp]:
    """The warps that take places of the fixed image to those of the moving one, and back.

    Parameters
    ----------
    fixed, moving : Volume
        Brains, 0 outside, affinely aligned, on one grid of cubic voxels along the world's axes.
    settings : SynSettings

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
    halves = np.zeros((2, 3, 1, 1, 1), dtype=np.float32)
    near = _Near(np.ones((1, 1, 1), dtype=np.bool_))
    shrink_before = 1
    for shrink, iterations in settings.levels:
        pair = _shrunk(fixed.data, shrink), _shrunk(moving.data, shrink)
        near = _Near(ndimage.binary_dilation((pair[0] > 0.05) | (pair[1] > 0.05), iterations=_NEAR))
        halves = _refined(halves, near.shape, shrink, shrink_before)
        for _ in range(iterations):
            halves = _improved(halves, pair, near, settings)
        shrink_before = shrink
    voxel_mm = np.float32(fixed.grid.voxel_size_mm[0])
    there, back = (_through_middle(*ends, near) * voxel_mm for ends in ((halves[0], halves[1]), (halves[1], halves[0])))
    return Warp(there, fixed.grid), Warp(back, fixed.grid)


def local_correlation(a: Array, b: Array, radius: int) -> Array:
    """(X, Y, Z) float32 squared correlation of two images in the cube around each voxel; 0 where either is flat.

    Parameters
    ----------
    a, b : (X, Y, Z) float32 array
    radius : int
        Voxels from the middle of a cube to its faces.
    """
    moments = _moments(a, b, radius)
    return np.clip(moments.aa_bb * moments.ab * moments.ab, 0, 1)


@dataclass(frozen=True, eq=False)
class _Moments:
    """Deviations from the mean of the cube, variances, covariance, and 1 / (variance of a times variance of b)."""

    a: Array
    b: Array
    aa: Array
    bb: Array
    ab: Array
    aa_bb: Array


def _moments(a: Array, b: Array, radius: int) -> _Moments:
    mean_a, mean_b = _mean(a, radius), _mean(b, radius)
    aa = np.maximum(_mean(a * a, radius) - mean_a * mean_a, 0)
    bb = np.maximum(_mean(b * b, radius) - mean_b * mean_b, 0)
    ab = _mean(a * b, radius) - mean_a * mean_b
    product = aa * bb
    there = product > _LEAST_VARIANCE
    inverse = np.where(there, 1 / np.where(there, product, 1), 0).astype(np.float32)
    return _Moments(a - mean_a, b - mean_b, aa, bb, ab, inverse)


def _mean(a: Array, radius: int) -> Array:
    found: Array = ndimage.uniform_filter(a, 2 * radius + 1, mode="constant", output=np.float32)
    return found


class _Near:
    """The voxels of a level where places are looked up; elsewhere images are 0 and fields stay."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self.shape = mask.shape
        self._flat = np.flatnonzero(mask)
        self._index = np.argwhere(mask).T.astype(np.float32)

    def warped(self, image: Array, field: Array) -> Array:
        """The image at every place plus its displacement in voxels."""
        out = np.zeros(self.shape, dtype=np.float32)
        out.ravel()[self._flat] = self._look_up(image, self._places(field))
        return out

    def composed(self, outer: Array, inner: Array) -> Array:
        """(3, X, Y, Z): the outer field at every place plus the inner one's displacement."""
        out, places = outer.copy(), self._places(inner)
        for component, values in zip(out, outer, strict=True):
            component.ravel()[self._flat] = self._look_up(values, places)
        return out

    def _places(self, field: Array) -> Array:
        return self._index + field.reshape(3, -1)[:, self._flat]

    @staticmethod
    def _look_up(values: Array, places: Array) -> Array:
        found: Array = ndimage.map_coordinates(values, places, order=1, mode="nearest", output=np.float32)
        return found


def _through_middle(own: Array, other: Array, near: _Near) -> Array:
    """From an image to the middle by the inverse of its half field, then on to the other image; voxels."""
    to_middle = -own
    for _ in range(_INVERSIONS):
        to_middle = -near.composed(own, to_middle)
    return to_middle + near.composed(other, to_middle)


def _improved(halves: Array, pair: tuple[Array, Array], near: _Near, settings: SynSettings) -> Array:
    """Both half fields after one step up the gradient of the local correlation."""
    a, b = (near.warped(image, half) for image, half in zip(pair, halves, strict=True))
    m = _moments(a, b, settings.radius)
    gain = 2 * m.ab * m.aa_bb
    slopes = (m.b - m.ab / np.maximum(m.aa, 1e-12) * m.a, m.a - m.ab / np.maximum(m.bb, 1e-12) * m.b)
    found = []
    for image, half, slope in zip((a, b), halves, slopes, strict=True):
        force = np.stack(np.gradient(image)) * (gain * slope)
        step = _smoothed(force.astype(np.float32), settings.update_sigma)
        longest = float(np.sqrt((step * step).sum(axis=0).max()))
        step *= np.float32(settings.step / max(longest, 1e-12))
        found.append(_smoothed(step + near.composed(half, step), settings.total_sigma))
    return np.stack(found)


def _smoothed(field: Array, sigma: float) -> Array:
    if sigma <= 0:
        return field
    return np.stack([ndimage.gaussian_filter(c, sigma, truncate=3.0, mode="nearest") for c in field])


def _shrunk(data: Array, factor: int) -> Array:
    """The image smoothed and sampled at the middle of every cube of ``factor`` voxels along an edge."""
    if factor == 1:
        return np.array(data)
    smooth = ndimage.gaussian_filter(data, 0.5 * factor, truncate=3.0, mode="nearest")
    axes = [np.arange(-(-n // factor)) * factor + (factor - 1) / 2 for n in data.shape]
    places = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    found: Array = ndimage.map_coordinates(smooth, places, order=1, mode="nearest", output=np.float32)
    return found


def _refined(halves: Array, shape: tuple[int, ...], shrink: int, shrink_before: int) -> Array:
    """Half fields of the level before, in voxels of this one."""
    if halves.shape[2:] == (1, 1, 1):
        return np.zeros((2, 3, *shape), dtype=np.float32)
    fine = np.indices(shape, dtype=np.float32)
    places = (fine * shrink + (shrink - 1) / 2 - (shrink_before - 1) / 2) / shrink_before
    scale = np.float32(shrink_before / shrink)
    fields = [
        ndimage.map_coordinates(c, places, order=1, mode="nearest", output=np.float32) * scale
        for half in halves
        for c in half
    ]
    return np.stack(fields).reshape(2, 3, *shape)
