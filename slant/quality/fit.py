"""Fits the normative reference of a model: norms and limits of the metrics, and the model of expected Dice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from slant.quality.grade import OUTLIER_Z, evidence, expected_dice, volume_z
from slant.quality.iqm import QualityMetrics
from slant.quality.reference import METRICS, DiceRule, Limits, Norm, NormativeReference
from slant.robust import robust_sd

LabelledMetrics = tuple[QualityMetrics, dict[int, float], str]
"""Metrics of a scan, its Dice by region (nan where the reference labels lack the region), and its subject."""

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


def fit_reference(good: Sequence[QualityMetrics], about: str) -> NormativeReference:
    """The normative reference of scans of good quality.

    Limits lie `REVIEW` and `FAIL` robust SDs (1.4826 times the median absolute deviation) from the median on the
    adverse side, and always outside the range of the reference scans.

    Parameters
    ----------
    good : sequence of QualityMetrics
        Metrics of the reference scans.
    about : str
        Description of the reference scans.
    """
    measured = [name for name in good[0].scan if not all(math.isnan(m.scan[name]) for m in good)]
    norms = {
        name: _norm([m.scan[name] for m in good], _MIN_ROBUST_SD.get(name, 0.0), _MIN_RELATIVE_SD) for name in measured
    }
    limits = {name: _limits(name, norm, [m.scan[name] for m in good]) for name, norm in norms.items()}
    ids, left = good[0].fractions, good[0].asymmetries
    logs = {i: [math.log(m.fractions[i]) for m in good if m.fractions[i] > 0] for i in ids}
    reference = NormativeReference(
        about,
        limits,
        norms,
        {i: _norm(logs[i], _MIN_SD_LOG_VOLUME) for i in ids if logs[i]},
        {i: _norm([m.asymmetries[i] for m in good], _MIN_SD_ASYMMETRY) for i in left},
        {
            i: _norm([m.vote_fractions[i] for m in good], _MIN_SD_VOTE_FRACTION)
            for i in good[0].vote_fractions
            if logs[i]
        },
        {
            name: _norm([math.log(m.aggregates[name]) for m in good if m.aggregates[name] > 0], _MIN_SD_LOG_AGGREGATE)
            for name in good[0].aggregates
        },
    )
    outliers = {
        "volume_outliers": [
            sum(abs(volume_z(m.fractions[i], norm)) > OUTLIER_Z for i, norm in reference.volumes.items()) for m in good
        ],
        "asymmetry_outliers": [
            sum(abs(norm.z(m.asymmetries[i])) > OUTLIER_Z for i, norm in reference.asymmetries.items()) for m in good
        ],
    }
    count_limits = {
        name: Limits(
            float(np.median(counts)),
            high_review=max(_COUNT_LIMITS[name][0], max(counts) + 0.5),
            high_fail=_COUNT_LIMITS[name][1],
        )
        for name, counts in outliers.items()
    }
    return replace(reference, limits={**limits, **count_limits})


def fit_dice(
    reference: NormativeReference, labelled: Sequence[LabelledMetrics], clean: Sequence[bool]
) -> NormativeReference:
    """Add the model of expected Dice, and limits of its mean, to a reference.

    The model is ``Dice = base - weights * evidence`` with weights of at least 0 (non-negative least squares, Lawson &
    Hanson 1974), so that no evidence can raise the expected Dice of a region.

    Parameters
    ----------
    reference : NormativeReference
    labelled : sequence of LabelledMetrics
        Unperturbed and perturbed scans of subjects held out from training.
    clean : sequence of bool
        Whether each of these scans is unperturbed.
    """
    if not labelled:
        return reference
    _, error = reliability(reference, labelled, clean)
    with_dice = replace(reference, dice=DiceRule(*_fit_rule(reference, labelled, clean), error["absolute"]))
    means = [_mean(expected_dice(m, with_dice).values()) for m, _, _ in labelled]
    norm = _norm([mean for mean, is_clean in zip(means, clean, strict=True) if is_clean], _MIN_SD_EXPECTED_DICE)
    limits = Limits(norm.median, norm.median - FAIL * norm.robust_sd, norm.median - REVIEW * norm.robust_sd)
    return replace(with_dice, limits={**with_dice.limits, "expected_dice": limits})


def reliability(
    reference: NormativeReference, labelled: Sequence[LabelledMetrics], clean: Sequence[bool]
) -> tuple[list[tuple[float, int, float, float]], dict[str, float]]:
    """Calibration of the expected Dice, with each subject left out of the fit in turn.

    Returns
    -------
    bins : list of tuple
        One row per occupied bin of expected Dice of width 0.1: lower edge, number of regions, mean expected Dice and
        mean measured Dice.
    errors : dict of str to float
        ``calibration``: mean absolute difference of both means over the bins, weighted by their regions (expected
        calibration error, Naeini et al. 2015); ``absolute``: mean absolute error of a region; ``scan``: mean absolute
        error of the mean of a scan.
    """
    subjects = sorted({subject for _, _, subject in labelled})
    expected, measured, scan_errors = [], [], []
    for held_out in subjects:
        kept = [(scan, is_clean) for scan, is_clean in zip(labelled, clean, strict=True) if scan[2] != held_out]
        fitted = [scan for scan, _ in kept] or list(labelled)
        fitted_clean = [is_clean for _, is_clean in kept] or list(clean)
        with_dice = replace(reference, dice=DiceRule(*_fit_rule(reference, fitted, fitted_clean), 0.0))
        for metrics, dice, subject in labelled:
            if subject == held_out:
                prediction = expected_dice(metrics, with_dice)
                pairs = [(prediction[i], dice[i]) for i in prediction if not math.isnan(dice.get(i, math.nan))]
                expected += [pair[0] for pair in pairs]
                measured += [pair[1] for pair in pairs]
                scan_errors.append(abs(_mean(pair[0] for pair in pairs) - _mean(pair[1] for pair in pairs)))
    x, y = np.array(expected), np.array(measured)
    numbers = np.minimum((x * 10).astype(int), 9)
    bins = [
        (
            number / 10,
            int((numbers == number).sum()),
            float(x[numbers == number].mean()),
            float(y[numbers == number].mean()),
        )
        for number in np.unique(numbers)
    ]
    calibration = sum(count * abs(mean_x - mean_y) for _, count, mean_x, mean_y in bins) / max(1, len(y))
    absolute = float(np.abs(x - y).mean())
    return bins, {"calibration": calibration, "absolute": absolute, "scan": float(np.mean(scan_errors))}


def _fit_rule(
    reference: NormativeReference, labelled: Sequence[LabelledMetrics], clean: Sequence[bool]
) -> tuple[dict[int, float], dict[str, float]]:
    """Base Dice by region id, and weights by evidence."""
    ids = labelled[0][1]
    unperturbed = [dice for (_, dice, _), is_clean in zip(labelled, clean, strict=True) if is_clean] or [
        dice for _, dice, _ in labelled
    ]
    base = {i: _mean(dice[i] for dice in unperturbed) for i in ids}
    overall = _mean(base.values())
    count = len(unperturbed)
    base = {
        i: (count * mean + _SHRINKAGE * overall) / (count + _SHRINKAGE)
        for i, mean in base.items()
        if not math.isnan(mean)
    }
    rows, losses = [], []
    for metrics, dice, _ in labelled:
        for i, mean in base.items():
            if metrics.fractions.get(i) and not math.isnan(dice[i]):
                rows.append(evidence(i, metrics, reference))
                losses.append(mean - dice[i])
    names = list(rows[0])
    table = np.array([[row[name] for name in names] for row in rows])
    ridge = math.sqrt(_RIDGE) * np.eye(len(names))
    weights, _ = nnls(np.vstack([table, ridge]), np.append(losses, np.zeros(len(names))))
    return base, {name: -float(weight) for name, weight in zip(names, weights, strict=True) if weight > 0}


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
    low: tuple[float | None, float | None] = (None, None)
    high = low
    if meaning.low:
        low = _side_limits(norm, -1, float(known.min()))
    if meaning.high:
        high = _side_limits(norm, 1, float(known.max()))
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
