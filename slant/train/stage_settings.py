"""Settings of the stages of a training: slices, whole brain, tiles and groupwise template."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from slant.config import SynSettings
from slant.errors import SettingsError
from slant.nets.groupwise import SPACING


@dataclass(frozen=True)
class StageSettings:
    """Settings of one training stage.

    Attributes
    ----------
    steps : int
        Number of optimizer steps.
    scans_per_step : int
        Number of scans, each in a crop of its own, whose gradients a step adds up.
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
    scans_per_step: int = 1

    def __post_init__(self) -> None:
        minima = {"steps": 1, "scans_per_step": 1, "patches": 1, "validate_every": 0, "seed": 0, "weight_decay": 0.0}
        for name, minimum in minima.items():
            if getattr(self, name) < minimum:
                raise SettingsError(f"{name} must be at least {minimum}, found {getattr(self, name)}")
        for name in ("lr_decay_fraction", "class_balanced_fraction", "ema_decay", "auxiliary_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} must be from 0 to 1, found {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise SettingsError(f"learning_rate must be above 0, found {self.learning_rate}")


@dataclass(frozen=True)
class SlicesSettings(StageSettings):
    """Settings of the stage that trains the 2D networks from which a 3D network starts.

    Attributes
    ----------
    folds : int
        Number of folds of the training subjects. With folds, a step of a later stage on a manual scan uses 2D networks
        that are trained without its fold (cross-cross-augmentation, Xia et al. 2018). 0: one set of 2D networks.
    """

    folds: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds < 0 or self.folds == 1:
            raise SettingsError(f"[slices] folds must be 0 or at least 2, found {self.folds}")


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
        if self.shared_layers and self.init == "scratch":
            raise SettingsError(
                f"[tile] shared_layers requires init = 'whole' or 'neighbour', found {self.init!r}; change init, or "
                "remove shared_layers"
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
