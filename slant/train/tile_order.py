"""Training order of tiles, and their neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slant.errors import LayoutError

if TYPE_CHECKING:
    from slant.tiles import TileLayout


def select_tiles(layout: TileLayout, names: tuple[str, ...]) -> list[str]:
    """The names of the given tiles, by default of all, in the order of the layout.

    Raises
    ------
    LayoutError
        If the layout does not contain one of them.
    """
    known = [tile.name for tile in layout]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise LayoutError(f"no tile {', '.join(unknown)} in this layout; it has {', '.join(known)}")
    return [name for name in known if not names or name in names]


def neighbours(layout: TileLayout, name: str) -> list[str]:
    """Names of the up to six tiles that are adjacent to a tile along an axis."""
    position = _position(name)
    adjacent = []
    for axis in range(3):
        for step in (-1, 1):
            other = [*position]
            other[axis] += step
            if 1 <= other[axis] <= layout.counts[axis]:
                adjacent.append("_".join(map(str, other)))
    return adjacent


def parent(layout: TileLayout, name: str) -> str | None:
    """The neighbour one step nearer to the central tile, which can initialize a tile; None for the central tile."""
    position = [*_position(name)]
    for axis, count in enumerate(layout.counts):
        center = (count + 1) // 2
        if position[axis] != center:
            position[axis] += 1 if position[axis] < center else -1
            return "_".join(map(str, position))
    return None


def generations(layout: TileLayout, names: list[str]) -> list[list[str]]:
    """The tiles in groups; the parents of the tiles of a group are in the groups before it."""
    groups: dict[int, list[str]] = {}
    for name in names:
        depth, ancestor = 0, parent(layout, name)
        while ancestor is not None:
            depth, ancestor = depth + 1, parent(layout, ancestor)
        groups.setdefault(depth, []).append(name)
    return [groups[depth] for depth in sorted(groups)]


def _position(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.split("_"))
