"""Compares quality metrics with a normative reference: grade with reasons, flags of regions, and expected Dice."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from slant.quality.reference import METRICS, NormativeReference

if TYPE_CHECKING:
    from slant.labels import LabelProtocol
    from slant.quality.iqm import QualityMetrics
    from slant.quality.reference import Norm

Grade = Literal["pass", "review", "fail"]

OUTLIER_Z = 4.0
"""Absolute robust z-score above which the volume or the asymmetry of a region is flagged."""

FRAGMENTED = 0.25
"""Fraction of a region outside its largest connected component above which it is flagged."""

LOW_EXPECTED_DICE = 0.15
"""Decrease of the expected Dice below the mean Dice of a region on held-out subjects above which it is flagged."""

COLUMNS = ("expected_dice", "volume_z", "reference_low", "reference_high")
"""Columns of ``regions`` and ``aggregates`` in a record, in this order; the first is None for aggregates."""

_Z_95 = 1.96
_MAX_EVIDENCE = 8.0  # robust SDs; evidence is clipped so that no single metric dominates


@dataclass(frozen=True)
class Check:
    """One check of the quality of a segmentation.

    Attributes
    ----------
    label : str
        Metric that was checked.
    value : str
        Value with its unit.
    grade : {"pass", "review", "fail"}
    reason : str
        Why the grade is not ``pass``; empty otherwise.
    """

    label: str
    value: str
    grade: str
    reason: str


@dataclass(frozen=True)
class RegionQuality:
    """Quality of one region.

    Attributes
    ----------
    expected_dice : float
        Mean Dice with manual labels of such regions on held-out subjects; nan if it is not known.
    volume_z : float
        Robust z-score of the logarithm of its fraction of the intracranial volume; nan if it was not found.
    flag : str
        Flags joined by commas; empty if there are none.
    reference_range : tuple of 2 float
        95 % reference range of its fraction of the intracranial volume; nan if it is not known.
    """

    expected_dice: float
    volume_z: float
    flag: str
    reference_range: tuple[float, float] = (math.nan, math.nan)


@dataclass(frozen=True)
class Quality:
    """Quality of one scan.

    Attributes
    ----------
    grade : {"pass", "review", "fail"}
        The worst grade of the checks.
    checks : tuple of Check
        Checks, the worst first.
    regions : dict of int to RegionQuality
        Quality of each region, by id.
    metrics : dict of str to float
        Values of the metrics of the scan.
    aggregates : dict of str to tuple of 3 float
        Z-score of the volume and ends of the reference range, as of a region, for tissues, lobes and the brain, by
        ``level:name``.
    """

    grade: Grade
    checks: tuple[Check, ...]
    regions: dict[int, RegionQuality]
    metrics: dict[str, float]
    aggregates: dict[str, tuple[float, float, float]]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the grade is not ``pass``."""
        return tuple(f"{check.label} {check.value}: {check.reason}" for check in self.checks if check.grade != "pass")


def grade_scan(metrics: QualityMetrics, reference: NormativeReference, protocol: LabelProtocol) -> Quality:
    """Grade a scan by its metrics.

    Parameters
    ----------
    metrics : QualityMetrics
    reference : NormativeReference
        Reference of the model that labelled the scan.
    protocol : LabelProtocol
    """
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
    checks = [_check(name, scan[name], reference) for name in METRICS if name in scan and name in reference.limits]
    order = ("fail", "review", "pass")
    checks.sort(key=lambda check: order.index(check.grade))
    ranges = {i: reference_range(reference.volumes.get(i)) for i in z}
    regions = {i: RegionQuality(dice.get(i, math.nan), z[i], flags[i], ranges[i]) for i in z}
    aggregates = {
        name: (volume_z(fraction, reference.aggregates.get(name)), *reference_range(reference.aggregates.get(name)))
        for name, fraction in metrics.aggregates.items()
    }
    grade: Any = checks[0].grade if checks else "pass"
    return Quality(grade, tuple(checks), regions, scan, aggregates)


def expected_dice(metrics: QualityMetrics, reference: NormativeReference) -> dict[int, float]:
    """Expected Dice of every region with manual labels, 0 to 1; 0 for regions not found, empty without a Dice rule."""
    rule = reference.dice
    if rule is None:
        return {}
    names = list(rule.weights)
    expected = {}
    for i, base in rule.base.items():
        if not metrics.fractions.get(i):
            expected[i] = 0.0
            continue
        row = evidence(i, metrics, reference)
        change = math.fsum(rule.weights[name] * row[name] for name in names)
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


def reference_range(norm: Norm | None) -> tuple[float, float]:
    """95 % reference range of a fraction of the intracranial volume whose logarithm is normally distributed."""
    if norm is None:
        return math.nan, math.nan
    return math.exp(norm.median - _Z_95 * norm.robust_sd), math.exp(norm.median + _Z_95 * norm.robust_sd)


def plain_quality(quality: Quality) -> dict[str, Any]:
    """Quality as plain values for the record of a run, with None for what could not be measured."""
    regions = {
        str(i): [
            _plain(entry.expected_dice),
            _plain(entry.volume_z),
            *(_plain(end, 7) for end in entry.reference_range),
        ]
        for i, entry in quality.regions.items()
    }
    aggregates = {
        name: [None, _plain(z), _plain(low, 7), _plain(high, 7)] for name, (z, low, high) in quality.aggregates.items()
    }
    return {
        "grade": quality.grade,
        "reasons": list(quality.reasons),
        "checks": [asdict(check) for check in quality.checks],
        "metrics": {name: _plain(value) for name, value in quality.metrics.items()},
        "columns": list(COLUMNS),
        "regions": regions,
        "aggregates": aggregates,
        "flags": {str(i): entry.flag for i, entry in quality.regions.items() if entry.flag},
    }


def _clipped(z: float) -> float:
    return 0.0 if math.isnan(z) else min(_MAX_EVIDENCE, max(0.0, z))


def _plain(value: float, digits: int = 4) -> float | None:
    return None if math.isnan(value) else round(value, digits)


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


def _check(name: str, value: float, reference: NormativeReference) -> Check:
    meaning, limits = METRICS[name], reference.limits[name]
    grade = limits.grade(value)
    if math.isnan(value):
        return Check(meaning.label, "not measured", grade, "this metric could not be measured on this scan")
    low = limits.low_review if limits.low_review is not None else limits.low_fail
    reason = ""
    if grade != "pass":
        reason = meaning.low if low is not None and value < low else meaning.high
    unit = meaning.unit if meaning.unit == "°" else f" {meaning.unit}".rstrip()
    return Check(meaning.label, f"{value:.3g}{unit}", grade, reason)
