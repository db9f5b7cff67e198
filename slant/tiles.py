"""Layouts of overlapping tiles that cover a grid, computed from nine integers.

Along one axis of 172 voxels, three tiles of 96 start at ``round(linspace(0, 172 - 96, 3))``::

    0        38        76        96       134       172
    |--------- tile 0 ---------|
             |--------- tile 1 ---------|
                      |--------- tile 2 ---------|

With three tiles along each axis, this is SLANT-27 (Huo et al. 2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, Literal

import numpy as np

from slant.errors import LayoutError
from slant.grid import Shape

Overlap = Literal["vote", "core"]


@dataclass(frozen=True)
class Tile:
    """One tile of a layout.

    Attributes
    ----------
    name : str
        One-based position along x, y, z, as in the files of the original SLANT: ``1_1_1`` is the first along every
        axis (left, posterior, inferior in RAS+).
    start, stop : tuple of 3 int
        First voxel of the box that the network sees, and one past its last voxel.
    core_start, core_stop : tuple of 3 int
        The same for the core: the part of the box whose labels count in the vote.
    """

    name: str
    start: Shape
    stop: Shape
    core_start: Shape
    core_stop: Shape

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Slices of the tile in an array on the grid."""
        x, y, z = map(slice, self.start, self.stop)
        return x, y, z

    @property
    def core_within(self) -> tuple[slice, slice, slice]:
        """Slices of the core in the array of the tile."""
        x, y, z = self.start
        (a, b, c), (d, e, f) = self.core_start, self.core_stop
        return slice(a - x, d - x), slice(b - y, e - y), slice(c - z, f - z)


@dataclass(frozen=True)
class TileLayout:
    """Evenly spaced tiles, flush with both faces of the grid along each axis.

    Parameters
    ----------
    shape, size, counts : tuple of 3 int
        Shape in voxels of the template grid and of a tile, and number of tiles along each axis.
    overlap : {"vote", "core"}
        ``vote``: every tile votes in its whole box (SLANT-27). ``core``: overlaps are cut in the middle, so that every
        voxel belongs to the core of exactly one tile (SLANT-8: 86 x 110 x 78 core voxels of 96 x 128 x 88).
    vote_margin : int, optional
        With ``vote``: width in voxels of the border of a tile where it does not vote, because its context is incomplete
        there. There is no such border at the faces of the grid. The original SLANT has 0.

    Raises
    ------
    LayoutError
        If a tile is larger than the grid, or if the tiles do not cover every voxel.
    """

    shape: Shape
    size: Shape
    counts: Shape
    overlap: Overlap = "vote"
    vote_margin: int = 0

    def __post_init__(self) -> None:
        for field in ("shape", "size", "counts"):
            value = getattr(self, field)
            is_triple = isinstance(value, tuple | list) and len(value) == 3
            if not is_triple or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in value):
                raise LayoutError(f"layout.{field} must be three positive integers, found {value!r}")
            object.__setattr__(self, field, tuple(value))
        if self.overlap not in ("vote", "core"):
            raise LayoutError(f"layout.overlap must be 'vote' or 'core', found {self.overlap!r}")
        m = self.vote_margin
        if isinstance(m, bool) or not isinstance(m, int) or m < 0 or (m and self.overlap != "vote"):
            raise LayoutError(f"layout.vote_margin must be a non-negative integer, and 0 with 'core', found {m!r}")
        if 2 * m >= min(self.size):
            raise LayoutError(
                f"layout.vote_margin {m} leaves nothing of tiles of {self.size} voxels; use a smaller margin"
            )
        for axis, (shape, size, count) in enumerate(zip(self.shape, self.size, self.counts, strict=True)):
            if size > shape:
                raise LayoutError(f"tiles of {size} voxels do not fit the grid's {shape} along {'xyz'[axis]}")
            starts = _starts(shape, size, count)
            gaps = [(a + size - m, b + m) for a, b in pairwise(starts) if b + m > a + size - m]
            if gaps or starts[-1] + size < shape:
                first, last = gaps[0] if gaps else (starts[-1] + size, shape)
                raise LayoutError(
                    f"{count} tiles of {size} voxels leave voxels {first} to {last - 1} of {shape} along "
                    f"{'xyz'[axis]} in no tile; use larger tiles or at least {-(-shape // size)} of them"
                )

    def __len__(self) -> int:
        return int(np.prod(self.counts))

    def __iter__(self) -> Iterator[Tile]:
        return iter(self.tiles)

    def mirror_of(self, tile: Tile) -> Tile | None:
        """The tile at the mirrored position along x; None if the layout has none there."""
        start = (self.shape[0] - tile.stop[0], *tile.start[1:])
        return next((other for other in self if other.start == start), None)

    @property
    def plain(self) -> dict[str, Any]:
        """The fields as plain values for a manifest; ``vote_margin`` only if it is not 0."""
        kept = {name: value for name, value in vars(self).items() if name != "vote_margin" or value}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """All tiles, with the last axis varying fastest."""
        axes = [
            _axis(shape, size, count, self.overlap, self.vote_margin)
            for shape, size, count in zip(self.shape, self.size, self.counts, strict=True)
        ]
        tiles = []
        for index in product(*(range(n) for n in self.counts)):
            spans = [axes[axis][i] for axis, i in enumerate(index)]
            start, stop, core_start, core_stop = (tuple(s[field] for s in spans) for field in range(4))
            name = "_".join(str(i + 1) for i in index)
            tiles.append(Tile(name, start, stop, core_start, core_stop))  # type: ignore[arg-type]
        return tuple(tiles)


def _starts(shape: int, size: int, count: int) -> list[int]:
    """First voxel of each tile along one axis; halves round up."""
    return [int(np.floor(s + 0.5)) for s in np.linspace(0, shape - size, count)]


def _axis(shape: int, size: int, count: int, overlap: Overlap, margin: int) -> list[tuple[int, int, int, int]]:
    """Start, stop, core start and core stop of each tile along one axis."""
    starts = _starts(shape, size, count)
    if overlap == "vote":
        cores = [(s if s == 0 else s + margin, s + size if s + size == shape else s + size - margin) for s in starts]
        return [(s, s + size, *core) for s, core in zip(starts, cores, strict=True)]
    cuts = [0, *((a + size + b) // 2 for a, b in pairwise(starts)), shape]
    return [(s, s + size, cuts[i], cuts[i + 1]) for i, s in enumerate(starts)]
