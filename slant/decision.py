"""Majority decision of several assemblies, on the template grid.

The votes of an assembly with larger voxels are interpolated to the template grid: their counts trilinearly between the
centers of the voxels, and from the nearest voxel beyond the outermost centers. With voxels of 2 mm, along one axis::

    coarse voxels       |     0     |     1     |     2     |
    template voxels     |  0  |  1  |  2  |  3  |  4  |  5  |
    weight of voxel 1      0    1/4   3/4   3/4   1/4    0

The weights are used as whole numbers, so that all sums are exact, and so are ties. In most voxels all votes are for the
same channel; only the others, the disputed ones, need sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from math import lcm

import numpy as np
from numpy.typing import NDArray

from slant.errors import LayoutError
from slant.grid import Shape
from slant.sparse_votes import KEPT, MOST_VOTES, SparseVotes
from slant.vote import Channels

SLAB = 16
"""Number of planes of the template grid that are decided at once."""

BLOCK = 4096
"""Number of disputed voxels whose votes are added up at once."""

_DISPUTED = -1


def decide(votes: Sequence[SparseVotes], shape: Shape) -> SparseVotes:
    """Decide by the majority of the votes of all tiles of several assemblies.

    Parameters
    ----------
    votes : sequence of SparseVotes
        Votes of each assembly; the grids divide the template's into blocks of ``voxel_mm`` voxels.
    shape : tuple of 3 int
        Shape of the template grid.

    Returns
    -------
    SparseVotes
        The channels with the largest sums of counts of each template voxel. The counts are their parts of the sum of
        all votes, in 255ths, rounded down: 255 only where all votes agree. Ties go to the lowest channel. Read-only.

    Raises
    ------
    LayoutError
        If there are no votes, or a grid does not fit the template's.
    """
    if not votes:
        raise LayoutError("found no assembly that votes, expected at least one")
    for own in votes:
        if tuple(n * own.voxel_mm for n in own.shape) != tuple(shape):
            raise LayoutError(
                f"votes on {own.shape} voxels of {own.voxel_mm} mm do not fit the template of {tuple(shape)} voxels of "
                "1 mm; expected grids that cover the same box"
            )
    unit = 2 * lcm(*(own.voxel_mm for own in votes))
    assemblies = [_Upsampled.of(own, unit) for own in votes]
    channel_count = 1 + max(int(own.channels.max()) for own in votes)
    channels: Channels = np.zeros((*shape, KEPT), dtype=np.uint8)
    counts: NDArray[np.uint8] = np.zeros((*shape, KEPT), dtype=np.uint8)
    counts[..., 0] = MOST_VOTES
    for start in range(0, shape[0], SLAB):
        planes = slice(start, min(start + SLAB, shape[0]))
        agreed = reduce(_agreement, (own.unanimous(planes) for own in assemblies))
        channels[planes, ..., 0] = agreed
        x, y, z = np.nonzero(agreed == _DISPUTED)
        x += start
        for first in range(0, len(x), BLOCK):
            at = tuple(axis[first : first + BLOCK] for axis in (x, y, z))
            channels[at], counts[at] = _largest_sums(assemblies, at, channel_count)
    result = SparseVotes(channels, counts, np.full(shape, MOST_VOTES, dtype=np.uint8))
    for array in (result.channels, result.counts, result.totals):
        array.flags.writeable = False
    return result


@dataclass(frozen=True, eq=False)
class _Upsampled:
    """Votes of an assembly with, for each axis, the neighbours (T, X) of the template voxels and their weights (T, X).

    T is 1 for voxels of 1 mm, else 2. The weights are whole numbers with the same sum everywhere.
    """

    votes: SparseVotes
    neighbours: tuple[NDArray[np.intp], ...]
    weights: tuple[NDArray[np.int64], ...]

    @classmethod
    def of(cls, votes: SparseVotes, unit: int) -> _Upsampled:
        axes = [_neighbours(count, votes.voxel_mm, unit) for count in votes.shape]
        neighbours, weights = zip(*axes, strict=True)
        return cls(votes, neighbours, weights)

    def unanimous(self, planes: slice) -> NDArray[np.int16]:
        """Channel of the voxels of some planes where all votes of all neighbours agree, else `_DISPUTED`."""
        near = self.neighbours[0][:, planes]
        own = slice(near.min(), near.max() + 1)
        certain = self.votes.counts[own, ..., 0] == self.votes.totals[own]
        result = np.where(certain, self.votes.channels[own, ..., 0].astype(np.int16), np.int16(_DISPUTED))
        for axis, index in enumerate((near - own.start, *self.neighbours[1:])):
            if len(index) > 1:
                result = reduce(_agreement, (result.take(i, axis) for i in index))
        return result

    def at(self, voxels: tuple[NDArray[np.intp], ...]) -> list[tuple[NDArray[np.int64], tuple[NDArray[np.intp], ...]]]:
        """Weight (N,) and index (N,) along each axis of each neighbour of N template voxels."""
        corners = product(*(range(len(index)) for index in self.neighbours))
        return [
            (
                np.prod([w[t][v] for w, t, v in zip(self.weights, corner, voxels, strict=True)], axis=0),
                tuple(i[t][v] for i, t, v in zip(self.neighbours, corner, voxels, strict=True)),
            )
            for corner in corners
        ]


def _neighbours(count: int, voxel_mm: int, unit: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Neighbours of the template voxels along an axis of ``count`` voxels, with weights whose sum is ``unit``."""
    if voxel_mm == 1:
        return np.arange(count)[None], np.full((1, count), unit)
    # In halves of a mm, the center of template voxel j is at 2 j + 1, that of coarse voxel i at (2 i + 1) voxel_mm.
    lower, above = np.divmod(2 * np.arange(count * voxel_mm) + 1 - voxel_mm, 2 * voxel_mm)
    upper_weight = above * (unit // (2 * voxel_mm))
    return np.clip([lower, lower + 1], 0, count - 1), np.stack([unit - upper_weight, upper_weight])


def _agreement(one: NDArray[np.int16], other: NDArray[np.int16]) -> NDArray[np.int16]:
    """The channels of both where they are equal, else `_DISPUTED`."""
    return np.where(one == other, one, np.int16(_DISPUTED))


def _largest_sums(
    assemblies: Sequence[_Upsampled], voxels: tuple[NDArray[np.intp], ...], channel_count: int
) -> tuple[Channels, NDArray[np.uint8]]:
    """Channels (N, K) with the largest sums of votes for each of N template voxels, and their 255ths of all votes."""
    count = len(voxels[0])
    totals = np.zeros(count, dtype=np.int64)
    cells, sums = [], []
    first_cell = np.arange(count)[:, None] * channel_count
    for own in assemblies:
        for weight, index in own.at(voxels):
            totals += weight * own.votes.totals[index]
            counts = own.votes.counts[index]
            found = counts > 0
            cells.append((first_cell + own.votes.channels[index])[found])
            sums.append((weight[:, None] * counts)[found])
    # float64 sums of whole numbers are exact
    table = np.bincount(np.concatenate(cells), np.concatenate(sums), minlength=count * channel_count)
    table = MOST_VOTES * table.reshape(count, channel_count) // totals[:, None]
    channels, parts = np.zeros((count, KEPT), dtype=np.uint8), np.zeros((count, KEPT), dtype=np.uint8)
    rows = np.arange(count)
    for k in range(min(KEPT, channel_count)):
        best = table.argmax(axis=1)
        parts[:, k] = table[rows, best]
        channels[:, k] = np.where(parts[:, k] > 0, best, 0)
        table[rows, best] = 0
    return channels, parts
