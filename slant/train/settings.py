"""Settings of a training run: data, split, network, layout and stages, read from one TOML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from slant.config import SynSettings
from slant.errors import SettingsError
from slant.nets.groupwise import SPACING
from slant.nets.network import MemorySettings
from slant.tiles import TileLayout
from slant.train.augment import AugmentSettings
from slant.train.loss import LossSettings
from slant.train.network import NetworkChoice

MIN_TILE_SIZE = 16
"""Minimum number of voxels of a tile along each axis, so that a patch of 8 mm and its halo fit into it."""


@dataclass(frozen=True)
class StageSettings:
    """Settings of one training stage.

    Attributes
    ----------
    steps : int
        Number of optimizer steps, one scan each.
    learning_rate : float
        Learning rate of AdamW after a warm-up of 20 steps.
    lr_decay_fraction : float
        Last fraction of the steps, over which the learning rate falls linearly to zero.
    weight_decay : float
        Weight decay of AdamW.
    patches : int
        Number of patches of 8 mm per step on which the loss is computed.
    class_balanced_fraction : float
        Fraction of the patches that are drawn with the same probability for every region.
    ema_decay : float
        Decay of the exponential moving average of the weights. A stage passes on the average.
    auxiliary_probability : float
        Probability that a step uses an auxiliary scan instead of a manual one.
    validate_every : int
        Number of steps between two measurements of Dice on the held-out subjects; 0 for none.
    seed : int
        Seed of the random generator.
    crop : bool
        Whether a step of a whole-brain stage sees only a crop of the size of a tile, drawn anywhere in the template.
    """

    steps: int
    learning_rate: float = 4e-3
    lr_decay_fraction: float = 0.4
    weight_decay: float = 1e-3
    patches: int = 192
    class_balanced_fraction: float = 0.33
    ema_decay: float = 0.995
    auxiliary_probability: float = 0.0
    validate_every: int = 0
    seed: int = 0
    crop: bool = False

    def __post_init__(self) -> None:
        minima = {"steps": 1, "patches": 1, "validate_every": 0, "seed": 0, "weight_decay": 0.0}
        for name, minimum in minima.items():
            if getattr(self, name) < minimum:
                raise SettingsError(f"{name} must be at least {minimum}, found {getattr(self, name)}")
        for name in ("lr_decay_fraction", "class_balanced_fraction", "ema_decay", "auxiliary_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} must be from 0 to 1, found {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise SettingsError(f"learning_rate must be above 0, found {self.learning_rate}")


@dataclass(frozen=True)
class PretrainSettings(StageSettings):
    """Settings of the stage before ``whole``, which by default uses auxiliary scans only."""

    auxiliary_probability: float = 1.0


@dataclass(frozen=True)
class TileSettings(StageSettings):
    """Settings of the stage that fine-tunes the network of each tile.

    Attributes
    ----------
    init : {"whole", "neighbour", "scratch"}
        Initial weights: those of the whole-brain network, those of the finished neighbouring tile towards the center
        (as in AssemblyNet, Coupe et al. 2020), or random ones.
    soft_sharing : float
        Fraction of the distance to the mean of the neighbours' weights by which the weights are moved after every step
        (soft sharing, Duong et al. 2015).
    rounds : int
        Number of parts of the stage; after each part the neighbours' weights are updated.
    shared_layers : tuple of str
        Prefixes of the names of tensors that stay those of the whole-brain network (hard sharing).
    """

    init: Literal["whole", "neighbour", "scratch"] = "whole"
    soft_sharing: float = 0.0
    rounds: int = 1
    shared_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.soft_sharing < 1:
            raise SettingsError(f"soft_sharing must be from 0 to below 1, found {self.soft_sharing}")
        if not 1 <= self.rounds <= self.steps:
            raise SettingsError(f"rounds must be from 1 to steps ({self.steps}), found {self.rounds}")
        if self.rounds > 1 and not self.soft_sharing:
            raise SettingsError("rounds above 1 require soft_sharing above 0; set soft_sharing or remove rounds")
        if self.crop:
            raise SettingsError(
                "[tile] crop is not supported, as tiles are not cropped; set it in [whole] or [pretrain]"
            )
        if self.shared_layers and self.init != "whole":
            raise SettingsError(
                f"[tile] shared_layers requires init = 'whole', found {self.init!r}; change init, or remove "
                "shared_layers"
            )


@dataclass(frozen=True)
class GroupwiseSettings:
    """Settings of the groupwise template, from which each scan gets a deformable atlas prior.

    Attributes
    ----------
    rounds : int
        Number of registrations of all scans to their mean; each makes the next mean.
    prior_error_mm : float
        Maximum standard deviation of the smooth error that training adds to the coordinates of the prior.
    affine_probability : float
        Probability that a step uses the affine prior, as for a scan that cannot be deformed.
    syn : SynSettings
        Settings of the registration to the template, at 2 mm.
    """

    rounds: int = 3
    prior_error_mm: float = 1.5
    affine_probability: float = 0.05
    syn: SynSettings = field(default_factory=SynSettings)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise SettingsError(f"[groupwise] rounds must be at least 1, found {self.rounds}")
        if self.prior_error_mm < 0 or not 0 <= self.affine_probability <= 1:
            raise SettingsError(
                "[groupwise] prior_error_mm must be at least 0 and affine_probability from 0 to 1, found "
                f"{self.prior_error_mm}, {self.affine_probability}"
            )
        if self.syn.resolution_mm != SPACING:
            raise SettingsError(f"[groupwise.syn] resolution_mm must be {SPACING}, found {self.syn.resolution_mm}")


@dataclass(frozen=True)
class TrainSettings:
    """Settings of ``slant train``; see the commented files in ``configs/train``.

    Attributes
    ----------
    name, layout : str, TileLayout
        Name and tiles of the model.
    whole : StageSettings
        Stage that trains one network on the whole brain.
    tile : TileSettings
        Stage that fine-tunes a copy of this network for each tile.
    pretrain : PretrainSettings, optional
        Stage before ``whole``, on the whole brain.
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
    mirror: bool = False

    def __post_init__(self) -> None:
        if self.mirror and not self.augment.flip_probability:
            raise SettingsError(
                "mirror = true requires training with left-right flips; set [augment] flip_probability, for example 0.5"
            )
        if self.folds < 2:
            raise SettingsError(f"folds must be at least 2, found {self.folds}")
        if any(n % 2 for n in self.layout.size):
            raise SettingsError(f"[layout] size must be even along each axis for training, found {self.layout.size}")
        if min(self.layout.size) < MIN_TILE_SIZE:
            raise SettingsError(
                f"[layout] size must be at least {MIN_TILE_SIZE} along each axis for training, found {self.layout.size}"
            )
        if self.fold is not None and not 0 <= self.fold < self.folds:
            raise SettingsError(f"fold must be 0 to {self.folds - 1}, found {self.fold}")
        if not self.devices:
            raise SettingsError("devices is empty; give at least one, for example cpu or cuda:0")
        stages = {"pretrain": self.pretrain, "whole": self.whole, "tile": self.tile}
        need_auxiliary = [
            name for name, stage in stages.items() if stage is not None and stage.auxiliary_probability > 0
        ]
        if need_auxiliary and self.auxiliary_dir is None:
            raise SettingsError(
                f"[{need_auxiliary[0]}] uses auxiliary scans, but auxiliary_dir (--auxiliary-dir) is not set; set it "
                "to a folder written by `slant multiatlas`, or set auxiliary_probability = 0"
            )

    @property
    def run(self) -> Path:
        """Folder for the checkpoints of this split."""
        return self.work_dir / ("all" if self.fold is None else f"fold{self.fold}")
