"""The most frequent label among the tiles that cover a voxel, counted as the tiles come.

The borders of all tiles cut the grid into *cells*, boxes in which every voxel is covered by the same tiles. Two tiles
along one axis make three cells::

    tile 0   |--------------------|
    tile 1              |--------------------|
    cells    |    0     |   0, 1  |    1     |

A cell keeps one byte per voxel and vote until the last of its tiles has come; then it is decided and its votes are
dropped, so what is held at a time follows from how many tiles overlap, not from how many there are.
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
    """The outcome of a vote over a whole grid.

    Attributes
    ----------
    channels : (X, Y, Z) uint8 array
        Most frequent channel of each voxel; the lowest one where several are equally frequent.
    share : (X, Y, Z) float32 array
        Votes for the winner divided by votes cast, above 0 and at most 1.
    """

    channels: Channels
    share: NDArray[np.float32]


class VoteCounter:
    """Collects the label maps of tiles, in any order, and decides each voxel as soon as it can.

    The one place in the package that holds votes: `aggregate` takes one tile at a time, `finalize` gives the result,
    which does not depend on the order in which the tiles came (Huo et al. 2018, majority vote).

    Parameters
    ----------
    layout : TileLayout
        A tile votes in its trusted part only.

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
        self._awaited: dict[str, Tile] = {tile.name: tile for tile in layout}
        self._known = frozenset(self._awaited.values())
        self._cells = _cells(layout)
        self._votes: dict[_Cell, list[Channels]] = {}
        self._channels: Channels = np.zeros(layout.shape, dtype=np.uint8)
        self._share: NDArray[np.float32] = np.zeros(layout.shape, dtype=np.float32)

    @property
    def held_bytes(self) -> int:
        """Bytes of votes that wait for further tiles."""
        return sum(votes.nbytes for held in self._votes.values() for votes in held)

    def aggregate(self, channels: Channels, tile: Tile) -> None:
        """Count the votes of one tile.

        Parameters
        ----------
        channels : array of the layout's tile size, uint8
            Channel number of every voxel of the tile, axes x, y, z; may be overwritten afterwards.
        tile : Tile
            Where the array lies; one of the layout's.

        Raises
        ------
        LayoutError
            If the tile is not the layout's or has voted before, or the array has another shape or type.
        """
        if tile not in self._known:
            raise LayoutError(f"tile {tile.name} from {tile.start} to {tile.stop} is not a tile of {self._layout}")
        if tile.name not in self._awaited:
            raise LayoutError(f"tile {tile.name} was given twice; each tile votes once")
        if channels.shape != self._layout.size or channels.dtype != np.uint8:
            raise LayoutError(
                f"tile {tile.name} must be uint8 of shape {self._layout.size}, "
                f"found {channels.dtype} of shape {channels.shape}"
            )
        del self._awaited[tile.name]
        for cell in self._cells[tile.name]:
            held = self._votes.setdefault(cell, [])
            held.append(channels[cell.within(tile)].copy())
            if len(held) == cell.voters:
                self._channels[cell.box], self._share[cell.box] = _decide(self._votes.pop(cell))

    def finalize(self) -> Vote:
        """The result once every tile has voted, as read-only arrays.

        Raises
        ------
        LayoutError
            If tiles are missing; they are named.
        """
        if self._awaited:
            raise LayoutError(
                f"{len(self._awaited)} of {len(self._layout)} tiles have not voted: {', '.join(self._awaited)}; "
                "a vote needs all of them"
            )
        for result in (self._channels, self._share):
            result.flags.writeable = False
        return Vote(self._channels, self._share)


@dataclass(frozen=True)
class _Cell:
    """A box of voxels (first, one past the last along each axis) and the number of tiles that vote in it."""

    start: tuple[int, ...]
    stop: tuple[int, ...]
    voters: int

    @property
    def box(self) -> tuple[slice, ...]:
        return tuple(map(slice, self.start, self.stop))

    def within(self, tile: Tile) -> tuple[slice, ...]:
        """Slices of the cell in the tile's own array."""
        return tuple(slice(a - s, b - s) for a, b, s in zip(self.start, self.stop, tile.start, strict=True))


def _cells(layout: TileLayout) -> dict[str, list[_Cell]]:
    """The cells of the layout that each tile votes in, by the tile's name."""
    tiles = layout.tiles
    borders = [sorted({edge for t in tiles for edge in (t.trusted_start[a], t.trusted_stop[a])}) for a in range(3)]
    found: dict[str, list[_Cell]] = {tile.name: [] for tile in tiles}
    for spans in product(*map(pairwise, borders)):
        start, stop = zip(*spans, strict=True)
        voters = [
            tile.name
            for tile in tiles
            if all(a <= b for a, b in zip(tile.trusted_start, start, strict=True))
            and all(a >= b for a, b in zip(tile.trusted_stop, stop, strict=True))
        ]
        cell = _Cell(start, stop, len(voters))
        for name in voters:
            found[name].append(cell)
    return found


def _decide(votes: list[Channels]) -> tuple[Channels, NDArray[np.float32]]:
    """Winner of each voxel of a cell, ties to the lowest channel, with its share of the votes."""
    winner = votes[0].copy()
    share = np.ones(winner.shape, dtype=np.float32)
    disputed = np.zeros(winner.shape, dtype=np.bool_)
    for other in votes[1:]:
        disputed |= other != winner
    if disputed.any():
        channel, count = _most_frequent(np.stack([v[disputed] for v in votes]))
        winner[disputed] = channel
        share[disputed] = count / np.float32(len(votes))
    return winner, share


def _most_frequent(votes: Channels) -> tuple[Channels, NDArray[np.uint16]]:
    """(N,) most frequent value of each column of (votes, N), the lowest of equals, with its number of votes."""
    votes = np.sort(votes, axis=0)
    best, run = votes[0].copy(), np.ones(votes.shape[1], dtype=np.uint16)
    count = run.copy()
    for previous, current in pairwise(votes):
        run = np.where(current == previous, run + np.uint16(1), np.uint16(1))
        longer = run > count
        best[longer] = current[longer]
        count[longer] = run[longer]
    return best, count
