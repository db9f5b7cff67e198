"""Measures against what is usual: a grade with its reasons, and for every region a flag and the Dice to expect."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from slant.quality.reference import MEASURES, Reference

if TYPE_CHECKING:
    from slant.labels import LabelProtocol
    from slant.quality.measures import Measures
    from slant.quality.reference import Usual

Grade = Literal["pass", "look", "fail"]

UNUSUAL = 4.0
"""Robust standard deviations from which the volume or the asymmetry of a region is flagged."""

APART = 0.25
"""Share of a region apart from its largest piece from which it is flagged."""

UNSURE = 0.15
"""Expected Dice lost against the usual one of a region, from which it is flagged."""

COLUMNS = ("expected_dice", "volume_z", "usual_low", "usual_high")
"""What a record tells of each region, in this order; of sums the first is None."""

_SPREADS_95 = 1.96
_WORST = 8.0  # spreads and z beyond which evidence counts no more, so that one number cannot rule


@dataclass(frozen=True)
class Judgement:
    """One judgement of the quality of a segmentation.

    Attributes
    ----------
    label, value, grade, reason : str
        What was judged, what was found, the grade (such as pass, look, fail), and why.
    """

    label: str
    value: str
    grade: str
    reason: str


@dataclass(frozen=True)
class RegionQuality:
    """What to think of one region.

    Attributes
    ----------
    expected_dice : float
        Overlap with manual labels that such a region had on average on people held out; nan if that is not known.
    volume_z : float
        Robust standard deviations of its share of the intracranial volume, in logarithms; nan if it was not found.
    flag : str
        In a few words; empty if nothing is unusual.
    usual : tuple of 2 float
        Between which shares of the intracranial volume 95 of 100 good scans lie; nan if that is not known.
    """

    expected_dice: float
    volume_z: float
    flag: str
    usual: tuple[float, float] = (math.nan, math.nan)


@dataclass(frozen=True)
class Quality:
    """What to think of one scan.

    Attributes
    ----------
    grade : {"pass", "look", "fail"}
        The worst of the judgements.
    judgements : tuple of Judgement
        The worst first.
    regions : dict of int to RegionQuality
        By id.
    measures : dict of str to float
    sums : dict of str to tuple of 3 float
        Of tissues, lobes and the brain, by ``level:name``: z of the volume and the usual range, as of a region.
    """

    grade: Grade
    judgements: tuple[Judgement, ...]
    regions: dict[int, RegionQuality]
    measures: dict[str, float]
    sums: dict[str, tuple[float, float, float]]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the grade is not ``pass``."""
        return tuple(f"{j.label} {j.value}: {j.reason}" for j in self.judgements if j.grade != "pass")


def judge(measures: Measures, reference: Reference, protocol: LabelProtocol) -> Quality:
    """Grade a scan.

    Parameters
    ----------
    measures : Measures
    reference : Reference
        Of the model that labelled it.
    protocol : LabelProtocol
    """
    z = {i: volume_z(fraction, reference.volumes.get(i)) for i, fraction in measures.fractions.items()}
    sides = {
        i: reference.asymmetries[i].z(value) if i in reference.asymmetries else math.nan
        for i, value in measures.asymmetries.items()
    }
    dice = expected_dice(measures, reference)
    usual = reference.dice.base if reference.dice else {}
    lost = {i: usual[i] - value for i, value in dice.items()}
    flags = {i: _flag(i, z[i], _own_side(i, sides, protocol), measures, lost.get(i, 0.0)) for i in z}
    found = [value for value in dice.values() if not math.isnan(value)]
    scan = {
        **measures.scan,
        "volumes": float(sum(abs(value) > UNUSUAL for value in z.values())),
        "sides": float(sum(abs(value) > UNUSUAL for value in sides.values())),
        "expected dice": float(np.mean(found)) if found else math.nan,
    }
    judged = [_judgement(name, scan[name], reference) for name in MEASURES if name in scan and name in reference.limits]
    order = ("fail", "look", "pass")
    judged.sort(key=lambda judgement: order.index(judgement.grade))
    ranges = {i: usual_range(reference.volumes.get(i)) for i in z}
    regions = {i: RegionQuality(dice.get(i, math.nan), z[i], flags[i], ranges[i]) for i in z}
    sums = {
        name: (volume_z(fraction, reference.sums.get(name)), *usual_range(reference.sums.get(name)))
        for name, fraction in measures.sums.items()
    }
    grade: Any = judged[0].grade if judged else "pass"
    return Quality(grade, tuple(judged), regions, scan, sums)


def expected_dice(measures: Measures, reference: Reference) -> dict[int, float]:
    """Overlap with manual labels to expect of every region, 0 to 1; 0 where it was not found, empty without a rule."""
    rule = reference.dice
    if rule is None:
        return {}
    names = list(rule.weights)
    found = {}
    for i, base in rule.base.items():
        if not measures.fractions.get(i):
            found[i] = 0.0
            continue
        row = evidence(i, measures, reference)
        change = math.fsum(rule.weights[name] * row[name] for name in names)
        found[i] = min(1.0, max(0.0, base + change))
    return found


def evidence(region: int, measures: Measures, reference: Reference) -> dict[str, float]:
    """What speaks for more or less Dice than usual in a region: how far it and its scan lie from what is usual.

    Returns
    -------
    dict of str to float
        ``one``: 1; ``share``: spreads of its share of the votes below the usual one; ``size``: those of its volume,
        either way; ``pieces``: share that lies apart; and ``scan:NAME``, spreads of a measure in its bad direction.
    """
    usual = reference.shares.get(region)
    share, pieces = measures.shares.get(region, math.nan), measures.pieces.get(region, math.nan)
    row = {
        "one": 1.0,
        "share": _worse(-usual.z(share)) if usual else 0.0,
        "size": _worse(abs(volume_z(measures.fractions.get(region, 0.0), reference.volumes.get(region)))),
        "pieces": 0.0 if math.isnan(pieces) else pieces,
    }
    for name, entry in reference.usual.items():
        high = bool(MEASURES[name].high) and not MEASURES[name].low
        z = entry.z(measures.scan[name])
        row[f"scan:{name}"] = _worse(z if high else -z)
    return row


def volume_z(fraction: float, usual: Usual | None) -> float:
    """Robust standard deviations of a region's share of the intracranial volume; nan if it is absent or unknown."""
    return usual.z(math.log(fraction)) if usual is not None and fraction > 0 else math.nan


def usual_range(usual: Usual | None) -> tuple[float, float]:
    """Shares of the intracranial volume between which 95 of 100 good scans lie, if their logarithms are normal."""
    if usual is None:
        return math.nan, math.nan
    return math.exp(usual.middle - _SPREADS_95 * usual.spread), math.exp(usual.middle + _SPREADS_95 * usual.spread)


def plain_quality(quality: Quality) -> dict[str, Any]:
    """For the record of a run: plain values, None for what could not be measured."""
    regions = {
        str(i): [_plain(entry.expected_dice), _plain(entry.volume_z), *(_plain(end, 7) for end in entry.usual)]
        for i, entry in quality.regions.items()
    }
    sums = {name: [None, _plain(z), _plain(low, 7), _plain(high, 7)] for name, (z, low, high) in quality.sums.items()}
    return {
        "grade": quality.grade,
        "reasons": list(quality.reasons),
        "judgements": [asdict(judgement) for judgement in quality.judgements],
        "measures": {name: _plain(value) for name, value in quality.measures.items()},
        "columns": list(COLUMNS),
        "regions": regions,
        "sums": sums,
        "flags": {str(i): entry.flag for i, entry in quality.regions.items() if entry.flag},
    }


def _worse(z: float) -> float:
    return 0.0 if math.isnan(z) else min(_WORST, max(0.0, z))


def _plain(value: float, digits: int = 4) -> float | None:
    return None if math.isnan(value) else round(value, digits)


def _own_side(region: int, sides: dict[int, float], protocol: LabelProtocol) -> float:
    """Asymmetry of a region's pair in spreads, whichever side it is; nan on the midline."""
    partner = protocol.by_name(protocol.by_id(region).partner_name).id
    return sides.get(region, sides.get(partner, math.nan))


def _flag(region: int, z: float, side: float, measures: Measures, lost: float) -> str:
    absent = not measures.fractions[region]
    checks = {
        "not found": absent,
        "small": z < -UNUSUAL,
        "large": z > UNUSUAL,
        "sides differ": abs(side) > UNUSUAL,
        "in pieces": measures.pieces.get(region, 0.0) > APART,
        "unsure": lost > UNSURE and not absent,
    }
    return ", ".join(text for text, holds in checks.items() if holds)


def _judgement(name: str, value: float, reference: Reference) -> Judgement:
    meaning, limits = MEASURES[name], reference.limits[name]
    grade = limits.grade(value)
    if math.isnan(value):
        return Judgement(meaning.label, "not measured", grade, "it could not be measured on this scan")
    low = limits.low_look if limits.low_look is not None else limits.low_fail
    reason = ""
    if grade != "pass":
        reason = meaning.low if low is not None and value < low else meaning.high
    unit = meaning.unit if meaning.unit == "°" else f" {meaning.unit}".rstrip()
    return Judgement(meaning.label, f"{value:.3g}{unit}", grade, reason)
