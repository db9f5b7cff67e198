"""Labels in native space from the votes in template space, interpolated channel by channel.

At a point between voxels, the part of each channel is interpolated trilinearly between the eight voxels around it; the
channel with the largest part wins. To interpolate the labels that won in each voxel would lose what the votes say about
the others: a voxel that one region has won by 51 of 100 votes would count as much as one by 100.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slant.errors import GeometryError, SettingsError
from slant.grid import Grid, Matrix
from slant.resample import (
    ROUNDING,
    Box,
    Interpolation,
    box_of,
    cells_of,
    corners_of,
    over_corners,
    pick_values,
    slabs_in,
    voxel_map,
)
from slant.sparse_votes import KEPT, SparseVotes

BLOCK = 4096
"""Number of points whose parts are added up at once."""


def resample_votes(
    votes: SparseVotes,
    template_grid: Grid,
    native_grid: Grid,
    template_from_native: Matrix,
    interpolation: Interpolation = "multilabel",
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Decide the channel of each voxel of a scan by votes in template space.

    With ``multilabel``, the fractions of the votes for each channel are interpolated trilinearly. The channel with the
    largest fraction wins; ties go to the lowest channel. With ``nearest``, the result is that of the nearest template
    voxel. Outside the template everything is background (0) with fraction 1.

    Parameters
    ----------
    votes : SparseVotes
        Votes on the template grid, voxels of 1 mm.
    template_from_native : (4, 4) float64 array
        Affine from RAS mm in native space to RAS mm in template space.
    interpolation : {"multilabel", "nearest"}

    Returns
    -------
    channels : (X, Y, Z) uint8 array
        On ``native_grid``; exactly `SparseVotes.winners` where the voxels coincide.
    fraction : (X, Y, Z) float32 array
        Interpolated fraction of the votes for this channel, 0 to 1.

    Raises
    ------
    GeometryError
        If the votes are not on the template grid.
    SettingsError
        If the interpolation is unknown.
    """
    if tuple(votes.shape) != tuple(template_grid.shape) or votes.voxel_mm != 1:
        raise GeometryError(
            f"votes on {votes.shape} voxels of {votes.voxel_mm} mm are not on the template grid of "
            f"{template_grid.shape} voxels of 1 mm"
        )
    if interpolation == "nearest":
        channels = pick_values(votes.winners, template_grid, native_grid, template_from_native, outside=0)
        return channels, pick_values(votes.fraction, template_grid, native_grid, template_from_native, outside=1)
    if interpolation != "multilabel":
        raise SettingsError(f"interpolation must be 'multilabel' or 'nearest', found {interpolation!r}")
    corners, matrix = _Corners.of(votes), voxel_map(template_grid, template_from_native, native_grid)
    channels = np.zeros(native_grid.shape, dtype=np.uint8)
    fraction = np.ones(native_grid.shape, dtype=np.float32)
    for slab, coordinates in slabs_in(corners.box, matrix, native_grid):
        shape = channels[slab].shape
        found, parts = corners.at(coordinates)
        channels[slab], fraction[slab] = found.reshape(shape), parts.reshape(shape)
    return channels, fraction


@dataclass(frozen=True, eq=False)
class _Corners:
    """Votes padded by one voxel of background, and the cells between the voxels."""

    # Cell (i, j, k) lies between padded voxel (i, j, k) and the next one along every axis. It is open if not all votes
    # of all its corners are for one channel. In all other cells the result is this channel with fraction 1.
    votes: SparseVotes
    is_open: NDArray[np.bool_]
    box: Box | None

    @classmethod
    def of(cls, votes: SparseVotes) -> _Corners:
        beside = [(1, 1)] * 3
        channels, counts = (np.pad(array, [*beside, (0, 0)]) for array in (votes.channels, votes.counts))
        totals = np.pad(votes.totals, 1, constant_values=1)
        for axis in range(3):
            for side in (0, -1):
                counts[(*[slice(None)] * axis, side, ..., 0)] = 1
        winners = channels[..., 0]
        is_open = np.zeros(totals.shape, dtype=np.bool_)
        same = over_corners(winners, np.minimum) == over_corners(winners, np.maximum)
        is_open[:-1, :-1, :-1] = ~(same & over_corners(counts[..., 0] == totals, np.logical_and))
        return cls(SparseVotes(channels, counts, totals), is_open, box_of(is_open | (winners != 0)))

    def at(self, coordinates: list[NDArray[np.float64]]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Winning channel and its fraction at (N,) template voxel coordinates along x, y, z."""
        cells = cells_of(coordinates, self.votes.shape)
        channels = self.votes.winners.ravel()[cells]
        fraction = np.ones(cells.shape, dtype=np.float32)
        disputed = np.flatnonzero(self.is_open.ravel()[cells])
        corners, weights = corners_of(cells[disputed], [p[disputed] for p in coordinates], self.votes.shape)
        channel_count = 1 + int(self.votes.channels.max())
        for start in range(0, len(disputed), BLOCK):
            block = slice(start, start + BLOCK)
            points = disputed[block]
            table = self._parts(corners[:, block], weights[:, block], channel_count)
            largest = table.max(axis=1)
            channels[points] = (table >= largest[:, None] - ROUNDING).argmax(axis=1)
            fraction[points] = np.minimum(largest, 1)
        return channels, fraction

    def _parts(
        self, corners: NDArray[np.intp], weights: NDArray[np.float64], channel_count: int
    ) -> NDArray[np.float64]:
        """Interpolated fraction (N, C) of each channel at N points with (8, N) corners and weights."""
        count = corners.shape[1]
        per_vote = weights / self.votes.totals.ravel()[corners]
        parts = per_vote[..., None] * self.votes.counts.reshape(-1, KEPT)[corners]
        cells = channel_count * np.arange(count)[:, None] + self.votes.channels.reshape(-1, KEPT)[corners]
        table = np.bincount(cells.ravel(), parts.ravel(), minlength=count * channel_count)
        return np.asarray(table.reshape(count, channel_count), dtype=np.float64)
