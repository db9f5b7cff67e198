"""Assemblies: the networks of all tiles of one layout at one resolution. A model is a cascade of one or more of them.

SLANT-27 and SLANT-8 (Huo et al. 2018) are cascades of one assembly at 1 mm. AssemblyNet (Coupe et al. 2020, NeuroImage
219:117026) is a cascade of two: the first decides at 2 mm, the second sees its result and amends it at 1 mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from slant.errors import LayoutError, ModelError, SettingsError
from slant.grid import Shape, scaled_shape
from slant.nets.network import NetworkSettings
from slant.nets.registry import KINDS, settings_of
from slant.tiles import Tile, TileLayout

Mirror = Literal["alternate", "shared"]
"""``alternate``: every second tile labels the mirror image of the scan. ``shared``: so do all tiles beyond the middle
of the x axis, with the networks of their mirror images; they have none of their own."""

ASSEMBLIES = "assemblies"
"""Key of the list of assemblies in a manifest; the manifest of one assembly at 1 mm has its entries instead."""


@dataclass(frozen=True)
class Assembly:
    """The networks of all tiles of one layout at one resolution.

    Attributes
    ----------
    name : str
        Name in the cascade; empty for the only assembly of a model that does not name it.
    layout : TileLayout
        Tiles on the grid of the assembly.
    kind, settings : str, NetworkSettings
        Kind of the networks, a key of `slant.nets.registry.KINDS`, with its settings.
    resolution_mm : int
        Edge length of the voxels of its grid, in template voxels (1 mm).
    earlier : str, optional
        Name of the assembly whose result is an input of the networks.
    mirror : {"alternate", "shared"}, optional
        Which tiles label the mirror image of a scan; None for no tile.
    vote : bool
        Whether its tiles vote in the final decision.

    Raises
    ------
    ModelError
        If the parts do not fit together.
    """

    name: str
    layout: TileLayout
    kind: str
    settings: NetworkSettings
    resolution_mm: int = 1
    earlier: str | None = None
    mirror: Mirror | None = None
    vote: bool = True

    def __post_init__(self) -> None:
        embedded = self.settings.earlier_channels > 0
        if embedded != (self.earlier is not None):
            expected = "the name of an earlier assembly" if embedded else "none, as earlier_channels is 0"
            raise ModelError(f"{self.title} has earlier = {self.earlier!r}, expected {expected}")
        if self.resolution_mm < 1:
            raise ModelError(f"{self.title} has a resolution of {self.resolution_mm} mm, expected 1, 2 or more")
        if self.mirror not in (None, "alternate", "shared"):
            raise ModelError(f"{self.title} has mirror = {self.mirror!r}, expected 'alternate', 'shared' or none")
        if self.mirror == "shared":
            for tile in self.layout:
                if self.layout.mirror_of(tile) is None:
                    raise ModelError(
                        f"{self.title} has mirror = 'shared', but no tile is the mirror image of {tile.name}; choose a "
                        "size along x with which all tiles have the same distance"
                    )

    @property
    def title(self) -> str:
        """The assembly in an error message."""
        return f"the assembly {self.name!r}" if self.name else "the assembly"

    @property
    def template_shape(self) -> Shape:
        """Shape of the template grid at 1 mm."""
        return scaled_shape(self.layout.shape, self.resolution_mm)

    @property
    def networks(self) -> tuple[Tile, ...]:
        """The tiles that have a network of their own."""
        return own_tiles(self.layout, self.mirror)

    @property
    def probabilistic(self) -> bool:
        """Whether the tiles divide their ballots, see `slant.nets.network.Network`."""
        return KINDS[self.kind].network.probabilistic

    @property
    def plain(self) -> dict[str, Any]:
        """The fields as plain values for a manifest."""
        return {
            "name": self.name,
            "layout": self.layout.plain,
            "resolution_mm": self.resolution_mm,
            "network": {"kind": self.kind, "settings": self.settings.as_dict()},
            "earlier": self.earlier,
            "mirror": self.mirror,
            "vote": self.vote,
        }


def own_tiles(layout: TileLayout, mirror: Mirror | None) -> tuple[Tile, ...]:
    """The tiles of a layout with a network of their own: all, or with ``shared`` those up to the middle."""
    return tuple(t for t in layout if mirror != "shared" or 2 * t.start[0] <= layout.shape[0] - layout.size[0])


def manifest_entries(assemblies: Sequence[Assembly]) -> dict[str, Any]:
    """The entries of a manifest that describe the assemblies; see `read_assemblies`."""
    first = assemblies[0]
    if len(assemblies) > 1 or first.name:
        return {ASSEMBLIES: [assembly.plain for assembly in assemblies]}
    plain = first.plain
    mirror = first.mirror if first.mirror == "shared" else first.mirror is not None
    return {"layout": plain["layout"], "network": plain["network"], "mirror": mirror}


def read_assemblies(manifest: dict[str, Any]) -> tuple[Assembly, ...]:
    """The assemblies that a manifest describes, in the order in which they run.

    Raises
    ------
    ModelError
        If an assembly is missing, at the wrong place, or does not fit the others; the message names it.
    LayoutError, SettingsError, KeyError, TypeError, AttributeError
        If an entry is missing or cannot be used.
    """
    if ASSEMBLIES not in manifest:
        mirror: Any = manifest.get("mirror", False)
        mirror = "alternate" if mirror is True else mirror or None
        return (Assembly("", TileLayout(**manifest["layout"]), *_network(manifest["network"]), mirror=mirror),)
    assemblies = []
    for position, entry in enumerate(manifest[ASSEMBLIES], 1):
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            raise ModelError(f"assembly {position} of {len(manifest[ASSEMBLIES])} has no name in the manifest")
        try:
            rest = {key: value for key, value in entry.items() if key not in ("name", "layout", "network")}
            assembly = Assembly(name, TileLayout(**entry["layout"]), *_network(entry["network"]), **rest)
        except (KeyError, TypeError, LayoutError, SettingsError) as error:
            raise ModelError(f"the assembly {name!r} in the manifest cannot be used: {error!r}") from error
        assemblies.append(assembly)
    check_cascade(assemblies)
    return tuple(assemblies)


def _network(entry: dict[str, Any]) -> tuple[str, NetworkSettings]:
    return entry["kind"], settings_of(entry["kind"], entry["settings"])


def check_cascade(assemblies: Sequence[Assembly]) -> None:
    """Check that assemblies can run in this order.

    Raises
    ------
    ModelError
        If a name is used twice, an assembly takes the result of one that does not run before it, the grids do not cover
        the same template, the outputs differ, or no assembly votes.
    """
    names = [assembly.name for assembly in assemblies]
    if not names:
        raise ModelError("the model has no assembly, expected at least one")
    for position, assembly in enumerate(assemblies):
        if assembly.name in names[:position]:
            raise ModelError(f"two assemblies are called {assembly.name!r}; each needs a name of its own")
        if assembly.earlier is not None and assembly.earlier not in names[:position]:
            found = "comes only after it" if assembly.earlier in names else "is missing"
            raise ModelError(
                f"the assembly {assembly.name!r} takes the result of {assembly.earlier!r}, which {found}; the order is "
                f"{', '.join(names)}"
            )
        first = assemblies[0]
        if assembly.template_shape != first.template_shape:
            raise ModelError(
                f"the assemblies {first.name!r} and {assembly.name!r} cover different templates: found "
                f"{first.template_shape} and {assembly.template_shape} mm, expected the same"
            )
        if assembly.settings.outputs != first.settings.outputs:
            raise ModelError(
                f"the networks of {first.name!r} and {assembly.name!r} have {first.settings.outputs} and "
                f"{assembly.settings.outputs} outputs, expected the same"
            )
    if not any(assembly.vote for assembly in assemblies):
        raise ModelError(f"none of the assemblies votes: {', '.join(names)}; set vote = true for at least one")
    if not (assemblies[-1].vote or any(a.earlier == names[-1] for a in assemblies)):
        raise ModelError(
            f"the assembly {names[-1]!r} is the last one and does not vote, so it has no effect; set vote = true or "
            "remove it"
        )
