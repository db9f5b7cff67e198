"""What a training run is: data, split, network, layout and stages, from one TOML file."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from slant.config import SynSettings
from slant.errors import SettingsError
from slant.nets.groupwise import SPACING
from slant.nets.memory import MemorySettings
from slant.tiles import TileLayout
from slant.train.augment import AugmentSettings
from slant.train.loss import LossSettings

LEAST_SIZE = 16
"""Voxels of a tile along each axis within which a box of 8 mm and its surroundings fit."""

TASKS = ("tissue", "lobe", "brain")
"""What can be learned beside the regions."""


@dataclass(frozen=True)
class StageSettings:
    """How one stage is trained.

    Attributes
    ----------
    steps : int
        Optimizer steps, one scan each.
    learning_rate : float
        Of AdamW, after a warm-up of 20 steps; falls linearly to zero over the last ``decay`` share.
    decay : float
    weight_decay : float
    boxes : int
        Boxes of 8 mm where the loss is computed.
    balanced : float
        Share of the boxes that gives every region the same chance.
    average : float
        Decay of the moving average of the weights, which is what a stage hands on.
    auxiliary : float
        Probability that a step takes an auxiliary scan rather than a manual one.
    validate : int
        Steps between two measurements of Dice on the people held out; 0 for none.
    seed : int
    crop : bool
        Whether a step of a stage on the whole brain sees only a box of the size of a tile, anywhere in the template.
    """

    steps: int
    learning_rate: float = 4e-3
    decay: float = 0.4
    weight_decay: float = 1e-3
    boxes: int = 192
    balanced: float = 0.33
    average: float = 0.995
    auxiliary: float = 0.0
    validate: int = 0
    seed: int = 0
    crop: bool = False

    def __post_init__(self) -> None:
        least = {"steps": 1, "boxes": 1, "validate": 0, "seed": 0, "weight_decay": 0.0}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise SettingsError(f"{name} must be at least {lowest}, found {getattr(self, name)}")
        for name in ("decay", "balanced", "average", "auxiliary"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} must be from 0 to 1, found {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise SettingsError(f"learning_rate must be above 0, found {self.learning_rate}")


@dataclass(frozen=True)
class PretrainSettings(StageSettings):
    """The stage before the others, on auxiliary scans only unless ``auxiliary`` says otherwise."""

    auxiliary: float = 1.0


@dataclass(frozen=True)
class TileSettings(StageSettings):
    """How each tile's network is fine-tuned.

    Attributes
    ----------
    start : {"whole", "neighbour", "scratch"}
        From the whole-brain network, from the finished network of the tile next to it towards the middle (as
        AssemblyNet does, Coupe et al. 2020), or from random weights.
    pull : float
        Soft sharing (Duong et al. 2015): the share of the way to the mean of the neighbours' weights that the weights
        are moved after every step.
    rounds : int
        Parts of the stage; after each, the neighbours' weights that pull are renewed.
    keep : tuple of str
        What the names of tensors begin with that stay as they are in the whole-brain network (hard sharing).
    """

    start: Literal["whole", "neighbour", "scratch"] = "whole"
    pull: float = 0.0
    rounds: int = 1
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.pull < 1:
            raise SettingsError(f"pull must be from 0 to below 1, found {self.pull}")
        if not 1 <= self.rounds <= self.steps:
            raise SettingsError(f"rounds must be from 1 to steps ({self.steps}), found {self.rounds}")
        if self.rounds > 1 and not self.pull:
            raise SettingsError("rounds only matter with pull above 0; set pull, or leave rounds out")
        if self.crop:
            raise SettingsError("[tile] crop: a tile is seen whole; set crop in [whole] or [pretrain], or leave it out")
        if self.keep and self.start != "whole":
            raise SettingsError(f"[tile] keep shares what the whole-brain network has, but start is {self.start!r}")


@dataclass(frozen=True)
class GroupwiseSettings:
    """The groupwise template, from which each scan gets a deformable atlas prior.

    Attributes
    ----------
    rounds : int
        Times that all scans are registered to their mean, to make the next one.
    error_mm : float
        Standard deviation of the smooth error that training adds to the place of the prior, at most.
    affine : float
        Probability that a step takes the affine prior instead, as a scan does that cannot be deformed.
    syn : SynSettings
        How scans are registered to the template, at 2 mm.
    """

    rounds: int = 3
    error_mm: float = 1.5
    affine: float = 0.05
    syn: SynSettings = field(default_factory=SynSettings)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise SettingsError(f"[groupwise] rounds must be at least 1, found {self.rounds}")
        if self.error_mm < 0 or not 0 <= self.affine <= 1:
            raise SettingsError(
                f"[groupwise] error_mm must be at least 0 and affine from 0 to 1, found {self.error_mm}, {self.affine}"
            )
        if self.syn.resolution_mm != SPACING:
            raise SettingsError(f"[groupwise.syn] resolution_mm must be {SPACING}, found {self.syn.resolution_mm}")


@dataclass(frozen=True)
class NetworkChoice:
    """Which network is trained; fields left out take the kind's own defaults.

    Attributes
    ----------
    kind : str
        Of `slant.nets.registry.KINDS`.
    widths : tuple of int, optional
        Channels of its levels.
    detail, coarse, mixed : int, optional
        Channels at 1 mm, see `slant.nets.unet.UNetSettings`.
    tasks : tuple of str
        What is learned beside the regions (hard sharing, Caruana 1997): of tissue, lobe, brain.
    """

    kind: str = "compact"
    widths: tuple[int, ...] | None = None
    detail: int | None = None
    mixed: int | None = None
    tasks: tuple[str, ...] = ()
    coarse: int | None = None

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in TASKS:
                near = difflib.get_close_matches(task, TASKS, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise SettingsError(f"[network] unknown task {task!r}{hint}; known tasks: {', '.join(TASKS)}")
        if len(set(self.tasks)) < len(self.tasks):
            raise SettingsError(f"[network] tasks names one twice, found {', '.join(self.tasks)}")

    def given(self) -> dict[str, Any]:
        """The fields that were set, but the kind and the tasks."""
        return {k: v for k, v in asdict(self).items() if v is not None and k not in ("kind", "tasks")}


@dataclass(frozen=True)
class TrainSettings:
    """Settings of ``slant train``; see the commented files in ``configs/train``.

    Attributes
    ----------
    name : str
        Of the model that is made.
    layout : TileLayout
    whole : StageSettings
        The stage that trains one network on the whole brain.
    tile : TileSettings
        The stage that fine-tunes a copy of it for each tile.
    pretrain : PretrainSettings, optional
        A stage before ``whole``, on the whole brain.
    groupwise : GroupwiseSettings, optional
        Make a groupwise template and train with the deformable atlas prior; without it the prior is affine.
    network : NetworkChoice
    augment : AugmentSettings
    loss : LossSettings
    memory : MemorySettings
    protocol : str
    unknown : {"error", "background"}
        What ids outside the protocol are.
    ignore : int, optional
        Id of voxels that nobody has labelled; they train nothing.
    licence : str
        Of the resulting weights.
    credits : str
        What the data's licence asks to be said.
    folds : int
        Parts the people are split into, for cross-validation.
    data : Path
        Folder of ``NAME_T1w.nii.gz`` with ``NAME_dseg.nii.gz``.
    auxiliary : Path, optional
        Folder of the same kind, labelled by machine, as ``slant multiatlas`` writes it.
    scans : Path, optional
        Table of the scans in both folders: columns ``name`` and, each if wanted, ``person``, ``fold``, ``regions``.
    prior : str, optional
        Embedded model, or folder of one, whose prior is used; by default the training scans make their own.
    work : Path
        Folder of prepared scans, checkpoints and results; made if absent.
    fold : int, optional
        Fold that is held out of everything; by default nobody is.
    start : Path, optional
        Checkpoint, or model of one tile, whose weights the first stage starts from.
    devices : tuple of str
        Where it runs; of several, each takes its share of the tiles.
    precision : {"auto", "float32"}
        ``auto`` computes layers in bfloat16 where the device multiplies it fast.
    mirror : bool
        Whether every second tile of the model labels the mirror image of a scan.
    """

    name: str
    layout: TileLayout
    whole: StageSettings
    tile: TileSettings
    pretrain: PretrainSettings | None = None
    groupwise: GroupwiseSettings | None = None
    network: NetworkChoice = field(default_factory=NetworkChoice)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    protocol: str = "braincolor"
    unknown: Literal["error", "background"] = "error"
    ignore: int | None = None
    licence: str = "unknown"
    credits: str = ""
    folds: int = 5
    data: Path = Path("data")
    auxiliary: Path | None = None
    scans: Path | None = None
    prior: str | None = None
    work: Path = Path("work")
    fold: int | None = None
    start: Path | None = None
    devices: tuple[str, ...] = ("cpu",)
    precision: Literal["auto", "float32"] = "auto"
    mirror: bool = False

    def __post_init__(self) -> None:
        if self.mirror and not self.augment.flip:
            raise SettingsError(
                "mirror = true needs networks that know mirrored scans: set [augment] flip, such as 0.5"
            )
        if self.folds < 2:
            raise SettingsError(f"folds must be at least 2, found {self.folds}")
        if any(n % 2 for n in self.layout.size):
            raise SettingsError(f"[layout] size must be even along each axis to train on, found {self.layout.size}")
        if min(self.layout.size) < LEAST_SIZE:
            raise SettingsError(
                f"[layout] size must be at least {LEAST_SIZE} along each axis to train on, found {self.layout.size}"
            )
        if self.fold is not None and not 0 <= self.fold < self.folds:
            raise SettingsError(f"fold must be 0 to {self.folds - 1}, found {self.fold}")
        if not self.devices:
            raise SettingsError("devices is empty; give at least one, such as cpu or cuda:0")
        stages = {"pretrain": self.pretrain, "whole": self.whole, "tile": self.tile}
        asking = [name for name, stage in stages.items() if stage is not None and stage.auxiliary > 0]
        if asking and self.auxiliary is None:
            raise SettingsError(
                f"[{asking[0]}] wants auxiliary scans, but no folder of them is given; set auxiliary (--auxiliary), "
                "made by `slant multiatlas`, or leave that out"
            )

    @property
    def run(self) -> Path:
        """Folder of this split's checkpoints."""
        return self.work / ("all" if self.fold is None else f"fold{self.fold}")
