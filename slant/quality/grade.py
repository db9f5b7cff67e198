"""Grades a scan: compares its quality metrics with a normative reference; grade, flags of regions, expected Dice."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from slant.io.quality import Check, Quality, RegionQuality
from slant.io.templates import load_template
from slant.quality.iqm import measure_quality
from slant.quality.metrics import METRICS
from slant.quality.reference import NormativeReference, load_reference
from slant.threads import ONE_THREAD, Threads

if TYPE_CHECKING:
    from slant.io.results import Result
    from slant.labels import LabelProtocol
    from slant.quality.iqm import QualityMetrics
    from slant.quality.metrics import Limits
    from slant.quality.reference import Norm

OUTLIER_Z = 4.0
"""Absolute robust z-score above which the volume or the asymmetry of a region is flagged."""

FRAGMENTED = 0.25
"""Fraction of a region outside its largest connected component above which it is flagged."""

LOW_EXPECTED_DICE = 0.15
"""Decrease of the expected Dice below the mean Dice of a region on held-out subjects above which it is flagged."""

_Z_95 = 1.96
_DIGITS, _RANGE_DIGITS = 4, 7  # decimals in the record
_WHOLE = 1000  # values from here on are written as whole numbers
_MAX_EVIDENCE = 8.0  # robust SDs; evidence is clipped so that no single metric dominates


def grade(result: Result, model: str, threads: Threads = ONE_THREAD) -> Quality | None:
    """The quality of a finished scan of a model, given by name or folder; None if the model has no reference.

    The threads compute the quality metrics.

    Raises
    ------
    ModelError
        If the model does not exist or its reference file is damaged.
    """
    reference = load_reference(model)
    if reference is None:
        return None
    return grade_scan(measure_quality(result, load_template(), threads), reference, result.protocol)


def grade_scan(metrics: QualityMetrics, reference: NormativeReference, protocol: LabelProtocol) -> Quality:
    """Grade a scan by its metrics and the reference of its model; numbers are rounded to the digits of the record."""
    z = {i: volume_z(fraction, reference.volumes.get(i)) for i, fraction in metrics.fractions.items()}
    asymmetry_z = {
        i: reference.asymmetries[i].z(value) if i in reference.asymmetries else math.nan
        for i, value in metrics.asymmetries.items()
    }
    dice = expected_dice(metrics, reference)
    base = reference.dice.base if reference.dice else {}
    deficit = {i: base[i] - value for i, value in dice.items()}
    flags = {i: _flags(i, z[i], _pair_z(i, asymmetry_z, protocol), metrics, deficit.get(i, 0.0)) for i in z}
    known = [value for value in dice.values() if not math.isnan(value)]
    scan = {
        **metrics.scan,
        "volume_outliers": float(sum(abs(value) > OUTLIER_Z for value in z.values())),
        "asymmetry_outliers": float(sum(abs(value) > OUTLIER_Z for value in asymmetry_z.values())),
        "expected_dice": float(np.mean(known)) if known else math.nan,
    }
    limits = reference.limits | {name: meaning.fixed for name, meaning in METRICS.items() if meaning.fixed}
    checks = [_check(name, scan[name], limits[name]) for name in METRICS if name in scan and name in limits]
    order = ("fail", "review", "pass")
    checks.sort(key=lambda check: order.index(check.grade))
    return Quality(
        checks[0].grade if checks else "pass",
        tuple(checks),
        {name: round(value, _DIGITS) for name, value in scan.items()},
        {
            i: _region_quality(fraction, reference.volumes.get(i), dice.get(i, math.nan))
            for i, fraction in metrics.fractions.items()
        },
        {name: _region_quality(value, reference.aggregates.get(name)) for name, value in metrics.aggregates.items()},
        {i: flag for i, flag in flags.items() if flag},
        reference.about,
    )


def expected_dice(metrics: QualityMetrics, reference: NormativeReference) -> dict[int, float]:
    """Expected Dice of every region with manual labels, 0 to 1; 0 for regions not found, empty without a Dice rule."""
    rule = reference.dice
    if rule is None:
        return {}
    expected = {}
    for i, base in rule.base.items():
        if not metrics.fractions.get(i):
            expected[i] = 0.0
            continue
        row = evidence(i, metrics, reference)
        change = math.fsum(weight * row[name] for name, weight in rule.weights.items())
        expected[i] = min(1.0, max(0.0, base + change))
    return expected


def evidence(region: int, metrics: QualityMetrics, reference: NormativeReference) -> dict[str, float]:
    """Evidence for a lower Dice of a region: how far the region and its scan lie from the normative reference.

    Returns
    -------
    dict of str to float
        ``intercept``: 1; ``vote_fraction``: robust SDs by which its mean vote fraction lies below the median;
        ``volume``: absolute z-score of its volume; ``fragmentation``: fraction outside its largest component; and
        ``scan:NAME``: robust SDs by which a metric of the scan lies on its adverse side. Evidence in robust SDs is
        clipped to 0 to 8.
    """
    norm = reference.vote_fractions.get(region)
    vote_fraction = metrics.vote_fractions.get(region, math.nan)
    fragmented = metrics.fragmentation.get(region, math.nan)
    row = {
        "intercept": 1.0,
        "vote_fraction": _clipped(-norm.z(vote_fraction)) if norm else 0.0,
        "volume": _clipped(abs(volume_z(metrics.fractions.get(region, 0.0), reference.volumes.get(region)))),
        "fragmentation": 0.0 if math.isnan(fragmented) else fragmented,
    }
    for name, metric_norm in reference.metrics.items():
        high = bool(METRICS[name].high) and not METRICS[name].low
        z = metric_norm.z(metrics.scan[name])
        row[f"scan:{name}"] = _clipped(z if high else -z)
    return row


def volume_z(fraction: float, norm: Norm | None) -> float:
    """Robust z-score of the log of a region's fraction of the intracranial volume; nan if the region is absent."""
    return norm.z(math.log(fraction)) if norm is not None and fraction > 0 else math.nan


def _clipped(z: float) -> float:
    return 0.0 if math.isnan(z) else min(_MAX_EVIDENCE, max(0.0, z))


def _region_quality(fraction: float, norm: Norm | None, dice: float = math.nan) -> RegionQuality:
    """Quality with the 95 % range of a fraction of the intracranial volume whose logarithm is normally distributed."""
    ends = [norm.median + sign * _Z_95 * norm.robust_sd if norm else math.nan for sign in (-1, 1)]
    low, high = (round(math.exp(end), _RANGE_DIGITS) for end in ends)
    return RegionQuality(round(dice, _DIGITS), round(volume_z(fraction, norm), _DIGITS), low, high)


def _pair_z(region: int, asymmetry_z: dict[int, float], protocol: LabelProtocol) -> float:
    """Z-score of the asymmetry of a region's pair, for its left and its right region; nan on the midline."""
    partner = protocol.by_name(protocol.by_id(region).partner_name).id
    return asymmetry_z.get(region, asymmetry_z.get(partner, math.nan))


def _flags(region: int, z: float, asymmetry_z: float, metrics: QualityMetrics, dice_deficit: float) -> str:
    absent = not metrics.fractions[region]
    conditions = {
        "not found": absent,
        "small": z < -OUTLIER_Z,
        "large": z > OUTLIER_Z,
        "asymmetric": abs(asymmetry_z) > OUTLIER_Z,
        "fragmented": metrics.fragmentation.get(region, 0.0) > FRAGMENTED,
        "low expected Dice": dice_deficit > LOW_EXPECTED_DICE and not absent,
    }
    return ", ".join(flag for flag, holds in conditions.items() if holds)


def _check(name: str, value: float, limits: Limits) -> Check:
    meaning = METRICS[name]
    grade = meaning.grade(value, limits)
    if math.isnan(value):
        return Check(meaning.label, "not measured", grade, "this metric could not be measured on this scan")
    low = limits.low_review if limits.low_review is not None else limits.low_fail
    reason = ""
    if grade != "pass":
        reason = meaning.low if low is not None and value < low else meaning.high
    unit = meaning.unit if meaning.unit == "°" else f" {meaning.unit}".rstrip()
    text = f"{value:.3g}" if abs(value) < _WHOLE else f"{value:.0f}"
    return Check(meaning.label, f"{text}{unit}", grade, reason)
