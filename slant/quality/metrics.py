"""The metrics that a grade is made of: what they mean, their limits, and which of them can fail a scan."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slant.io.quality import Grade
from slant.volumes import HEAD_LIMITS_CM3


@dataclass(frozen=True)
class Limits:
    """Limits of a metric; None where there is none.

    Attributes
    ----------
    reference : float
        Median of the reference scans; nan if the limits are fixed.
    low_fail, low_review, high_review, high_fail : float or None
        Values beyond which a value is graded ``fail`` or ``review``.
    """

    reference: float
    low_fail: float | None = None
    low_review: float | None = None
    high_review: float | None = None
    high_fail: float | None = None

    def grade(self, value: float) -> Grade:
        """Grade of a value; ``review`` for nan, which stands for a metric that could not be measured."""
        if math.isnan(value):
            return "review"
        if _beyond(value, self.low_fail, self.high_fail):
            return "fail"
        return "review" if _beyond(value, self.low_review, self.high_review) else "pass"


@dataclass(frozen=True)
class MetricMeaning:
    """Label and unit of a metric of `slant.quality.iqm.QualityMetrics.scan`, and what values outside its limits mean.

    Attributes
    ----------
    low, high : str
        What a value below or above the limits means and what to do; empty where such a value is not a problem.
    decisive : bool
        Whether a value beyond the fail limits shows that the labels cannot be used, because it is impossible or what is
        known to be wrong. Other metrics, those of image quality among them, can give no grade worse than ``review``.
    fixed : Limits, optional
        Limits that hold for every model, instead of those of its reference scans.
    """

    label: str
    unit: str = ""
    low: str = ""
    high: str = ""
    decisive: bool = False
    fixed: Limits | None = None

    def grade(self, value: float, limits: Limits) -> Grade:
        """Grade of a scan with this value, if nothing else is wrong with it."""
        grade = limits.grade(value)
        return "review" if grade == "fail" and not self.decisive else grade


_CHECK_CONTRAST = "check that the scan is T1-weighted, with white matter brighter than gray matter"
_CHECK_VOXEL_SIZE = "the voxel size in the header is likely wrong: compare it with the protocol of the scanner"
_SMALL = f"small for a head from school age on; {_CHECK_VOXEL_SIZE}; or part of the brain is missing"
_LARGE = f"large for a head; {_CHECK_VOXEL_SIZE}"

METRICS: dict[str, MetricMeaning] = {
    "registration_similarity": MetricMeaning(
        "Similarity to the template", low="the registration may be wrong; check its picture", decisive=True
    ),
    "deformation_similarity": MetricMeaning(
        "Similarity to the groupwise template",
        low="the atlas prior may be misaligned; compare the regions with the scan",
    ),
    "template_overlap": MetricMeaning(
        "Overlap with the template brain", low="the registration or the brain mask may be wrong", decisive=True
    ),
    "brain_volume": MetricMeaning(
        "Brain with ventricles",
        "cm³",
        low=_SMALL,
        high=_LARGE,
        decisive=True,
        fixed=Limits(math.nan, *HEAD_LIMITS_CM3["brain with ventricles"]),
    ),
    "etiv": MetricMeaning(
        "Estimated intracranial volume (eTIV)",
        "cm³",
        low=_SMALL,
        high=_LARGE,
        decisive=True,
        fixed=Limits(math.nan, *HEAD_LIMITS_CM3["eTIV"]),
    ),
    "rotation": MetricMeaning("Rotation of the head", "°", high="the head is strongly rotated; check the registration"),
    "scale": MetricMeaning(
        "Head size (log volume ratio to the template)",
        low="the head is unusually small; check the voxel size; expected in children",
        high="the head is unusually large; check the voxel size and whether the mask contains more than the brain",
    ),
    "anisotropic_scaling": MetricMeaning(
        "Anisotropic scaling of the head", high="anisotropic scaling; check the voxel sizes", decisive=True
    ),
    "mask_at_image_border": MetricMeaning(
        "Brain touches the image border",
        "%",
        high="the field of view truncates the brain; volumes are underestimated",
        decisive=True,
    ),
    "unlabelled_brain": MetricMeaning(
        "Brain mask without a label", "%", high="the mask contains more than the brain, or belongs to another scan"
    ),
    "bright_mask_border": MetricMeaning(
        "White matter at the border of the mask", "%", high="the mask truncates the brain, or belongs to another scan"
    ),
    "wm_gm_contrast": MetricMeaning(
        "Contrast of white and gray matter", low=f"the contrast is low or absent; {_CHECK_CONTRAST}", decisive=True
    ),
    "gm_csf_contrast": MetricMeaning(
        "Contrast of gray matter and CSF", low=f"CSF is not dark; {_CHECK_CONTRAST}", decisive=True
    ),
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
    "vote_fraction": MetricMeaning("Mean vote fraction", low="the tiles are less certain than in the reference scans"),
    "missing_regions": MetricMeaning("Missing regions", high="regions are missing", decisive=True),
    "fragmentation": MetricMeaning("Disconnected components", "%", high="regions are fragmented"),
    "volume_outliers": MetricMeaning(
        "Regions with an outlying volume", high="volumes are outliers; see the flags of the regions"
    ),
    "asymmetry_outliers": MetricMeaning(
        "Regions with an outlying asymmetry", high="left and right differ; see the flags of the regions", decisive=True
    ),
    "expected_dice": MetricMeaning(
        "Expected mean Dice",
        low="agreement with manual labels is expected to be lower than on held-out subjects",
        decisive=True,
    ),
}
"""All metrics, in the order in which they are shown."""


def _beyond(value: float, low: float | None, high: float | None) -> bool:
    return (low is not None and value < low) or (high is not None and value > high)
