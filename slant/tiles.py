"""Overlapping boxes that cover a grid, computed from nine integers.

Along one axis of 172 voxels, three tiles of 96 start at ``round(linspace(0, 172 - 96, 3))``::

    0        38        76        96       134       172
    |--------- tile 0 ---------|
             |--------- tile 1 ---------|
                      |--------- tile 2 ---------|

which is SLANT-27 (Huo et al. 2018) when it is done along all three axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, Literal

import numpy as np

from slant.errors import LayoutError
from slant.grid import Shape

Overlap = Literal["vote", "trim"]


@dataclass(frozen=True)
class Tile:
    """One box of a layout.

    Attributes
    ----------
    name : str
        One-based position along x, y, z, as in the original's files: ``1_1_1`` is the first along every axis
        (left, posterior, inferior in RAS+).
    start, stop : tuple of 3 int
        First voxel and one past the last of what the network sees.
    trusted_start, trusted_stop : tuple of 3 int
        The part of the box whose labels count in the vote.
    """

    name: str
    start: Shape
    stop: Shape
    trusted_start: Shape
    trusted_stop: Shape

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Slices of the box in the grid's array."""
        return _slices(self.start, self.stop)

    @property
    def trusted_box(self) -> tuple[slice, slice, slice]:
        """Slices of the trusted part in the grid's array."""
        return _slices(self.trusted_start, self.trusted_stop)

    @property
    def trusted_within(self) -> tuple[slice, slice, slice]:
        """Slices of the trusted part in the tile's own array."""
        x, y, z = self.start
        (a, b, c), (d, e, f) = self.trusted_start, self.trusted_stop
        return slice(a - x, d - x), slice(b - y, e - y), slice(c - z, f - z)


@dataclass(frozen=True)
class TileLayout:
    """Evenly spread tiles, flush with both faces of the grid.

    Parameters
    ----------
    shape : tuple of 3 int
        Voxels of the template grid.
    size : tuple of 3 int
        Voxels of one tile.
    counts : tuple of 3 int
        Tiles along each axis.
    overlap : {"vote", "trim"}
        ``vote``: every tile votes in its whole box (SLANT-27). ``trim``: overlaps are cut in the middle, so every
        voxel belongs to exactly one tile (SLANT-8: 86 x 110 x 78 trusted voxels of 96 x 128 x 88).
    margin : int, optional
        With ``vote``: voxels along each face of a tile where it does not vote, because it sees too little around them;
        none along the faces of the grid. The original has 0.

    Raises
    ------
    LayoutError
        If a tile is larger than the grid or a voxel would belong to no tile.
    """

    shape: Shape
    size: Shape
    counts: Shape
    overlap: Overlap = "vote"
    margin: int = 0

    def __post_init__(self) -> None:
        for field in ("shape", "size", "counts"):
            value = getattr(self, field)
            if (
                not isinstance(value, tuple | list)
                or len(value) != 3
                or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in value)
            ):
                raise LayoutError(f"layout.{field} must be three positive whole numbers, found {value!r}")
            object.__setattr__(self, field, tuple(value))
        if self.overlap not in ("vote", "trim"):
            raise LayoutError(f"layout.overlap must be 'vote' or 'trim', found {self.overlap!r}")
        m = self.margin
        if isinstance(m, bool) or not isinstance(m, int) or m < 0 or (m and self.overlap != "vote"):
            raise LayoutError(f"layout.margin must be a whole number from 0 on, and 0 with 'trim', found {m!r}")
        if 2 * m >= min(self.size):
            raise LayoutError(f"layout.margin {m} leaves nothing of tiles of {self.size} voxels; use a smaller one")
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

    @property
    def plain(self) -> dict[str, Any]:
        """The fields for a manifest; ``margin`` only where there is one."""
        return {name: value for name, value in vars(self).items() if name != "margin" or value}

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """Every tile, last axis fastest."""
        axes = [
            _axis(shape, size, count, self.overlap, self.margin)
            for shape, size, count in zip(self.shape, self.size, self.counts, strict=True)
        ]
        found = []
        for index in product(*(range(n) for n in self.counts)):
            spans = [axes[axis][i] for axis, i in enumerate(index)]
            start, stop, trusted_start, trusted_stop = (tuple(s[field] for s in spans) for field in range(4))
            name = "_".join(str(i + 1) for i in index)
            found.append(Tile(name, start, stop, trusted_start, trusted_stop))  # type: ignore[arg-type]
        return tuple(found)


def _starts(shape: int, size: int, count: int) -> list[int]:
    """First voxel of each tile along one axis; halves round up."""
    return [int(np.floor(s + 0.5)) for s in np.linspace(0, shape - size, count)]


def _axis(shape: int, size: int, count: int, overlap: Overlap, margin: int) -> list[tuple[int, int, int, int]]:
    """(start, stop, trusted start, trusted stop) of each tile along one axis."""
    starts = _starts(shape, size, count)
    if overlap == "vote":
        inner = [(s if s == 0 else s + margin, s + size if s + size == shape else s + size - margin) for s in starts]
        return [(s, s + size, *votes) for s, votes in zip(starts, inner, strict=True)]
    cuts = [0, *((a + size + b) // 2 for a, b in pairwise(starts)), shape]
    return [(s, s + size, cuts[i], cuts[i + 1]) for i, s in enumerate(starts)]


def _slices(start: Shape, stop: Shape) -> tuple[slice, slice, slice]:
    x, y, z = (slice(a, b) for a, b in zip(start, stop, strict=True))
    return x, y, z
