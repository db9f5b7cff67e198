"""Symmetric normalization with NumPy and SciPy only: the former implementation of slant.syn, which must agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.config import SynSettings
from slant.displacement import DisplacementField
from slant.errors import GeometryError
from slant.syn import BETWEEN_SUBJECTS, RADIUS, STEP
from slant.volume import Volume

Array = NDArray[np.float32]

_MIN_VARIANCE = 1e-6  # product of two variances in a cube below which the correlation is 0
_MARGIN = 3  # voxels around the brains that are still interpolated
_INVERSION_STEPS = 10  # fixed-point iterations; few are enough, because the half fields are smooth


def register_syn(fixed: Volume, moving: Volume, settings: SynSettings) -> tuple[DisplacementField, DisplacementField]:
    """Register two images nonlinearly, in both directions.

    Parameters
    ----------
    fixed, moving : Volume
        Affinely aligned brains, 0 outside, on the same axis-aligned grid of cubic voxels.
    settings : SynSettings

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
    halves = np.zeros((2, 3, 1, 1, 1), dtype=np.float32)
    near = _NearBrain(np.ones((1, 1, 1), dtype=np.bool_))
    shrink_before = 1
    for shrink, iterations in settings.levels:
        pair = _shrunk(fixed.data, shrink), _shrunk(moving.data, shrink)
        near = _NearBrain(ndimage.binary_dilation((pair[0] > 0.05) | (pair[1] > 0.05), iterations=_MARGIN))
        halves = _refined(halves, near.shape, shrink, shrink_before)
        for _ in range(iterations):
            halves = _updated(halves, pair, near)
        shrink_before = shrink
    voxel_mm = np.float32(fixed.grid.voxel_size_mm[0])
    pairs = ((halves[0], halves[1]), (halves[1], halves[0]))
    forward, inverse = (_through_midpoint(*ends, near) * voxel_mm for ends in pairs)
    return DisplacementField(forward, fixed.grid), DisplacementField(inverse, fixed.grid)


def local_correlation(a: Array, b: Array, radius: int) -> Array:
    """Squared correlation of two images in the cube around each voxel, (X, Y, Z) float32; 0 where either is constant.

    Parameters
    ----------
    a, b : (X, Y, Z) float32 array
    radius : int
        Radius of the cubes in voxels.
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
    varies = product > _MIN_VARIANCE
    inverse = np.where(varies, 1 / np.where(varies, product, 1), 0).astype(np.float32)
    return _Moments(a - mean_a, b - mean_b, aa, bb, ab, inverse)


def _mean(a: Array, radius: int) -> Array:
    mean: Array = ndimage.uniform_filter(a, 2 * radius + 1, mode="constant", output=np.float32)
    return mean


class _NearBrain:
    """The voxels of a level that are interpolated; elsewhere images are 0 and fields do not change."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self.shape = mask.shape
        self._flat = np.flatnonzero(mask)
        self._index = np.argwhere(mask).T.astype(np.float32)

    def warped(self, image: Array, field: Array) -> Array:
        """The image at every voxel displaced by the field, in voxels."""
        out = np.zeros(self.shape, dtype=np.float32)
        out.ravel()[self._flat] = self._sample(image, self._displaced(field))
        return out

    def composed(self, outer: Array, inner: Array) -> Array:
        """(3, X, Y, Z) outer field at every voxel displaced by the inner field."""
        out, coordinates = outer.copy(), self._displaced(inner)
        for component, values in zip(out, outer, strict=True):
            component.ravel()[self._flat] = self._sample(values, coordinates)
        return out

    def _displaced(self, field: Array) -> Array:
        return self._index + field.reshape(3, -1)[:, self._flat]

    @staticmethod
    def _sample(values: Array, coordinates: Array) -> Array:
        sampled: Array = ndimage.map_coordinates(values, coordinates, order=1, mode="nearest", output=np.float32)
        return sampled


def _through_midpoint(own: Array, other: Array, near: _NearBrain) -> Array:
    """Warp from an image to the midpoint by the inverse of its half field, then to the other image, in voxels."""
    to_midpoint = -own
    for _ in range(_INVERSION_STEPS):
        to_midpoint = -near.composed(own, to_midpoint)
    return to_midpoint + near.composed(other, to_midpoint)


def _updated(halves: Array, pair: tuple[Array, Array], near: _NearBrain) -> Array:
    """Both half fields after one step of gradient ascent on the local correlation."""
    a, b = (near.warped(image, half) for image, half in zip(pair, halves, strict=True))
    m = _moments(a, b, RADIUS)
    gain = 2 * m.ab * m.aa_bb
    slopes = (m.b - m.ab / np.maximum(m.aa, 1e-12) * m.a, m.a - m.ab / np.maximum(m.bb, 1e-12) * m.b)
    updated = []
    for image, half, slope in zip((a, b), halves, slopes, strict=True):
        force = np.stack(np.gradient(image)) * (gain * slope)
        step = _smoothed(force.astype(np.float32), BETWEEN_SUBJECTS.update_sigma)
        longest = float(np.sqrt((step * step).sum(axis=0).max()))
        step *= np.float32(STEP / max(longest, 1e-12))
        updated.append(_smoothed(step + near.composed(half, step), BETWEEN_SUBJECTS.total_sigma))
    return np.stack(updated)


def _smoothed(field: Array, sigma: float) -> Array:
    return np.stack([ndimage.gaussian_filter(c, sigma, truncate=3.0, mode="nearest") for c in field])


def _shrunk(data: Array, factor: int) -> Array:
    """The image smoothed and sampled at the centre of every cube of ``factor`` voxels along each edge."""
    if factor == 1:
        return np.array(data)
    smooth = ndimage.gaussian_filter(data, 0.5 * factor, truncate=3.0, mode="nearest")
    axes = [np.arange(-(-n // factor)) * factor + (factor - 1) / 2 for n in data.shape]
    coordinates = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    sampled: Array = ndimage.map_coordinates(smooth, coordinates, order=1, mode="nearest", output=np.float32)
    return sampled


def _refined(halves: Array, shape: tuple[int, ...], shrink: int, shrink_before: int) -> Array:
    """Half fields of the previous level resampled to this level, in its voxels; 0 on the first level."""
    if halves.shape[2:] == (1, 1, 1):
        return np.zeros((2, 3, *shape), dtype=np.float32)
    fine = np.indices(shape, dtype=np.float32)
    coordinates = (fine * shrink + (shrink - 1) / 2 - (shrink_before - 1) / 2) / shrink_before
    scale = np.float32(shrink_before / shrink)
    fields = [
        ndimage.map_coordinates(c, coordinates, order=1, mode="nearest", output=np.float32) * scale
        for half in halves
        for c in half
    ]
    return np.stack(fields).reshape(2, 3, *shape)
