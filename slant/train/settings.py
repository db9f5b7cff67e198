"""Settings of a training run: data, split, assemblies, networks, layouts and stages, read from one TOML file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from slant.errors import SettingsError
from slant.nets.assembly import Mirror
from slant.nets.network import MemorySettings
from slant.tiles import TileLayout
from slant.train.assembly_settings import AssemblySettings, check_assemblies
from slant.train.augment import AugmentSettings
from slant.train.loss import LossSettings
from slant.train.network import NetworkChoice
from slant.train.stage_settings import (
    GroupwiseSettings,
    PretrainSettings,
    SlicesSettings,
    StageSettings,
    TileSettings,
)


@dataclass(frozen=True)
class TrainSettings:
    """Settings of ``slant train``; see the commented files in ``configs/train``.

    Attributes
    ----------
    name : str
        Name of the model.
    layout : TileLayout, optional
        Tiles of a model with one assembly.
    whole : StageSettings, optional
        Stage that trains one network on the whole brain.
    tile : TileSettings, optional
        Stage that fine-tunes a copy of this network for each tile.
    pretrain : PretrainSettings, optional
        Stage before ``whole``, on the whole brain.
    slices : SlicesSettings, optional
        Stage before ``pretrain`` and ``whole``, which trains the 2D networks from which the network starts.
    assemblies : tuple of AssemblySettings
        Assemblies of a cascade, in the order in which they run, instead of ``layout``, ``whole``, ``tile``,
        ``pretrain``, ``slices``, ``network`` and ``mirror``.
    groupwise : GroupwiseSettings, optional
        Groupwise template and deformable atlas prior; without it the prior is affine.
    protocol : str
        Name of the label protocol, or path of its table.
    unknown_ids : {"error", "background"}
        Treatment of ids outside the protocol.
    ignore_label : int, optional
        Id of voxels that nobody has labelled; the loss ignores them.
    licence : str
        Licence of the resulting weights.
    credits : str
        Acknowledgement that the licence of the data requires.
    folds : int
        Number of cross-validation folds, into which the subjects are split.
    data : Path
        Folder of scans with manual labels, ``NAME_T1w.nii.gz`` and ``NAME_dseg.nii.gz``.
    auxiliary_dir : Path, optional
        Folder of automatically labelled scans of the same form, as written by ``slant multiatlas``.
    scans : Path, optional
        Table of the scans in both folders: column ``name`` and any of ``subject``, ``fold`` and ``regions``.
    prior : str, optional
        Embedded model, or model folder, whose prior is used; by default the training scans make the prior.
    work_dir : Path
        Folder for prepared scans, checkpoints and models; created if missing.
    fold : int, optional
        Fold that is held out; by default no subject is held out.
    init_from : Path, optional
        Checkpoint, or model with one network, whose weights initialize the first stage.
    devices : tuple of str
        Training devices; tiles are distributed over them.
    precision : {"auto", "float32"}
        ``auto`` computes the layers in bfloat16 if the device is fast at it.
    mirror : {"alternate", "shared"}, optional
        Which tiles of the model label the mirror image of a scan, see `slant.nets.assembly.Mirror`.
    unlabelled : Path, optional
        Folder of scans ``NAME_T1w.nii.gz`` without labels for a second round, see `slant.train.second_round`.
    round : int
        Number of the round, set by `slant train`.
    """

    name: str
    layout: TileLayout | None = None
    whole: StageSettings | None = None
    tile: TileSettings | None = None
    pretrain: PretrainSettings | None = None
    slices: SlicesSettings | None = None
    groupwise: GroupwiseSettings | None = None
    network: NetworkChoice = field(default_factory=NetworkChoice)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    protocol: str = "braincolor"
    unknown_ids: Literal["error", "background"] = "error"
    ignore_label: int | None = None
    licence: str = "unknown"
    credits: str = ""
    folds: int = 5
    data: Path = Path("data")
    auxiliary_dir: Path | None = None
    scans: Path | None = None
    prior: str | None = None
    work_dir: Path = Path("work")
    fold: int | None = None
    init_from: Path | None = None
    devices: tuple[str, ...] = ("cpu",)
    precision: Literal["auto", "float32"] = "auto"
    mirror: Mirror | None = None
    assemblies: tuple[AssemblySettings, ...] = ()
    unlabelled: Path | None = None
    round: int = 1

    def __post_init__(self) -> None:
        self._check_parts()
        cascade = self.cascade
        check_assemblies(self.assemblies)
        if any(assembly.mirror for assembly in cascade) and not self.augment.flip_probability:
            raise SettingsError(
                "mirror requires training with left-right flips; set [augment] flip_probability, for example 0.5"
            )
        if self.folds < 2:
            raise SettingsError(f"folds must be at least 2, found {self.folds}")
        if self.fold is not None and not 0 <= self.fold < self.folds:
            raise SettingsError(f"fold must be 0 to {self.folds - 1}, found {self.fold}")
        if not self.devices:
            raise SettingsError("devices is empty; give at least one, for example cpu or cuda:0")
        need_auxiliary = [
            table for assembly in cascade for table, stage in assembly.stages.items() if stage.auxiliary_probability > 0
        ]
        if need_auxiliary and self.auxiliary_dir is None:
            raise SettingsError(
                f"[{need_auxiliary[0]}] uses auxiliary scans, but auxiliary_dir (--auxiliary-dir) is not set; set it "
                "to a folder written by `slant multiatlas`, or set auxiliary_probability = 0"
            )

    def _check_parts(self) -> None:
        """Check that there is either one assembly, given by its own tables, or a list of them."""
        single: dict[str, object] = {"layout": self.layout, "whole": self.whole, "tile": self.tile}
        if not self.assemblies:
            missing = [f"[{name}]" for name, value in single.items() if value is None]
            if missing:
                raise SettingsError(
                    f"{', '.join(missing)} missing, expected [layout], [whole] and [tile] or [[assemblies]]"
                )
            return
        single |= {"pretrain": self.pretrain, "slices": self.slices, "mirror": self.mirror}
        found = [name for name, value in single.items() if value is not None]
        if self.network != NetworkChoice():
            found.append("network")
        if found:
            raise SettingsError(
                f"found {', '.join(found)} beside [[assemblies]]; move them into the assemblies, for example "
                f"[assemblies.{found[0]}]"
            )

    @property
    def cascade(self) -> tuple[AssemblySettings, ...]:
        """The assemblies of the model, in the order in which they run."""
        if self.layout is None or self.whole is None or self.tile is None:
            return self.assemblies
        plain = AssemblySettings("", self.layout, self.whole, self.tile, self.pretrain, self.network)
        return (replace(plain, slices=self.slices, mirror=self.mirror),)

    @property
    def split(self) -> Path:
        """Folder of this split, with the groupwise template and the checkpoints of the first round."""
        return self.work_dir / ("all" if self.fold is None else f"fold{self.fold}")

    @property
    def run(self) -> Path:
        """Folder for the checkpoints of this split and round."""
        return self.split if self.round == 1 else self.split.with_name(f"{self.split.name}-round{self.round}")
