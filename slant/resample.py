"""Carrying volumes or label maps from one grid to another in a single resampling.

All functions go through the true inverse: for each voxel of the wanted grid they compute its place in the given one.
Intensities are interpolated; labels are picked or put to the vote, so no number between two labels ever arises.
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

Method = Literal["vote", "nearest"]

IDENTITY: Matrix = np.eye(4)
IDENTITY.flags.writeable = False

_ROUNDING = 1e-9  # voxels (or weight); differences below are the arithmetic's, not the data's
_SLAB_VOXELS = 400_000  # places looked up at a time, about 60 MB of work space
_CORNERS = tuple(product((0, 1), repeat=3))


def resample(volume: Volume, grid: Grid, *, source_from_target: Matrix = IDENTITY, order: int = 1) -> Volume:
    """Interpolate a volume on another grid, with 0 outside.

    Parameters
    ----------
    volume : Volume
        Intensities in source space.
    grid : Grid
        Where the result is wanted, in target space.
    source_from_target : (4, 4) float64 array
        RAS mm in target space to RAS mm in source space.
    order : int
        Degree of the spline: 0 nearest, 1 trilinear, up to 5.

    Returns
    -------
    Volume
        On ``grid``; the source's values unchanged where the voxels coincide.

    Raises
    ------
    SettingsError
        If the order is not 0 to 5.
    """
    if order not in range(6):
        raise SettingsError(f"the order of interpolation is 0 to 5, found {order}")
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
    """The label of the nearest voxel, halfway cases to the higher index, 0 outside.

    Parameters
    ----------
    labels : LabelMap
        In source space.
    grid : Grid
        Where the result is wanted, in target space.
    source_from_target : (4, 4) float64 array
        RAS mm in target space to RAS mm in source space.

    Returns
    -------
    LabelMap
        On ``grid``, in the source's number type.
    """
    picked = _nearest(labels.data, _voxel_map(labels.grid, source_from_target, grid), grid, outside=0)
    return LabelMap(picked, grid)


def labels_to_home(
    labels: LabelMap, share: Volume, home: Grid, template_from_home: Matrix, method: Method = "vote"
) -> tuple[LabelMap, Volume]:
    """Labels of the template at every voxel of the scan's own grid, with a confidence.

    With ``vote``, the labels of the eight template voxels around a place vote with their trilinear weights; the label
    with the largest sum wins, the lowest of equals. With ``nearest``, the nearest template voxel decides alone.
    Outside the template everything is background (0) with share 1.

    Parameters
    ----------
    labels : LabelMap
        Template grid.
    share : Volume
        Template grid; the share of votes for each voxel's label, 0 to 1.
    home : Grid
        The scan's own grid.
    template_from_home : (4, 4) float64 array
        RAS mm in the scan's space to RAS mm in template space.
    method : {"vote", "nearest"}

    Returns
    -------
    labels : LabelMap
        On ``home``, in the template labels' number type; exact where the voxels coincide.
    confidence : Volume
        On ``home``, 0 to 1: sum of weight times share over the voxels that carry the winning label.

    Raises
    ------
    GeometryError
        If share and labels are not on one grid.
    SettingsError
        If the method is unknown.
    """
    if not share.grid.same_as(labels.grid):
        raise GeometryError(f"share on a grid of {share.grid.shape} is not on the labels' grid of {labels.grid.shape}")
    template_voxel_from_voxel = _voxel_map(labels.grid, template_from_home, home)
    if method == "nearest":
        found = _nearest(labels.data, template_voxel_from_voxel, home, outside=0)
        confidence = _nearest(share.data, template_voxel_from_voxel, home, outside=1)
    elif method == "vote":
        found, confidence = _vote(_Corners.of(labels, share), template_voxel_from_voxel, home)
    else:
        raise SettingsError(f"labels come home by 'vote' or 'nearest', found {method!r}")
    return LabelMap(found, home), Volume(confidence, home)


def _voxel_map(source: Grid, source_from_target: Matrix, target: Grid) -> Matrix:
    """Source voxel from target voxel coordinates, whole numbers where only rounding keeps them from it."""
    matrix: Matrix = source.voxel_from_ras @ np.asarray(source_from_target, np.float64) @ target.ras_from_voxel
    whole = np.rint(matrix)
    return np.where(np.abs(matrix - whole) < _ROUNDING, whole, matrix)


def _nearest(data: NDArray[Any], source_voxel_from_voxel: Matrix, grid: Grid, outside: int) -> NDArray[Any]:
    """Value of the voxel nearest to each voxel of the grid, in the data's number type."""
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


@dataclass(frozen=True, eq=False)
class _Corners:
    """Labels and shares of the template behind a border of one background voxel, and where their corners differ.

    Cell ``(i, j, k)`` lies between padded voxel ``(i, j, k)`` and the next one along every axis. It is *open* if its
    eight corners differ in label or a share is not 1; elsewhere the answer is the corner's label with confidence 1.
    """

    labels: NDArray[Any]
    share: NDArray[np.float32]
    is_open: NDArray[np.bool_]

    @classmethod
    def of(cls, labels: LabelMap, share: Volume) -> _Corners:
        padded = np.pad(labels.data, 1)
        padded_share = np.pad(share.data, 1, constant_values=1)
        is_open = np.zeros(padded.shape, dtype=np.bool_)
        is_open[:-1, :-1, :-1] = (
            _over_corners(padded, np.minimum) != _over_corners(padded, np.maximum)
        ) | ~_over_corners(padded_share == 1, np.logical_and)
        return cls(padded, padded_share, is_open)

    def box(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """First template voxel and last (before the border, so from -1) off which all is sure background."""
        sure = ~self.is_open & (self.labels == 0)
        found = [np.flatnonzero(~sure.all(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
        if found[0].size == 0:
            return None
        return np.array([f[0] for f in found]) - 1, np.array([f[-1] for f in found])

    def at(self, places: list[NDArray[np.float64]]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Winning label and confidence at (N,) template voxel coordinates along x, y, z."""
        cells: NDArray[np.intp] = np.zeros(places[0].shape, dtype=np.intp)
        for place, size in zip(places, self.labels.shape, strict=True):
            cells = cells * size + _cell(place, size)
        labels = self.labels.ravel()[cells]
        confidence = np.ones(cells.shape, dtype=np.float32)
        disputed = np.flatnonzero(self.is_open.ravel()[cells])
        fractions = np.stack([_fraction(p[disputed], n) for p, n in zip(places, self.labels.shape, strict=True)])
        labels[disputed], confidence[disputed] = self._weigh(cells[disputed], fractions)
        return labels, confidence

    def _weigh(self, cells: NDArray[np.intp], fractions: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Winner and confidence of the trilinear vote in (N,) flat cells at (3, N) fractions of their edges."""
        _, ny, nz = self.labels.shape
        corners = [cells + (x * ny + y) * nz + z for x, y, z in _CORNERS]
        labels = np.stack([self.labels.ravel()[corner] for corner in corners])
        sides = np.stack([1 - fractions, fractions])
        weights = np.stack([sides[x, 0] * sides[y, 1] * sides[z, 2] for x, y, z in _CORNERS])
        votes = np.zeros_like(weights)
        for one, other in product(range(8), repeat=2):
            votes[one] += weights[other] * (labels[one] == labels[other])
        leads = votes >= votes.max(axis=0) - _ROUNDING
        winner = np.where(leads, labels, np.iinfo(labels.dtype).max).min(axis=0)
        shares = np.stack([self.share.ravel()[corner] for corner in corners])
        return winner, (weights * shares * (labels == winner)).sum(axis=0)


def _cell(place: NDArray[np.float64], size: int) -> NDArray[np.intp]:
    """Cell along an axis of so many padded voxels that holds each place; places outside go to the nearest cell."""
    return np.clip(np.floor(place) + 1, 0, size - 2).astype(np.intp)


def _fraction(place: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """How far into its cell each place lies, 0 to 1."""
    return np.clip(np.round(place + 1 - _cell(place, size), 9), 0, 1)


def _over_corners(array: NDArray[Any], combine: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """A binary operation over the eight corners of every cell, one voxel smaller along each axis."""
    array = combine(array[1:], array[:-1])
    array = combine(array[:, 1:], array[:, :-1])
    return combine(array[:, :, 1:], array[:, :, :-1])


def _vote(corners: _Corners, template_voxel_from_voxel: Matrix, home: Grid) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Labels and confidence of all of home, computed where the template is more than sure background."""
    labels = np.zeros(home.shape, dtype=corners.labels.dtype)
    confidence = np.ones(home.shape, dtype=np.float32)
    rows = template_voxel_from_voxel[:3]
    for slab in _slabs(corners.box(), template_voxel_from_voxel, home):
        shape = labels[slab].shape
        steps = np.ogrid[slab]
        places = [(x * steps[0] + y * steps[1] + z * steps[2] + t).ravel() for x, y, z, t in rows]
        found, sure = corners.at(places)
        labels[slab], confidence[slab] = found.reshape(shape), sure.reshape(shape)
    return labels, confidence


def _slabs(
    box: tuple[NDArray[np.int64], NDArray[np.int64]] | None, template_voxel_from_voxel: Matrix, home: Grid
) -> Iterator[tuple[slice, slice, slice]]:
    """Boxes of home, thin along x, that together hold every voxel inside the box of template voxels."""
    if box is None:
        return
    voxel_from_template_voxel: Matrix = np.asarray(np.linalg.inv(template_voxel_from_voxel), dtype=np.float64)
    ends = [[box[side][axis] for axis, side in enumerate(corner)] for corner in _CORNERS]
    reached = transform_points(voxel_from_template_voxel, ends)
    first = np.clip(np.floor(reached.min(axis=0)), 0, home.shape).astype(int)
    stop = np.clip(np.ceil(reached.max(axis=0)) + 1, 0, home.shape).astype(int)
    if (stop <= first).any():
        return
    thickness = max(1, _SLAB_VOXELS // int(np.prod(stop[1:] - first[1:])))
    for x in range(first[0], stop[0], thickness):
        yield slice(x, min(x + thickness, stop[0])), slice(first[1], stop[1]), slice(first[2], stop[2])
