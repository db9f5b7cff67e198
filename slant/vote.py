"""Majority vote among the tiles that cover a voxel, counted as the tiles arrive.

The borders of all tiles divide the grid into *cells*: boxes in which every voxel is covered by the same tiles. Two
tiles along one axis make three cells::

    tile 0   |--------------------|
    tile 1              |--------------------|
    cells    |    0     |   0, 1  |    1     |

A cell stores one byte per voxel and vote until the last of its tiles has arrived. Then the winner is computed and the
votes are deleted. Memory therefore depends on how many tiles overlap, not on how many tiles there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from slant.errors import LayoutError
from slant.tiles import Tile, TileLayout

Channels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Vote:
    """Result of a vote over a whole grid.

    Attributes
    ----------
    channels : (X, Y, Z) uint8 array
        Most frequent channel of each voxel; ties go to the lowest channel.
    fraction : (X, Y, Z) float32 array
        Votes for the winner divided by all votes of the voxel, above 0 and at most 1.
    """

    channels: Channels
    fraction: NDArray[np.float32]


class VoteCounter:
    """Fuses the label maps of tiles by majority vote (Huo et al. 2018), one tile at a time, each in its core only.

    `aggregate` adds a tile, `finalize` returns the result. The result does not depend on the order of the tiles.

    Examples
    --------
    >>> layout = TileLayout((4, 1, 1), (3, 1, 1), (2, 1, 1))
    >>> counter = VoteCounter(layout)
    >>> for tile, channel in zip(layout, (7, 5)):
    ...     counter.aggregate(np.full(layout.size, channel, np.uint8), tile)
    >>> counter.finalize().channels.ravel().tolist()
    [7, 5, 5, 5]
    """

    def __init__(self, layout: TileLayout) -> None:
        self._layout = layout
        self._pending: dict[str, Tile] = {tile.name: tile for tile in layout}
        self._known = frozenset(self._pending.values())
        self._cells = _cells(layout)
        self._votes: dict[_Cell, list[Channels]] = {}
        self._channels: Channels = np.zeros(layout.shape, dtype=np.uint8)
        self._fraction: NDArray[np.float32] = np.zeros(layout.shape, dtype=np.float32)

    def aggregate(self, channels: Channels, tile: Tile) -> None:
        """Count the votes of one tile.

        Parameters
        ----------
        channels : array of the layout's tile size, uint8
            Channel of every voxel of the tile, axes x, y, z. It is copied, so the caller may overwrite it afterwards.

        Raises
        ------
        LayoutError
            If the tile is not part of the layout or was added before, or if the array has another shape or dtype.
        """
        if tile not in self._known:
            raise LayoutError(f"tile {tile.name} from {tile.start} to {tile.stop} is not a tile of {self._layout}")
        if tile.name not in self._pending:
            raise LayoutError(f"tile {tile.name} was added twice; each tile votes once")
        if channels.shape != self._layout.size or channels.dtype != np.uint8:
            found = f"{channels.dtype} of shape {channels.shape}"
            raise LayoutError(f"tile {tile.name} must be uint8 of shape {self._layout.size}, found {found}")
        del self._pending[tile.name]
        for cell in self._cells[tile.name]:
            held = self._votes.setdefault(cell, [])
            held.append(channels[cell.within(tile)].copy())
            if len(held) == cell.voters:
                self._channels[cell.box], self._fraction[cell.box] = _decide(self._votes.pop(cell))

    def finalize(self) -> Vote:
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
        for result in (self._channels, self._fraction):
            result.flags.writeable = False
        return Vote(self._channels, self._fraction)


@dataclass(frozen=True)
class _Cell:
    """A box of voxels (first, and one past the last, along each axis) and the number of tiles that vote in it."""

    start: tuple[int, ...]
    stop: tuple[int, ...]
    voters: int

    @property
    def box(self) -> tuple[slice, ...]:
        return tuple(map(slice, self.start, self.stop))

    def within(self, tile: Tile) -> tuple[slice, ...]:
        """Slices of the cell in the array of the tile."""
        return tuple(slice(a - s, b - s) for a, b, s in zip(self.start, self.stop, tile.start, strict=True))


def _cells(layout: TileLayout) -> dict[str, list[_Cell]]:
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
        cell = _Cell(start, stop, len(voters))
        for name in voters:
            cells[name].append(cell)
    return cells


def _decide(votes: list[Channels]) -> tuple[Channels, NDArray[np.float32]]:
    """Winner of each voxel of a cell, ties to the lowest channel, and its fraction of the votes."""
    winner = votes[0].copy()
    fraction = np.ones(winner.shape, dtype=np.float32)
    disputed = np.zeros(winner.shape, dtype=np.bool_)
    for other in votes[1:]:
        disputed |= other != winner
    if disputed.any():
        channel, count = _most_frequent(np.stack([v[disputed] for v in votes]))
        winner[disputed] = channel
        fraction[disputed] = count / np.float32(len(votes))
    return winner, fraction


def _most_frequent(votes: Channels) -> tuple[Channels, NDArray[np.uint16]]:
    """(N,) most frequent value of each column of (votes, N), ties to the lowest, and its (N,) number of votes."""
    votes = np.sort(votes, axis=0)
    winner, run = votes[0].copy(), np.ones(votes.shape[1], dtype=np.uint16)
    count = run.copy()
    for previous, current in pairwise(votes):
        run = np.where(current == previous, run + np.uint16(1), np.uint16(1))
        longer = run > count
        winner[longer] = current[longer]
        count[longer] = run[longer]
    return winner, count
