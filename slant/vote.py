"""Majority vote among the tiles that cover a voxel, counted as the tiles arrive.

The borders of all tiles divide the grid into *cells*: boxes in which every voxel is covered by the same tiles. Two
tiles along one axis make three cells::

    tile 0   |--------------------|
    tile 1              |--------------------|
    cells    |    0     |   0, 1  |    1     |

A cell stores one byte per voxel and vote until the last of its tiles has arrived, or three if the tiles divide their
ballots between two channels. Then the most frequent channels are computed and the votes are deleted. Memory therefore
depends on how many tiles overlap, not on how many tiles there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from slant.errors import LayoutError
from slant.sparse_votes import KEPT, MOST_VOTES, SparseVotes, most_frequent
from slant.tiles import Tile, TileLayout

Channels = NDArray[np.uint8]


class VoteCounter:
    """Fuses the label maps of tiles by majority vote (Huo et al. 2018), one tile at a time, each in its core only.

    `aggregate` adds a tile, `finalize` returns the result. The result does not depend on the order of the tiles.

    A tile with a single ballot votes for one channel at each voxel; a tile with more divides them between two.

    Parameters
    ----------
    layout : TileLayout
        The tiles, in voxels of the grid on which they vote.
    voxel_mm : int
        Edge length of a voxel of that grid in template voxels (1 mm); only noted in the sparse votes.
    ballots : int
        Number of ballots of each view of a tile for each voxel.
    views : int
        How often each tile votes, for example for the scan and for its mirror image.

    Raises
    ------
    LayoutError
        If there are more than 255 votes for the same voxel.

    Examples
    --------
    >>> layout = TileLayout((4, 1, 1), (3, 1, 1), (2, 1, 1))
    >>> counter = VoteCounter(layout)
    >>> for tile, channel in zip(layout, (7, 5)):
    ...     counter.aggregate(np.full(layout.size, channel, np.uint8), tile)
    >>> counter.finalize().winners.ravel().tolist()
    [7, 5, 5, 5]
    """

    def __init__(self, layout: TileLayout, voxel_mm: int = 1, *, ballots: int = 1, views: int = 1) -> None:
        self._layout = layout
        self._voxel_mm = voxel_mm
        self._ballots = ballots
        self._maps = views * ballot_maps(ballots)
        self._pending: dict[str, Tile] = {tile.name: tile for tile in layout}
        self._known = frozenset(self._pending.values())
        self._cells = _cells(layout, ballots * views)
        self._votes: dict[_Cell, list[Channels]] = {}
        self._channels: Channels = np.zeros((*layout.shape, KEPT), dtype=np.uint8)
        self._counts: NDArray[np.uint8] = np.zeros((*layout.shape, KEPT), dtype=np.uint8)
        self._totals: NDArray[np.uint8] = np.zeros(layout.shape, dtype=np.uint8)

    def aggregate(self, channels: Channels, tile: Tile) -> None:
        """Count the votes of one tile.

        Parameters
        ----------
        channels : (M, X, Y, Z) uint8 array
            Ballots for every voxel of the tile, of the layout's tile size. For each view, the map of channels or, of
            several ballots, the three maps of `ballot_maps`. A single map may be (X, Y, Z). They are copied, so the
            caller may overwrite them afterwards.

        Raises
        ------
        LayoutError
            If the tile is not part of the layout or was added before, or if the array has another shape or dtype.
        """
        if tile not in self._known:
            raise LayoutError(f"tile {tile.name} from {tile.start} to {tile.stop} is not a tile of {self._layout}")
        if tile.name not in self._pending:
            raise LayoutError(f"tile {tile.name} was added twice; each tile votes once")
        shape = (self._maps, *self._layout.size)
        if self._maps == 1 and channels.shape == self._layout.size:
            channels = channels[None]
        if channels.shape != shape or channels.dtype != np.uint8:
            found = f"{channels.dtype} of shape {channels.shape}"
            raise LayoutError(f"tile {tile.name} must be uint8 of shape {shape}, found {found}")
        del self._pending[tile.name]
        for cell in self._cells[tile.name]:
            held = self._votes.setdefault(cell, [])
            held.extend(channels[:, *cell.within(tile)].copy())
            if len(held) == cell.votes // self._ballots * ballot_maps(self._ballots):
                self._count(cell, self._votes.pop(cell))

    def _count(self, cell: _Cell, votes: list[Channels]) -> None:
        """Store the most frequent channels of the voxels of a cell and their numbers of votes."""
        channels, counts = self._channels[cell.box], self._counts[cell.box]
        step = ballot_maps(self._ballots)
        first, second, part = (votes[i::step] for i in range(3)) if step > 1 else (votes, [], [])
        channels[..., 0] = first[0]
        counts[..., 0] = cell.votes
        self._totals[cell.box] = cell.votes
        disputed = np.zeros(votes[0].shape, dtype=np.bool_)
        for other in first[1:]:
            disputed |= other != first[0]
        for divided in part:
            disputed |= divided != 0
        if disputed.any():
            weights = None
            if part:
                of_second = np.stack([v[disputed] for v in part])
                weights = np.concatenate([np.uint8(self._ballots) - of_second, of_second])
            voted = np.stack([v[disputed] for v in (*first, *second)])
            channels[disputed], counts[disputed] = most_frequent(voted, KEPT, weights)

    def finalize(self) -> SparseVotes:
        """Return the result as read-only arrays, after every tile has voted.

        Raises
        ------
        LayoutError
            If tiles are missing; the message names them.
        """
        if self._pending:
            raise LayoutError(
                f"{len(self._pending)} of {len(self._layout)} tiles have not voted: {', '.join(self._pending)}; "
                "add all tiles before the result is computed"
            )
        for result in (self._channels, self._counts, self._totals):
            result.flags.writeable = False
        return SparseVotes(self._channels, self._counts, self._totals, self._voxel_mm)


@dataclass(frozen=True)
class _Cell:
    """A box of voxels (first, and one past the last, along each axis) and the number of votes for each of them."""

    start: tuple[int, ...]
    stop: tuple[int, ...]
    votes: int

    @property
    def box(self) -> tuple[slice, ...]:
        return tuple(map(slice, self.start, self.stop))

    def within(self, tile: Tile) -> tuple[slice, ...]:
        """Slices of the cell in the array of the tile."""
        return tuple(slice(a - s, b - s) for a, b, s in zip(self.start, self.stop, tile.start, strict=True))


def ballot_maps(ballots: int) -> int:
    """Number of (X, Y, Z) uint8 maps that hold the ballots of one view of a tile.

    One for a single ballot, its channel. Three for several: the first channel, the second channel, and the number of
    ballots of the second; the first has the rest.
    """
    return 1 if ballots == 1 else 3


def most_ballots(layout: TileLayout, views: int = 1) -> int:
    """Largest number of ballots of each view of a tile that can be counted, at least one."""
    return max(1, MOST_VOTES // (most_voters(layout) * views))


def most_voters(layout: TileLayout) -> int:
    """Largest number of tiles that vote for one voxel."""
    return max(cell.votes for cells in _cells(layout, 1).values() for cell in cells)


def _cells(layout: TileLayout, ballots: int) -> dict[str, list[_Cell]]:
    """The cells in which each tile votes, by the name of the tile."""
    tiles = layout.tiles
    borders = [sorted({edge for t in tiles for edge in (t.core_start[a], t.core_stop[a])}) for a in range(3)]
    cells: dict[str, list[_Cell]] = {tile.name: [] for tile in tiles}
    for spans in product(*map(pairwise, borders)):
        start, stop = zip(*spans, strict=True)
        voters = [
            tile.name
            for tile in tiles
            if all(a <= b for a, b in zip(tile.core_start, start, strict=True))
            and all(a >= b for a, b in zip(tile.core_stop, stop, strict=True))
        ]
        votes = len(voters) * ballots
        if votes > MOST_VOTES:
            raise LayoutError(
                f"{votes} votes for voxel {start} of {layout}, expected at most {MOST_VOTES}; use fewer or smaller "
                "tiles"
            )
        cell = _Cell(start, stop, votes)
        for name in voters:
            cells[name].append(cell)
    return cells
