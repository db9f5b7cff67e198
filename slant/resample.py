"""Resampling of volumes and label maps from one grid to another in a single step.

All functions map each voxel of the target grid to coordinates of the source grid. Intensities are interpolated. Label
maps are resampled by nearest voxel or by a vote, never by averaging ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.errors import GeometryError, SettingsError
from slant.grid import Grid, Matrix, transform_points
from slant.volume import LabelMap, Volume

Interpolation = Literal["multilabel", "nearest"]

IDENTITY: Matrix = np.eye(4)
IDENTITY.flags.writeable = False

_ROUNDING = 1e-9  # voxels (or weight); smaller differences are rounding errors
_SLAB_VOXELS = 400_000  # voxels computed at once, about 60 MB of working memory
_CORNERS = tuple(product((0, 1), repeat=3))


def resample(volume: Volume, grid: Grid, *, source_from_target: Matrix = IDENTITY, order: int = 1) -> Volume:
    """Resample a volume to another grid by spline interpolation, with 0 outside the source.

    If the voxels of both grids coincide, the values are unchanged.

    Parameters
    ----------
    source_from_target : (4, 4) float64 array
        Affine from RAS mm in the target space of ``grid`` to RAS mm in source space.
    order : int
        Order of the spline: 0 (nearest), 1 (trilinear), up to 5.

    Raises
    ------
    SettingsError
        If the order is not 0 to 5.
    """
    if order not in range(6):
        raise SettingsError(f"the order of interpolation must be 0 to 5, found {order}")
    source_voxel_from_voxel = _voxel_map(volume.grid, source_from_target, grid)
    if volume.grid.shape == grid.shape and np.array_equal(source_voxel_from_voxel, IDENTITY):
        return Volume(volume.data.copy(), grid)
    data: NDArray[np.float32] = ndimage.affine_transform(  # type: ignore[call-overload]
        volume.data,
        source_voxel_from_voxel,
        output_shape=grid.shape,
        output=np.float32,
        order=order,
        mode="grid-constant",
    )
    return Volume(data, grid)


def pick_labels(labels: LabelMap, grid: Grid, source_from_target: Matrix = IDENTITY) -> LabelMap:
    """Resample a label map by nearest voxel, halfway cases to the higher index, with 0 outside the source.

    The dtype is that of the source. ``source_from_target`` is a (4, 4) affine as for `resample`.
    """
    picked = _nearest(labels.data, _voxel_map(labels.grid, source_from_target, grid), grid, outside=0)
    return LabelMap(picked, grid)


def resample_labels(
    labels: LabelMap,
    vote_fraction: Volume,
    native_grid: Grid,
    template_from_native: Matrix,
    interpolation: Interpolation = "multilabel",
) -> tuple[LabelMap, Volume]:
    """Resample labels from template space to native space, with a confidence.

    With ``multilabel``, the labels of the eight template voxels around each point vote with their trilinear weights.
    The label with the largest sum wins; ties go to the lowest label. With ``nearest``, the result is the label of the
    nearest template voxel. Outside the template everything is background (0) with confidence 1.

    Parameters
    ----------
    labels : LabelMap
        Labels on the template grid.
    vote_fraction : Volume
        Fraction of the votes for the label of each voxel, on the template grid, 0 to 1.
    native_grid : Grid
        Grid of the scan.
    template_from_native : (4, 4) float64 array
        Affine from RAS mm in native space to RAS mm in template space.
    interpolation : {"multilabel", "nearest"}

    Returns
    -------
    labels : LabelMap
        Labels on ``native_grid``, in the dtype of the template labels; exact where the voxels coincide.
    confidence : Volume
        Confidence on ``native_grid``, 0 to 1: sum of weight times vote fraction over the voxels with the winning label.

    Raises
    ------
    GeometryError
        If labels and vote fraction are not on the same grid.
    SettingsError
        If the interpolation is unknown.
    """
    if not vote_fraction.grid.same_as(labels.grid):
        raise GeometryError(
            f"vote fraction on a grid of {vote_fraction.grid.shape} is not on the labels' grid of {labels.grid.shape}"
        )
    template_voxel_from_voxel = _voxel_map(labels.grid, template_from_native, native_grid)
    if interpolation == "nearest":
        resampled = _nearest(labels.data, template_voxel_from_voxel, native_grid, outside=0)
        confidence = _nearest(vote_fraction.data, template_voxel_from_voxel, native_grid, outside=1)
    elif interpolation == "multilabel":
        resampled, confidence = _vote(_Corners.of(labels, vote_fraction), template_voxel_from_voxel, native_grid)
    else:
        raise SettingsError(f"interpolation must be 'multilabel' or 'nearest', found {interpolation!r}")
    return LabelMap(resampled, native_grid), Volume(confidence, native_grid)


def label_sampler(labels: LabelMap) -> Callable[[Grid], LabelMap]:
    """Function that resamples a label map, as `resample_labels` with ``multilabel``, to any grid in the same space.

    What all grids share is computed once.
    """
    corners = _Corners.of(labels, Volume(np.ones(labels.grid.shape, dtype=np.float32), labels.grid))

    def sample(grid: Grid) -> LabelMap:
        return LabelMap(_vote(corners, _voxel_map(labels.grid, IDENTITY, grid), grid)[0], grid)

    return sample


def _voxel_map(source: Grid, source_from_target: Matrix, target: Grid) -> Matrix:
    """Matrix from target voxels to source voxels; entries within rounding error of an integer become that integer."""
    matrix: Matrix = source.voxel_from_ras @ np.asarray(source_from_target, np.float64) @ target.ras_from_voxel
    rounded = np.rint(matrix)
    return np.where(np.abs(matrix - rounded) < _ROUNDING, rounded, matrix)


def _nearest(data: NDArray[Any], source_voxel_from_voxel: Matrix, grid: Grid, outside: int) -> NDArray[Any]:
    """Value of the source voxel nearest to each voxel of the grid, in the dtype of the data."""
    if ((source_voxel_from_voxel[:3, :3] != 0).sum(axis=0) == 1).all():
        return _nearest_along_axes(data, source_voxel_from_voxel, grid, outside)
    picked: NDArray[Any] = ndimage.affine_transform(
        data,
        source_voxel_from_voxel[:3, :3],
        offset=source_voxel_from_voxel[:3, 3] + _ROUNDING,
        output_shape=grid.shape,
        output=data.dtype,
        order=0,
        mode="grid-constant",
        cval=outside,
    )
    return picked


def _nearest_along_axes(data: NDArray[Any], source_voxel_from_voxel: Matrix, grid: Grid, outside: int) -> NDArray[Any]:
    """As `_nearest`, if the axes of both grids are parallel: every axis has its own source indices."""
    axes = np.abs(source_voxel_from_voxel[:3, :3]).argmax(axis=1)  # of the grid, for each axis of the source
    picked, box, indices = np.full(grid.shape, outside, dtype=data.dtype), [slice(0)] * 3, []
    for source_axis, axis in enumerate(axes):
        step, first = source_voxel_from_voxel[source_axis, [axis, 3]]
        index = np.floor(first + _ROUNDING + step * np.arange(grid.shape[axis]) + 0.5).astype(np.intp)
        inside = np.flatnonzero((index >= 0) & (index < data.shape[source_axis]))
        if not inside.size:
            return picked
        box[axis] = slice(inside[0], inside[-1] + 1)
        indices.append(index[box[axis]])
    picked[tuple(box)] = data[np.ix_(*indices)].transpose(np.argsort(axes))
    return picked


@dataclass(frozen=True, eq=False)
class _Corners:
    """Labels and vote fractions of the template, padded by one background voxel, and the cells between the voxels."""

    # Cell (i, j, k) lies between padded voxel (i, j, k) and the next one along every axis. It is open if its corners
    # have different labels or a vote fraction below 1. In all other cells the result is their label with confidence 1.
    labels: NDArray[Any]
    vote_fraction: NDArray[np.float32]
    is_open: NDArray[np.bool_]
    box: tuple[NDArray[np.int64], NDArray[np.int64]] | None
    """First (from -1, because of the padding) and last template voxel that are not certain background."""

    @classmethod
    def of(cls, labels: LabelMap, vote_fraction: Volume) -> _Corners:
        padded = np.pad(labels.data, 1)
        padded_fraction = np.pad(vote_fraction.data, 1, constant_values=1)
        is_open = np.zeros(padded.shape, dtype=np.bool_)
        is_open[:-1, :-1, :-1] = (over_corners(padded, np.minimum) != over_corners(padded, np.maximum)) | ~over_corners(
            padded_fraction == 1, np.logical_and
        )
        boxes = ndimage.find_objects((is_open | (padded != 0)).view(np.uint8))
        ends = [np.array([[span.start, span.stop] for span in spans]).T - 1 for spans in boxes]
        return cls(padded, padded_fraction, is_open, (ends[0][0], ends[0][1]) if ends else None)

    def at(self, coordinates: list[NDArray[np.float64]]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Winning label and confidence at (N,) template voxel coordinates along x, y, z."""
        cells: NDArray[np.intp] = np.zeros(coordinates[0].shape, dtype=np.intp)
        for axis_coordinates, size in zip(coordinates, self.labels.shape, strict=True):
            cells = cells * size + _cell(axis_coordinates, size)
        labels = self.labels.ravel()[cells]
        confidence = np.ones(cells.shape, dtype=np.float32)
        disputed = np.flatnonzero(self.is_open.ravel()[cells])
        fractions = np.stack([_fraction(p[disputed], n) for p, n in zip(coordinates, self.labels.shape, strict=True)])
        labels[disputed], confidence[disputed] = self._weighted_vote(cells[disputed], fractions)
        return labels, confidence

    def _weighted_vote(
        self, cells: NDArray[np.intp], fractions: NDArray[np.float64]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Winner and confidence of the trilinear vote in (N,) flat cells at (3, N) fractions of their edges."""
        _, ny, nz = self.labels.shape
        corners = [cells + (x * ny + y) * nz + z for x, y, z in _CORNERS]
        labels = np.stack([self.labels.ravel()[corner] for corner in corners])
        sides = np.stack([1 - fractions, fractions])
        weights = np.stack([sides[x, 0] * sides[y, 1] * sides[z, 2] for x, y, z in _CORNERS])
        votes = np.zeros_like(weights)
        for one, other in product(range(8), repeat=2):
            votes[one] += weights[other] * (labels[one] == labels[other])
        is_best = votes >= votes.max(axis=0) - _ROUNDING
        winner = np.where(is_best, labels, np.iinfo(labels.dtype).max).min(axis=0)
        vote_fractions = np.stack([self.vote_fraction.ravel()[corner] for corner in corners])
        return winner, (weights * vote_fractions * (labels == winner)).sum(axis=0)


def _cell(coordinates: NDArray[np.float64], size: int) -> NDArray[np.intp]:
    """Cell of each coordinate along an axis of ``size`` padded voxels; outside coordinates get the nearest cell."""
    return np.clip(np.floor(coordinates) + 1, 0, size - 2).astype(np.intp)


def _fraction(coordinates: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Position of each coordinate within its cell, 0 to 1."""
    return np.clip(np.round(coordinates + 1 - _cell(coordinates, size), 9), 0, 1)


def over_corners(array: NDArray[Any], combine: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """Reduce the eight corners of every cell by a binary operation; the result is one smaller along each axis."""
    array = combine(array[1:], array[:-1])
    array = combine(array[:, 1:], array[:, :-1])
    return combine(array[:, :, 1:], array[:, :, :-1])


def _vote(
    corners: _Corners, template_voxel_from_voxel: Matrix, native_grid: Grid
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Labels and confidence on the native grid, computed only where the template is not certain background."""
    labels = np.zeros(native_grid.shape, dtype=corners.labels.dtype)
    confidence = np.ones(native_grid.shape, dtype=np.float32)
    rows = template_voxel_from_voxel[:3]
    for slab in _slabs(corners.box, template_voxel_from_voxel, native_grid):
        shape = labels[slab].shape
        steps = np.ogrid[slab]
        coordinates = [(x * steps[0] + y * steps[1] + z * steps[2] + t).ravel() for x, y, z, t in rows]
        slab_labels, slab_confidence = corners.at(coordinates)
        labels[slab], confidence[slab] = slab_labels.reshape(shape), slab_confidence.reshape(shape)
    return labels, confidence


def _slabs(
    box: tuple[NDArray[np.int64], NDArray[np.int64]] | None, template_voxel_from_voxel: Matrix, native_grid: Grid
) -> Iterator[tuple[slice, slice, slice]]:
    """Boxes of the native grid, thin along x, that together contain every voxel inside the box of template voxels."""
    if box is None:
        return
    voxel_from_template_voxel: Matrix = np.asarray(np.linalg.inv(template_voxel_from_voxel), dtype=np.float64)
    ends = [[box[side][axis] for axis, side in enumerate(corner)] for corner in _CORNERS]
    bounds = transform_points(voxel_from_template_voxel, ends)
    first = np.clip(np.floor(bounds.min(axis=0)), 0, native_grid.shape).astype(int)
    stop = np.clip(np.ceil(bounds.max(axis=0)) + 1, 0, native_grid.shape).astype(int)
    if (stop <= first).any():
        return
    thickness = max(1, _SLAB_VOXELS // int(np.prod(stop[1:] - first[1:])))
    for x in range(first[0], stop[0], thickness):
        yield slice(x, min(x + thickness, stop[0])), slice(first[1], stop[1]), slice(first[2], stop[2])
