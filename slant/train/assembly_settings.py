"""Settings of the assemblies of a model: tiles, resolution, networks and training stages of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from slant.errors import ModelError, SettingsError
from slant.labels import LabelProtocol
from slant.nets.assembly import Assembly, Mirror, check_cascade
from slant.nets.prior import SPACING
from slant.tiles import TileLayout
from slant.train.network import NetworkChoice, NetworkSpec, network_of
from slant.train.stage_settings import PretrainSettings, SlicesSettings, StageSettings, TileSettings

MIN_TILE_SIZE = 16
"""Minimum number of voxels of a tile along each axis, so that a patch of 8 voxels and its halo fit into it."""


@dataclass(frozen=True)
class AssemblySettings:
    """Settings of one assembly, see `slant.nets.assembly.Assembly`.

    Attributes
    ----------
    name : str
        Name in the cascade; empty for the only assembly of a model.
    layout : TileLayout
        Tiles, in voxels of the grid of the assembly.
    whole : StageSettings
        Stage that trains one network on the whole brain.
    tile : TileSettings
        Stage that fine-tunes a copy of this network for each tile.
    pretrain : PretrainSettings, optional
        Stage before ``whole``, on the whole brain.
    network : NetworkChoice
        Networks of the tiles.
    slices : SlicesSettings, optional
        Stage before ``pretrain`` and ``whole``, which trains the 2D networks from which these networks start.
    resolution_mm : int
        Edge length of the voxels of the grid in mm: 1 or 2.
    earlier : str, optional
        Name of the assembly whose result the networks see.
    earlier_folds : int
        Number of folds of the training subjects. The result for the manual scans of a fold comes from a whole-brain
        network of the earlier assembly that is trained without them. 0: from its tiles, which have seen them.
    earlier_error_mm : float
        Maximum standard deviation of the smooth random error that training adds to the places of the earlier result.
    earlier_dropout : float
        Probability that a step does not see the earlier result.
    mirror : {"alternate", "shared"}, optional
        Which tiles label the mirror image of a scan.
    vote : bool
        Whether the tiles vote in the final decision.
    init_from : Path, optional
        Checkpoint, or model with one network, whose weights initialize the first stage, instead of that of the run.
    """

    name: str
    layout: TileLayout
    whole: StageSettings
    tile: TileSettings
    pretrain: PretrainSettings | None = None
    network: NetworkChoice = field(default_factory=NetworkChoice)
    slices: SlicesSettings | None = None
    resolution_mm: int = 1
    earlier: str | None = None
    earlier_folds: int = 0
    earlier_error_mm: float = 1.0
    earlier_dropout: float = 0.1
    mirror: Mirror | None = None
    vote: bool = True
    init_from: Path | None = None

    def __post_init__(self) -> None:
        size, where = self.layout.size, self.table("layout")
        if any(n % 2 for n in size):
            raise SettingsError(f"[{where}] size must be even along each axis for training, found {size}")
        if min(size) < MIN_TILE_SIZE:
            raise SettingsError(
                f"[{where}] size must be at least {MIN_TILE_SIZE} along each axis for training, found {size}"
            )
        if self.resolution_mm not in (1, 2):
            raise SettingsError(f"{self.title}resolution_mm must be 1 or 2, found {self.resolution_mm}")
        if self.earlier_folds < 0 or self.earlier_folds == 1:
            raise SettingsError(f"{self.title}earlier_folds must be 0 or at least 2, found {self.earlier_folds}")
        if self.earlier_error_mm < 0 or not 0 <= self.earlier_dropout <= 1:
            raise SettingsError(
                f"{self.title}earlier_error_mm must be at least 0 and earlier_dropout from 0 to 1, found "
                f"{self.earlier_error_mm}, {self.earlier_dropout}"
            )
        if self.mirror == "shared" and self.layout.shape[0] * self.resolution_mm % SPACING:
            raise SettingsError(
                f"{self.title}mirror = 'shared' needs a grid whose size along x is a multiple of {SPACING} mm, found "
                f"{self.layout.shape[0] * self.resolution_mm}"
            )

    @property
    def title(self) -> str:
        """Beginning of an error message about the assembly."""
        return f"the assembly {self.name!r}: " if self.name else ""

    @property
    def stages(self) -> dict[str, StageSettings]:
        """The training stages that take place, by the name of their table."""
        stages = {"slices": self.slices, "pretrain": self.pretrain, "whole": self.whole, "tile": self.tile}
        return {self.table(name): stage for name, stage in stages.items() if stage is not None}

    def table(self, name: str) -> str:
        """Name of a table of the assembly in the settings file."""
        return f"assemblies.{name} of {self.name}" if self.name else name

    def assembly(self, network: NetworkSpec, layout: TileLayout | None = None) -> Assembly:
        """The assembly with these networks, and with its own layout or another one.

        Raises
        ------
        ModelError
            If the parts do not fit together.
        """
        return Assembly(
            self.name,
            layout or self.layout,
            network.kind,
            network.settings,
            self.resolution_mm,
            self.earlier,
            self.mirror,
            self.vote,
        )


def check_assemblies(assemblies: tuple[AssemblySettings, ...]) -> None:
    """Check that each assembly of a list has a name that a folder can have.

    Raises
    ------
    SettingsError
        If one has not.
    """
    for assembly in assemblies:
        if not assembly.name.isidentifier():
            raise SettingsError(
                f"[[assemblies]] name must be a word of letters, digits and _, for example first; found "
                f"{assembly.name!r}"
            )
        if assembly.name in ("groupwise", "auxiliary", "tensorboard"):
            raise SettingsError(f"[[assemblies]] name {assembly.name!r} is reserved; choose another one")


def assemblies_of(cascade: tuple[AssemblySettings, ...], protocol: LabelProtocol) -> tuple[Assembly, ...]:
    """The assemblies that settings describe.

    Raises
    ------
    SettingsError
        If they cannot run in this order, or a network does not exist.
    """
    try:
        assemblies = tuple(settings.assembly(network_of(settings.network, protocol)) for settings in cascade)
        check_cascade(assemblies)
    except ModelError as error:
        raise SettingsError(f"[[assemblies]]: {error}") from error
    return assemblies
