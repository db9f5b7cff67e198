"""Makes a model's reference from measured scans: what is usual, where limits lie, and how Dice follows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from slant.quality.grade import UNUSUAL, evidence, expected_dice, volume_z
from slant.quality.measures import Measures
from slant.quality.reference import MEASURES, DiceRule, Limits, Reference, Usual

Truth = tuple[Measures, dict[int, float], str]
"""Measures of a scan, its Dice by region (nan where the truth has none), and who was scanned."""

LOOK, FAIL = 6.0, 12.0
"""Robust standard deviations from the middle to the limits."""

_MAD = 1.4826
_COUNTS = {"missing": (0.5, 5.5), "volumes": (6.5, 40.5), "sides": (5.5, 30.5)}  # least limits of what is counted
_LEAST = {"cut": 0.3, "lesion": 0.3, "dark": 0.2, "fragments": 0.1, "tilt": 2.0, "stretch": 0.02, "brain": 1.0,
    "rim": 1.0, "contrast": 0.03, "fluid": 0.1, "joint variation": 0.05, "noise": 0.01, "head": 0.1, "similarity": 0.03,
    "deformation": 0.01,
}  # fmt: skip # least spreads, so that two scanners are not taken for all
_LEAST_SHARE = 0.02  # of the middle, least spread of all others
_LEAST_LOG, _LEAST_PERCENT, _LEAST_VOTES = 0.05, 4.0, 0.01  # of volumes, asymmetries and shares of votes
_LEAST_SUM = 0.01
_LEAST_EXPECTED = 0.02
_RIDGE = 100.0  # regions of evidence 1 that pull each weight to 0, so that none runs away
_SHRINK = 0.3  # people with the mean Dice of all regions, beside those who were measured


def fit_reference(good: Sequence[Measures], about: str) -> Reference:
    """What is usual among scans that look good.

    Limits lie `LOOK` and `FAIL` robust standard deviations (1.4826 times the median absolute deviation) from the
    median on the bad side, and never inside the range of the good scans themselves.

    Parameters
    ----------
    good : sequence of Measures
    about : str
        Which scans they are of.
    """
    measured = [name for name in good[0].scan if not all(math.isnan(m.scan[name]) for m in good)]
    usual = {name: _usual([m.scan[name] for m in good], _LEAST.get(name, 0.0), _LEAST_SHARE) for name in measured}
    limits = {name: _limits(name, entry, [m.scan[name] for m in good]) for name, entry in usual.items()}
    ids, left = good[0].fractions, good[0].asymmetries
    logs = {i: [math.log(m.fractions[i]) for m in good if m.fractions[i] > 0] for i in ids}
    reference = Reference(
        about,
        limits,
        usual,
        {i: _usual(logs[i], _LEAST_LOG) for i in ids if logs[i]},
        {i: _usual([m.asymmetries[i] for m in good], _LEAST_PERCENT) for i in left},
        {i: _usual([m.shares[i] for m in good], _LEAST_VOTES) for i in good[0].shares if logs[i]},
        {name: _usual([math.log(m.sums[name]) for m in good if m.sums[name] > 0], _LEAST_SUM) for name in good[0].sums},
    )
    counted = {
        "volumes": [
            sum(abs(volume_z(m.fractions[i], entry)) > UNUSUAL for i, entry in reference.volumes.items()) for m in good
        ],
        "sides": [
            sum(abs(entry.z(m.asymmetries[i])) > UNUSUAL for i, entry in reference.asymmetries.items()) for m in good
        ],
    }
    more = {
        name: Limits(float(np.median(counts)), None, None, max(_COUNTS[name][0], max(counts) + 0.5), _COUNTS[name][1])
        for name, counts in counted.items()
    }
    return replace(reference, limits={**limits, **more})


def fit_dice(reference: Reference, truths: Sequence[Truth], clean: Sequence[bool]) -> Reference:
    """The reference with a rule for the Dice to expect, and limits for its mean.

    The rule is ``Dice = base - weights * evidence`` with weights of at least 0 (non-negative least squares, Lawson &
    Hanson 1974): nothing that speaks against a region can raise what is expected of it.

    Parameters
    ----------
    reference : Reference
    truths : sequence of Truth
        Of people whom the model has not seen, undisturbed and disturbed.
    clean : sequence of bool
        Which of them are undisturbed.
    """
    if not truths:
        return reference
    _, error = reliability(reference, truths, clean)
    rule = DiceRule(*_rule(reference, truths, clean), error["absolute"])
    ruled = replace(reference, dice=rule)
    means = [_mean(expected_dice(m, ruled).values()) for m, _, _ in truths]
    usual = _usual([mean for mean, own in zip(means, clean, strict=True) if own], _LEAST_EXPECTED)
    limits = Limits(usual.middle, usual.middle - FAIL * usual.spread, usual.middle - LOOK * usual.spread)
    return replace(ruled, limits={**ruled.limits, "expected dice": limits})


def reliability(
    reference: Reference, truths: Sequence[Truth], clean: Sequence[bool]
) -> tuple[list[tuple[float, int, float, float]], dict[str, float]]:
    """How well expected Dice comes true on people who were left out of the rule's fit.

    Returns
    -------
    list of tuple
        A row a bin of 0.1 that occurs: its lower edge, regions in it, mean expected and mean found Dice.
    dict of str to float
        ``calibration``: mean distance of both means over the bins, weighted by their regions (expected calibration
        error, Naeini et al. 2015); ``absolute``: mean absolute error of a region; ``scan``: of a scan's mean.
    """
    people = sorted({person for _, _, person in truths})
    expected, found, scans = [], [], []
    for person in people:
        others = [(t, own) for t, own in zip(truths, clean, strict=True) if t[2] != person]
        known, their = [t for t, _ in others] or list(truths), [own for _, own in others] or list(clean)
        ruled = replace(reference, dice=DiceRule(*_rule(reference, known, their), 0.0))
        for measures, dice, name in truths:
            if name == person:
                guess = expected_dice(measures, ruled)
                pairs = [(guess[i], dice[i]) for i in guess if not math.isnan(dice.get(i, math.nan))]
                expected += [pair[0] for pair in pairs]
                found += [pair[1] for pair in pairs]
                scans.append(abs(_mean(pair[0] for pair in pairs) - _mean(pair[1] for pair in pairs)))
    guessed, true = np.array(expected), np.array(found)
    cells = np.minimum((guessed * 10).astype(int), 9)
    rows = [
        (cell / 10, int((cells == cell).sum()), float(guessed[cells == cell].mean()), float(true[cells == cell].mean()))
        for cell in np.unique(cells)
    ]
    calibration = sum(count * abs(one - other) for _, count, one, other in rows) / max(1, len(true))
    absolute = float(np.abs(guessed - true).mean())
    return rows, {"calibration": calibration, "absolute": absolute, "scan": float(np.mean(scans))}


def _rule(
    reference: Reference, truths: Sequence[Truth], clean: Sequence[bool]
) -> tuple[dict[int, float], dict[str, float]]:
    """Base and weights."""
    ids = truths[0][1]
    undisturbed = [dice for (_, dice, _), own in zip(truths, clean, strict=True) if own] or [t[1] for t in truths]
    base = {i: _mean(dice[i] for dice in undisturbed) for i in ids}
    grand = _mean(base.values())
    count = len(undisturbed)
    base = {i: (count * v + _SHRINK * grand) / (count + _SHRINK) for i, v in base.items() if not math.isnan(v)}
    rows, losses = [], []
    for measures, dice, _ in truths:
        for i, usual in base.items():
            if measures.fractions.get(i) and not math.isnan(dice[i]):
                rows.append(evidence(i, measures, reference))
                losses.append(usual - dice[i])
    names = list(rows[0])
    table = np.array([[row[name] for name in names] for row in rows])
    ridge = math.sqrt(_RIDGE) * np.eye(len(names))
    weights, _ = nnls(np.vstack([table, ridge]), np.append(losses, np.zeros(len(names))))
    return base, {name: -float(weight) for name, weight in zip(names, weights, strict=True) if weight > 0}


def _usual(values: Iterable[float], least: float, share: float = 0.0) -> Usual:
    """Median and robust spread, the latter at least ``least`` and that share of the median."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not known.size:
        return Usual(0.0, 1.0)
    middle = float(np.median(known))
    return Usual(middle, max(_MAD * float(np.median(np.abs(known - middle))), least, share * abs(middle), 1e-6))


def _limits(name: str, usual: Usual, values: list[float]) -> Limits:
    """On the sides where a measure can be bad."""
    meaning = MEASURES[name]
    known: NDArray[np.float64] = np.array([value for value in values if not math.isnan(value)])
    low: tuple[float | None, float | None] = (None, None)
    high = low
    if meaning.low:
        low = _side(usual, -1, float(known.min()))
    if meaning.high:
        high = _side(usual, 1, float(known.max()))
    if name in _COUNTS:
        high = (max(_COUNTS[name][0], float(known.max()) + 0.5), _COUNTS[name][1])
    return Limits(usual.middle, low[1], low[0], high[0], high[1])


def _side(usual: Usual, sign: int, extreme: float) -> tuple[float, float]:
    """Limits to look and to fail on one side."""
    reach = max(LOOK * usual.spread, sign * (extreme - usual.middle) * 1.1)
    return usual.middle + sign * reach, usual.middle + sign * max(FAIL * usual.spread, 2 * reach)


def _mean(values: Iterable[float]) -> float:
    known: NDArray[np.float64] = np.array([value for value in values if not math.isnan(value)])
    return float(known.mean()) if known.size else math.nan
