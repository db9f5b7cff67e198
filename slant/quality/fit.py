"""Fits the normative reference of a model: norms and limits of the metrics, and the model of expected Dice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from slant.quality.grade import OUTLIER_Z, evidence, expected_dice, volume_z
from slant.quality.iqm import QualityMetrics
from slant.quality.metrics import METRICS, Limits
from slant.quality.reference import DiceRule, Norm, NormativeReference
from slant.robust import robust_sd

REVIEW, FAIL = 6.0, 12.0
"""Distances of the limits from the median, in robust SDs."""

_COUNT_LIMITS = {  # lowest possible limits (review, fail) of metrics that are counts
    "missing_regions": (0.5, 5.5),
    "volume_outliers": (6.5, 40.5),
    "asymmetry_outliers": (5.5, 30.5),
}
_MIN_ROBUST_SD = {  # lower bounds of the robust SD, because few scanners do not represent all
    "mask_at_image_border": 0.3,
    "intensity_outlier": 0.3,
    "asymmetric_hypointensity": 0.2,
    "fragmentation": 0.1,
    "rotation": 2.0,
    "anisotropic_scaling": 0.02,
    "unlabelled_brain": 1.0,
    "bright_mask_border": 1.0,
    "wm_gm_contrast": 0.03,
    "gm_csf_contrast": 0.1,
    "cjv": 0.05,
    "noise": 0.01,
    "scale": 0.1,
    "registration_similarity": 0.03,
    "deformation_similarity": 0.01,
}
_MIN_RELATIVE_SD = 0.02  # lower bound of the robust SD of a metric as a fraction of its median
_MIN_SD_LOG_VOLUME, _MIN_SD_ASYMMETRY, _MIN_SD_VOTE_FRACTION = 0.05, 4.0, 0.01
_MIN_SD_LOG_AGGREGATE = 0.01
_MIN_SD_EXPECTED_DICE = 0.02
_RIDGE = 100.0  # ridge penalty of the weights, equivalent to this many regions with evidence 1 and no loss of Dice
_SHRINKAGE = 0.3  # weight of the mean Dice of all regions, in subjects


@dataclass(frozen=True)
class LabelledScan:
    """A scan of a subject held out from training, with its Dice by region id; nan where reference labels lack it.

    A scan that is not ``clean`` was perturbed, or is a bad scan of the same subject.
    """

    metrics: QualityMetrics
    dice: dict[int, float]
    subject: str
    clean: bool = True


@dataclass(frozen=True)
class DiceBin:
    """Regions whose expected Dice lies in one bin of width 0.1 from ``low``: their number, and their mean Dice."""

    low: float
    regions: int
    expected: float
    measured: float


@dataclass(frozen=True)
class Reliability:
    """Agreement of the expected Dice with the measured Dice, with each subject left out of the fit in turn.

    Attributes
    ----------
    calibration : float
        Mean absolute difference of both means over the bins, weighted by their regions (expected calibration error,
        Naeini et al. 2015).
    absolute : float
        Mean absolute error of a region.
    scan : float
        Mean absolute error of the mean of a scan.
    """

    bins: tuple[DiceBin, ...]
    calibration: float
    absolute: float
    scan: float


@dataclass(frozen=True)
class Fit:
    """A normative reference, and the reliability of its expected Dice, None if there is no labelled scan."""

    reference: NormativeReference
    reliability: Reliability | None


def fit_quality(good: Sequence[QualityMetrics], labelled: Sequence[LabelledScan], about: str) -> Fit:
    """The normative reference of a model, with its model of expected Dice.

    The latter is ``Dice = base - weights * evidence`` with weights of at least 0 (non-negative least squares, Lawson &
    Hanson 1974), so that no evidence can raise the expected Dice of a region.

    Parameters
    ----------
    good : sequence of QualityMetrics
        Metrics of scans of good quality, which ``about`` describes.
    labelled : sequence of LabelledScan
        Scans of subjects held out from training, clean and perturbed; may be empty.
    """
    reference = fit_reference(good, about)
    if not labelled:
        return Fit(reference, None)
    checked = reliability(reference, labelled)
    with_dice = replace(reference, dice=_fit_rule(reference, labelled, checked.absolute))
    means = [_mean(expected_dice(scan.metrics, with_dice).values()) for scan in labelled if scan.clean]
    norm = _norm(means, _MIN_SD_EXPECTED_DICE)
    limits = Limits(norm.median, norm.median - FAIL * norm.robust_sd, norm.median - REVIEW * norm.robust_sd)
    return Fit(replace(with_dice, limits={**with_dice.limits, "expected_dice": limits}), checked)


def without_votes(metrics: QualityMetrics) -> QualityMetrics:
    """The metrics without those of the votes, for models whose tiles do not vote."""
    scan = {name: value for name, value in metrics.scan.items() if name != "vote_fraction"}
    return replace(metrics, scan=scan, vote_fractions={})


def fit_reference(good: Sequence[QualityMetrics], about: str) -> NormativeReference:
    """The normative reference of scans of good quality.

    Limits lie `REVIEW` and `FAIL` robust SDs (1.4826 times the median absolute deviation) from the median on the
    adverse side, and always outside the range of the reference scans, which ``about`` describes.
    """
    fitted = [name for name in good[0].scan if METRICS[name].fixed is None]
    measured = [name for name in fitted if not all(math.isnan(m.scan[name]) for m in good)]
    norms = {
        name: _norm([m.scan[name] for m in good], _MIN_ROBUST_SD.get(name, 0.0), _MIN_RELATIVE_SD) for name in measured
    }
    limits = {name: _limits(name, norm, [m.scan[name] for m in good]) for name, norm in norms.items()}
    ids, left, votes = good[0].fractions, good[0].asymmetries, good[0].vote_fractions
    logs = {i: [math.log(m.fractions[i]) for m in good if m.fractions[i] > 0] for i in ids}
    sums = good[0].aggregates
    aggregates = {name: [math.log(m.aggregates[name]) for m in good if m.aggregates[name] > 0] for name in sums}
    reference = NormativeReference(
        about,
        limits,
        norms,
        {i: _norm(logs[i], _MIN_SD_LOG_VOLUME) for i in ids if logs[i]},
        {i: _norm([m.asymmetries[i] for m in good], _MIN_SD_ASYMMETRY) for i in left},
        {i: _norm([m.vote_fractions[i] for m in good], _MIN_SD_VOTE_FRACTION) for i in votes if logs[i]},
        {name: _norm(values, _MIN_SD_LOG_AGGREGATE) for name, values in aggregates.items()},
    )
    return replace(reference, limits={**limits, **_outlier_limits(reference, good)})


def _outlier_limits(reference: NormativeReference, good: Sequence[QualityMetrics]) -> dict[str, Limits]:
    """Limits of the numbers of regions whose volume or asymmetry is an outlier."""
    volumes, asymmetries = reference.volumes.items(), reference.asymmetries.items()
    counts = {
        "volume_outliers": [sum(abs(volume_z(m.fractions[i], norm)) > OUTLIER_Z for i, norm in volumes) for m in good],
        "asymmetry_outliers": [sum(abs(norm.z(m.asymmetries[i])) > OUTLIER_Z for i, norm in asymmetries) for m in good],
    }
    limits = {}
    for name, numbers in counts.items():
        review, fail = _COUNT_LIMITS[name]
        review = max(review, max(numbers) + 0.5)
        limits[name] = Limits(float(np.median(numbers)), high_review=review, high_fail=max(review, fail))
    return limits


def reliability(reference: NormativeReference, labelled: Sequence[LabelledScan]) -> Reliability:
    """How well the expected Dice agrees with the measured Dice, see `Reliability`."""
    expected, measured, scan_errors = [], [], []
    for held_out in sorted({scan.subject for scan in labelled}):
        kept = [scan for scan in labelled if scan.subject != held_out] or labelled
        with_dice = replace(reference, dice=_fit_rule(reference, kept, 0.0))
        for scan in labelled:
            if scan.subject == held_out:
                prediction = expected_dice(scan.metrics, with_dice)
                known = [i for i in prediction if not math.isnan(scan.dice.get(i, math.nan))]
                expected += [prediction[i] for i in known]
                measured += [scan.dice[i] for i in known]
                scan_errors.append(abs(_mean(prediction[i] for i in known) - _mean(scan.dice[i] for i in known)))
    x, y = np.array(expected), np.array(measured)
    numbers = np.minimum((x * 10).astype(int), 9)
    inside = [(number / 10, numbers == number) for number in np.unique(numbers)]
    bins = tuple(DiceBin(low, int(own.sum()), float(x[own].mean()), float(y[own].mean())) for low, own in inside)
    calibration = sum(one.regions * abs(one.expected - one.measured) for one in bins) / max(1, len(y))
    return Reliability(bins, calibration, float(np.abs(x - y).mean()), float(np.mean(scan_errors)))


def _fit_rule(reference: NormativeReference, labelled: Sequence[LabelledScan], error: float) -> DiceRule:
    clean = [scan.dice for scan in labelled if scan.clean] or [scan.dice for scan in labelled]
    means = {i: _mean(dice[i] for dice in clean) for i in labelled[0].dice}
    overall = _mean(means.values())
    base = {
        i: (len(clean) * mean + _SHRINKAGE * overall) / (len(clean) + _SHRINKAGE)
        for i, mean in means.items()
        if not math.isnan(mean)
    }
    rows, losses = [], []
    for scan in labelled:
        for i, mean in base.items():
            if scan.metrics.fractions.get(i) and not math.isnan(scan.dice[i]):
                rows.append(evidence(i, scan.metrics, reference))
                losses.append(mean - scan.dice[i])
    names = list(rows[0])
    table = np.array([[row[name] for name in names] for row in rows])
    ridge = math.sqrt(_RIDGE) * np.eye(len(names))
    weights, _ = nnls(np.vstack([table, ridge]), np.append(losses, np.zeros(len(names))))
    negative = {name: -float(weight) for name, weight in zip(names, weights, strict=True) if weight > 0}
    return DiceRule(base, negative, error)


def _norm(values: Iterable[float], min_sd: float, min_relative_sd: float = 0.0) -> Norm:
    """Median and robust SD, the latter at least ``min_sd`` and at least that fraction of the median."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not known.size:
        return Norm(0.0, 1.0)
    median = float(np.median(known))
    return Norm(median, max(robust_sd(known), min_sd, min_relative_sd * abs(median), 1e-6))


def _limits(name: str, norm: Norm, values: list[float]) -> Limits:
    """Limits on the adverse sides of a metric."""
    meaning = METRICS[name]
    known: NDArray[np.float64] = np.array([value for value in values if not math.isnan(value)])
    low = _side_limits(norm, -1, float(known.min())) if meaning.low else (None, None)
    high = _side_limits(norm, 1, float(known.max())) if meaning.high else (None, None)
    if name in _COUNT_LIMITS:
        high = (max(_COUNT_LIMITS[name][0], float(known.max()) + 0.5), _COUNT_LIMITS[name][1])
    return Limits(norm.median, low[1], low[0], high[0], high[1])


def _side_limits(norm: Norm, sign: int, extreme: float) -> tuple[float, float]:
    """Review and fail limits below (sign -1) or above (sign 1) the median."""
    distance = max(REVIEW * norm.robust_sd, sign * (extreme - norm.median) * 1.1)
    return norm.median + sign * distance, norm.median + sign * max(FAIL * norm.robust_sd, 2 * distance)


def _mean(values: Iterable[float]) -> float:
    known: NDArray[np.float64] = np.array([value for value in values if not math.isnan(value)])
    return float(known.mean()) if known.size else math.nan
