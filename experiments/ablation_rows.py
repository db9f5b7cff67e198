"""The rows of ablation.py: what each of them changes in the settings of the recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from slant.grid import Shape
from slant.tiles import Overlap
from slant.train.settings import TrainSettings
from slant.train.stage_settings import PretrainSettings

Change = Callable[[TrainSettings], TrainSettings]
FEWER_SUBJECTS = "six of the twelve subjects"
RELABELLED = "the same scans, labelled by trained networks"
ALL_POSSIBLE = "27 tiles, all regions possible in each"
FINE_TUNING_STEPS = 216
MORE_STEPS = f"{FINE_TUNING_STEPS} steps more in the one network"
SPATIAL = ("rotation_deg", "scaling", "translation_mm", "elastic_mm")
ANATOMICAL = ("ventricle_dilation_mm", "sulcal_widening_mm", "lesion_probability")
INTENSITY = ("gamma", "bias_field", "contrast")
ARTEFACTS = ("noise", "ghosting", "blur_mm", "slice_thickness_mm")


def augmented(factor: float, *names: str) -> Change:
    """Multiply some strengths of the augmentation by a factor."""

    def change(settings: TrainSettings) -> TrainSettings:
        strengths = {name: factor * getattr(settings.augment, name) for name in names}
        return replace(settings, augment=replace(settings.augment, **strengths))

    return change


def pretrained(settings: TrainSettings) -> TrainSettings:
    """Train half of the steps on auxiliary scans, the other half on manual ones."""
    half = settings.whole.steps // 2
    first = PretrainSettings(half, settings.whole.learning_rate, 0.0, crop=True, patches=settings.whole.patches)
    return replace(settings, pretrain=first, whole=replace(settings.whole, steps=half))


def mixed(settings: TrainSettings) -> TrainSettings:
    """Train a quarter of the steps on auxiliary scans."""
    return replace(settings, whole=replace(settings.whole, auxiliary_probability=0.25))


def tiled(counts: Shape, overlap: Overlap) -> Change:
    """Train one network per tile."""

    def change(settings: TrainSettings) -> TrainSettings:
        layout = replace(settings.layout, counts=counts, overlap=overlap, vote_margin=6 if overlap == "vote" else 0)
        return replace(settings, layout=layout)

    return change


WHOLE: dict[str, Change] = {
    "recipe": lambda settings: settings,
    "half of the steps on auxiliary labels first": pretrained,
    "a quarter of the steps on auxiliary labels": mixed,
    RELABELLED: mixed,
    FEWER_SUBJECTS: lambda settings: settings,
    "no atlas prior": lambda s: replace(s, network=replace(s.network, kind="residual-without-prior")),
    "no augmentation": augmented(0, *SPATIAL, *ANATOMICAL, *INTENSITY, *ARTEFACTS, "mask_perturbation"),
    "no rotation, scaling, elastic deformation": augmented(0, *SPATIAL),
    "rotation, scaling, elastic deformation twice as strong": augmented(2, *SPATIAL),
    "no wide ventricles and sulci, no lesions": augmented(0, *ANATOMICAL),
    "no gamma, bias field, contrast": augmented(0, *INTENSITY),
    "gamma, bias field, contrast twice as strong": augmented(2, *INTENSITY),
    "no noise, ghosting, blur, thick slices": augmented(0, *ARTEFACTS),
    "no mask perturbation": augmented(0, "mask_perturbation"),
    "left and right flipped in half of the steps": lambda s: replace(
        s, augment=replace(s.augment, flip_probability=0.5)
    ),
}
TILES: dict[str, Change] = {
    "8 tiles, each in its own core": tiled((2, 2, 2), "core"),
    "27 tiles, majority vote": tiled((3, 3, 3), "vote"),
    ALL_POSSIBLE: tiled((3, 3, 3), "vote"),
}
