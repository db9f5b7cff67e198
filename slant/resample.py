"""Resampling of volumes and label maps from one grid to another in a single step.

All functions map each voxel of the target grid to coordinates of the source grid. Intensities are interpolated. Label
maps are resampled by nearest voxel or by a vote, never by averaging ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.errors import SettingsError
from slant.grid import Grid, Matrix, transform_points
from slant.volume import LabelMap, Volume

Interpolation = Literal["multilabel", "nearest"]

Box = tuple[NDArray[np.int64], NDArray[np.int64]]
"""First (from -1, because of the padding) and last voxel of a box along x, y, z."""

IDENTITY: Matrix = np.eye(4)
IDENTITY.flags.writeable = False

BRAIN_MARGIN = 16
"""Voxels around the brain that are resampled with it; the coefficients of a spline do not depend on voxels beyond."""

ROUNDING = 1e-9  # voxels (or weight); smaller differences are rounding errors
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
    source_voxel_from_voxel = voxel_map(volume.grid, source_from_target, grid)
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


def coarsened(image: Volume, resolution_mm: float) -> Volume:
    """Smooth an image and resample it to the resolution of a registration."""
    if resolution_mm == image.grid.voxel_size_mm[0]:
        return image
    smooth = ndimage.gaussian_filter(image.data, 0.4 * resolution_mm / image.grid.voxel_size_mm[0])
    return resample(Volume(smooth, image.grid), image.grid.with_voxels_mm(resolution_mm))


def resample_brain(scan: Volume, mask: LabelMap, grid: Grid, *, source_from_target: Matrix) -> Volume:
    """Resample the brain of a scan to another grid by cubic spline interpolation, with 0 far from the brain.

    Trilinear interpolation blurs an image by as much as its voxels happen to lie between those of the other grid; cubic
    splines preserve the edges on which the networks depend. Splines overshoot at edges, so values are kept between the
    smallest (at most 0) and the largest ones near the brain.

    Parameters
    ----------
    mask : LabelMap
        Brain mask on the grid of the scan. Only its box and `BRAIN_MARGIN` voxels around it are resampled, as splines
        take 8 bytes per voxel.
    """
    found = ndimage.find_objects((mask.data != 0).astype(np.uint8))
    if not found:
        return Volume(np.zeros(grid.shape, dtype=np.float32), grid)
    spans = zip(found[0], scan.data.shape, strict=True)
    box = tuple(slice(max(0, s.start - BRAIN_MARGIN), min(n, s.stop + BRAIN_MARGIN)) for s, n in spans)
    part = Volume(np.ascontiguousarray(scan.data[box]), scan.grid.cropped(box))
    image = resample(part, grid, source_from_target=source_from_target, order=3)
    return Volume(np.clip(image.data, min(0, part.data.min()), part.data.max()), grid)


def pick_labels(labels: LabelMap, grid: Grid, source_from_target: Matrix = IDENTITY) -> LabelMap:
    """Resample a label map by nearest voxel, halfway cases to the higher index, with 0 outside the source.

    The dtype is that of the source. ``source_from_target`` is a (4, 4) affine as for `resample`.
    """
    picked = _nearest(labels.data, voxel_map(labels.grid, source_from_target, grid), grid, outside=0)
    return LabelMap(picked, grid)


def pick_values(
    data: NDArray[Any], grid: Grid, native_grid: Grid, source_from_target: Matrix, outside: int
) -> NDArray[Any]:
    """Values of (X, Y, Z) data on a grid at the nearest voxels, as `pick_labels`, with a value outside."""
    return _nearest(data, voxel_map(grid, source_from_target, native_grid), native_grid, outside)


def label_sampler(labels: LabelMap) -> Callable[[Grid], LabelMap]:
    """Function that resamples a label map to any grid in the same space, by a vote.

    The labels of the eight voxels around each point vote with their trilinear weights. The label with the largest sum
    wins; ties go to the lowest label. What all grids share is computed once.
    """
    corners = _Corners.of(labels)

    def sample(grid: Grid) -> LabelMap:
        return LabelMap(_vote(corners, voxel_map(labels.grid, IDENTITY, grid), grid), grid)

    return sample


def voxel_map(source: Grid, source_from_target: Matrix, target: Grid) -> Matrix:
    """Matrix from target voxels to source voxels; entries within rounding error of an integer become that integer."""
    matrix: Matrix = source.voxel_from_ras @ np.asarray(source_from_target, np.float64) @ target.ras_from_voxel
    rounded = np.rint(matrix)
    return np.where(np.abs(matrix - rounded) < ROUNDING, rounded, matrix)


def _nearest(data: NDArray[Any], source_voxel_from_voxel: Matrix, grid: Grid, outside: int) -> NDArray[Any]:
    """Value of the source voxel nearest to each voxel of the grid, in the dtype of the data."""
    if ((source_voxel_from_voxel[:3, :3] != 0).sum(axis=0) == 1).all():
        return _nearest_along_axes(data, source_voxel_from_voxel, grid, outside)
    picked: NDArray[Any] = ndimage.affine_transform(
        data,
        source_voxel_from_voxel[:3, :3],
        offset=source_voxel_from_voxel[:3, 3] + ROUNDING,
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
        index = np.floor(first + ROUNDING + step * np.arange(grid.shape[axis]) + 0.5).astype(np.intp)
        inside = np.flatnonzero((index >= 0) & (index < data.shape[source_axis]))
        if not inside.size:
            return picked
        box[axis] = slice(inside[0], inside[-1] + 1)
        indices.append(index[box[axis]])
    picked[tuple(box)] = data[np.ix_(*indices)].transpose(np.argsort(axes))
    return picked


@dataclass(frozen=True, eq=False)
class _Corners:
    """Labels of the template, padded by one background voxel, and the cells between the voxels."""

    # Cell (i, j, k) lies between padded voxel (i, j, k) and the next one along every axis. It is open if its corners
    # have different labels. In all other cells the result is their label.
    labels: NDArray[Any]
    is_open: NDArray[np.bool_]
    box: Box | None

    @classmethod
    def of(cls, labels: LabelMap) -> _Corners:
        padded = np.pad(labels.data, 1)
        is_open = np.zeros(padded.shape, dtype=np.bool_)
        is_open[:-1, :-1, :-1] = over_corners(padded, np.minimum) != over_corners(padded, np.maximum)
        return cls(padded, is_open, box_of(is_open | (padded != 0)))

    def at(self, coordinates: list[NDArray[np.float64]]) -> NDArray[Any]:
        """Winning label at (N,) template voxel coordinates along x, y, z."""
        cells = cells_of(coordinates, self.labels.shape)
        labels = self.labels.ravel()[cells]
        disputed = np.flatnonzero(self.is_open.ravel()[cells])
        corners, weights = corners_of(cells[disputed], [p[disputed] for p in coordinates], self.labels.shape)
        found = self.labels.ravel()[corners]
        votes = np.zeros_like(weights)
        for one, other in product(range(8), repeat=2):
            votes[one] += weights[other] * (found[one] == found[other])
        is_best = votes >= votes.max(axis=0) - ROUNDING
        labels[disputed] = np.where(is_best, found, np.iinfo(labels.dtype).max).min(axis=0)
        return labels


def box_of(occupied: NDArray[np.bool_]) -> Box | None:
    """First and last voxel of a grid where its mask, which is padded by one voxel, is set; None if it is empty."""
    boxes = ndimage.find_objects(occupied.view(np.uint8))
    ends = [np.array([[span.start, span.stop] for span in spans]).T - 1 for spans in boxes]
    return (ends[0][0], ends[0][1]) if ends else None


def cells_of(coordinates: Sequence[NDArray[np.float64]], padded: Sequence[int]) -> NDArray[np.intp]:
    """Flat index (N,) of the first corner of the cell of each point, in an array padded by one voxel.

    Parameters
    ----------
    coordinates : 3 (N,) float64 arrays
        In voxels of the array without its padding; points outside get the nearest cell.
    padded : 3 int
        Shape with the padding.
    """
    cells: NDArray[np.intp] = np.zeros(coordinates[0].shape, dtype=np.intp)
    for axis_coordinates, size in zip(coordinates, padded, strict=True):
        cells = cells * size + _cell(axis_coordinates, size)
    return cells


def corners_of(
    cells: NDArray[np.intp], coordinates: Sequence[NDArray[np.float64]], padded: Sequence[int]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Flat indices (8, N) of the corners of the cells of points, and their trilinear weights (8, N)."""
    _, ny, nz = padded
    fractions = np.stack([_fraction(points, size) for points, size in zip(coordinates, padded, strict=True)])
    sides = np.stack([1 - fractions, fractions])
    weights = np.stack([sides[x, 0] * sides[y, 1] * sides[z, 2] for x, y, z in _CORNERS])
    return np.stack([cells + (x * ny + y) * nz + z for x, y, z in _CORNERS]), weights


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


def _vote(corners: _Corners, template_voxel_from_voxel: Matrix, native_grid: Grid) -> NDArray[Any]:
    """Labels on the native grid, computed only where the template is not certain background."""
    labels = np.zeros(native_grid.shape, dtype=corners.labels.dtype)
    for slab, coordinates in slabs_in(corners.box, template_voxel_from_voxel, native_grid):
        labels[slab] = corners.at(coordinates).reshape(labels[slab].shape)
    return labels


def slabs_in(
    box: Box | None, template_voxel_from_voxel: Matrix, native_grid: Grid
) -> Iterator[tuple[tuple[slice, slice, slice], list[NDArray[np.float64]]]]:
    """Boxes of the native grid, thin along x, that together contain every voxel inside the box of template voxels.

    Each comes with the template voxel coordinates along x, y, z of its voxels, (N,) each.
    """
    for slab in _slabs(box, template_voxel_from_voxel, native_grid):
        x, y, z = np.ogrid[slab]
        yield slab, [(a * x + b * y + c * z + t).ravel() for a, b, c, t in template_voxel_from_voxel[:3]]


def _slabs(
    box: Box | None, template_voxel_from_voxel: Matrix, native_grid: Grid
) -> Iterator[tuple[slice, slice, slice]]:
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
