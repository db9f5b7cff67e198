"""Normative reference of a model, a file in its folder: limits of metrics, volume ranges, model of expected Dice."""

from __future__ import annotations

import json
import math
from dataclasses import astuple, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from slant.config import build
from slant.errors import ModelError, SettingsError
from slant.files import write_file
from slant.io.models import model_folder

FILE = "quality.json"
"""Name of the reference file in the folder of a model."""


@dataclass(frozen=True)
class MetricMeaning:
    """Label and unit of a metric of `slant.quality.iqm.QualityMetrics.scan`, and what values outside its limits mean.

    Attributes
    ----------
    low, high : str
        What a value below or above the limits means and what to do; empty where such a value is not a problem.
    """

    label: str
    unit: str = ""
    low: str = ""
    high: str = ""


_CHECK_CONTRAST = "check that the scan is T1-weighted, with white matter brighter than gray matter"

METRICS: dict[str, MetricMeaning] = {
    "registration_similarity": MetricMeaning(
        "Similarity to the template", low="the registration may be wrong; check its picture"
    ),
    "deformation_similarity": MetricMeaning(
        "Similarity to the groupwise template",
        low="the atlas prior may be misaligned; compare the regions with the scan",
    ),
    "template_overlap": MetricMeaning(
        "Overlap with the template brain", low="the registration or the brain mask may be wrong"
    ),
    "rotation": MetricMeaning("Rotation of the head", "°", high="the head is strongly rotated; check the registration"),
    "scale": MetricMeaning(
        "Head size (log volume ratio to the template)",
        low="the head is unusually small; check the voxel size; expected in children",
        high="the head is unusually large; check the voxel size and whether the mask contains more than the brain",
    ),
    "anisotropic_scaling": MetricMeaning(
        "Anisotropic scaling of the head", high="anisotropic scaling; check the voxel sizes"
    ),
    "mask_at_image_border": MetricMeaning(
        "Brain touches the image border", "%", high="the field of view truncates the brain; volumes are underestimated"
    ),
    "unlabelled_brain": MetricMeaning(
        "Brain mask without a label", "%", high="the mask contains more than the brain, or belongs to another scan"
    ),
    "bright_mask_border": MetricMeaning(
        "White matter at the border of the mask", "%", high="the mask truncates the brain, or belongs to another scan"
    ),
    "wm_gm_contrast": MetricMeaning(
        "Contrast of white and gray matter", low=f"the contrast is low or absent; {_CHECK_CONTRAST}"
    ),
    "gm_csf_contrast": MetricMeaning("Contrast of gray matter and CSF", low=f"CSF is not dark; {_CHECK_CONTRAST}"),
    "cjv": MetricMeaning(
        "Coefficient of joint variation (CJV)",
        high="gray and white matter are hard to separate, because of noise, motion or the bias field",
    ),
    "noise": MetricMeaning("Noise (fraction of the contrast)", high="the scan is noisy"),
    "intensity_outlier": MetricMeaning(
        "Largest intensity outlier", "cm³", high="a lesion, an artefact or a wrong label; check this location"
    ),
    "asymmetric_hypointensity": MetricMeaning(
        "Asymmetric hypointensity",
        "cm³",
        high="CSF, a cavity or a lesion without a counterpart in the other hemisphere; check this location",
    ),
    "vote_fraction": MetricMeaning("Mean vote fraction", low="the tiles disagree more than in the reference scans"),
    "missing_regions": MetricMeaning("Missing regions", high="regions are missing"),
    "fragmentation": MetricMeaning("Disconnected components", "%", high="regions are fragmented"),
    "volume_outliers": MetricMeaning(
        "Regions with an outlying volume", high="volumes are outliers; see the flags of the regions"
    ),
    "asymmetry_outliers": MetricMeaning(
        "Regions with an outlying asymmetry", high="left and right differ; see the flags of the regions"
    ),
    "expected_dice": MetricMeaning(
        "Expected mean Dice", low="agreement with manual labels is expected to be lower than on held-out subjects"
    ),
}
"""All metrics, in the order in which they are shown."""


@dataclass(frozen=True)
class Limits:
    """Limits of a metric; None where there is none.

    Attributes
    ----------
    reference : float
        Median of the reference scans.
    low_fail, low_review, high_review, high_fail : float or None
        Values beyond which a scan is graded ``fail`` or ``review``.
    """

    reference: float
    low_fail: float | None = None
    low_review: float | None = None
    high_review: float | None = None
    high_fail: float | None = None

    def grade(self, value: float) -> Literal["pass", "review", "fail"]:
        """Grade of a value; ``review`` for nan, which stands for a metric that could not be measured."""
        if math.isnan(value):
            return "review"
        if _beyond(value, self.low_fail, self.high_fail):
            return "fail"
        return "review" if _beyond(value, self.low_review, self.high_review) else "pass"


@dataclass(frozen=True)
class Norm:
    """Median and robust SD (1.4826 times the median absolute deviation) of a quantity in the reference scans."""

    median: float
    robust_sd: float

    def z(self, value: float) -> float:
        """Robust z-score of a value: its distance from the median in robust SDs."""
        return (value - self.median) / self.robust_sd


@dataclass(frozen=True)
class DiceRule:
    """Linear model of the expected Dice of a region, fitted on held-out subjects.

    Attributes
    ----------
    base : dict of int to float
        Mean Dice of each region on unperturbed scans of held-out subjects, by id.
    weights : dict of str to float
        Weights by the names that `slant.quality.grade.evidence` returns.
    error : float
        Mean absolute error of the model on subjects left out of its fit.
    """

    base: dict[int, float]
    weights: dict[str, float]
    error: float


@dataclass(frozen=True)
class NormativeReference:
    """Distribution of the metrics of one model in reference scans.

    Attributes
    ----------
    about : str
        Description of the reference scans.
    limits : dict of str to Limits
        Limits by the names in `METRICS`.
    metrics : dict of str to Norm
        Norms of the metrics.
    volumes : dict of int to Norm
        Norms of the logarithm of each region's fraction of the intracranial volume, by id.
    asymmetries : dict of int to Norm
        Norms of the asymmetry in percent, by the id of the left region.
    vote_fractions : dict of int to Norm
        Norms of the mean vote fraction, by id.
    aggregates : dict of str to Norm
        As ``volumes``, for tissues, lobes and the brain, by ``level:name``.
    dice : DiceRule or None
        None if no Dice of the model on held-out subjects is known.
    """

    about: str
    limits: dict[str, Limits]
    metrics: dict[str, Norm] = field(default_factory=dict)
    volumes: dict[int, Norm] = field(default_factory=dict)
    asymmetries: dict[int, Norm] = field(default_factory=dict)
    vote_fractions: dict[int, Norm] = field(default_factory=dict)
    aggregates: dict[str, Norm] = field(default_factory=dict)
    dice: DiceRule | None = None


@cache
def load_reference(model: str) -> NormativeReference | None:
    """The normative reference of a model, given by name or folder, or None if the model has none.

    Raises
    ------
    ModelError
        If the model does not exist or its reference file is damaged.
    """
    path = model_folder(model) / FILE
    if not path.is_file():
        return None
    try:
        plain = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}; install or export the model again") from error
    return reference_of(plain, str(path))


def write_reference(folder: Path, reference: NormativeReference) -> Path:
    """Write a normative reference into the folder of its model, in place of an existing one; returns its path.

    Raises
    ------
    OutputError
        If it cannot be written; an existing file is then unchanged.
    """
    write_file(folder / FILE, json.dumps(plain_reference(reference), indent=1) + "\n")
    load_reference.cache_clear()
    return folder / FILE


def reference_of(plain: dict[str, Any], source: str) -> NormativeReference:
    """A reference from the values of `plain_reference`; ModelError, which names their ``source``, for other values."""
    try:
        rule = plain.get("dice")
        return NormativeReference(
            str(plain["about"]),
            {name: build(Limits, entry, name) for name, entry in plain["limits"].items() if name in METRICS},
            {name: Norm(*pair) for name, pair in plain["metrics"].items()},
            {int(i): Norm(*pair) for i, pair in plain["volumes"].items()},
            {int(i): Norm(*pair) for i, pair in plain["asymmetries"].items()},
            {int(i): Norm(*pair) for i, pair in plain["vote_fractions"].items()},
            {name: Norm(*pair) for name, pair in plain["aggregates"].items()},
            DiceRule({int(i): float(v) for i, v in rule["base"].items()}, rule["weights"], rule["error"])
            if rule
            else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, SettingsError) as error:
        raise ModelError(f"{source} cannot be used: {error!r}; install or export the model again") from error


def plain_reference(reference: NormativeReference) -> dict[str, Any]:
    """A reference as plain values for JSON, rounded to six significant digits."""
    return {name: _plain(value) for name, value in vars(reference).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, int | float):
        return float(f"{value:.6g}")
    if isinstance(value, Norm):
        return [_plain(number) for number in astuple(value)]
    if isinstance(value, Limits | DiceRule):
        return {name: _plain(part) for name, part in vars(value).items() if part is not None}
    return {str(key): _plain(part) for key, part in value.items()} if isinstance(value, dict) else value


def _beyond(value: float, low: float | None, high: float | None) -> bool:
    return (low is not None and value < low) or (high is not None and value > high)
