"""In which order tiles are trained, and which of them are neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slant.errors import LayoutError

if TYPE_CHECKING:
    from slant.tiles import TileLayout


def chosen(layout: TileLayout, names: tuple[str, ...]) -> list[str]:
    """The tiles asked for, all by default, in the order of the layout.

    Raises
    ------
    LayoutError
        If one is not in it.
    """
    known = [tile.name for tile in layout]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise LayoutError(f"no tile {', '.join(unknown)} in this layout; it has {', '.join(known)}")
    return [name for name in known if not names or name in names]


def neighbours(layout: TileLayout, name: str) -> list[str]:
    """Names of the up to six tiles next to one along an axis."""
    place = _place(name)
    around = []
    for axis in range(3):
        for step in (-1, 1):
            other = [*place]
            other[axis] += step
            if 1 <= other[axis] <= layout.counts[axis]:
                around.append("_".join(map(str, other)))
    return around


def parent(layout: TileLayout, name: str) -> str | None:
    """The neighbour one step nearer to the middle tile, from which a tile may start; None for the middle itself."""
    place = [*_place(name)]
    for axis, count in enumerate(layout.counts):
        middle = (count + 1) // 2
        if place[axis] != middle:
            place[axis] += 1 if place[axis] < middle else -1
            return "_".join(map(str, place))
    return None


def generations(layout: TileLayout, names: list[str]) -> list[list[str]]:
    """The tiles in groups, each of which starts from tiles of the groups before."""
    groups: dict[int, list[str]] = {}
    for name in names:
        depth, above = 0, parent(layout, name)
        while above is not None:
            depth, above = depth + 1, parent(layout, above)
        groups.setdefault(depth, []).append(name)
    return [groups[depth] for depth in sorted(groups)]


def _place(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.split("_"))
