"""What is usual for a model: limits of the measures, volumes of regions, and how Dice follows from what can be seen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from slant.config import build
from slant.errors import ModelError, SettingsError


@dataclass(frozen=True)
class Meaning:
    """What a measure of `slant.quality.measures.Measures.scan` says, in words.

    Attributes
    ----------
    label : str
    unit : str
        Behind the number.
    low, high : str
        What a value under or over the limits means and what to do; empty where that is fine.
    """

    label: str
    unit: str = ""
    low: str = ""
    high: str = ""


_OTHER_IMAGE = "is it a T1-weighted scan, with white matter brighter than gray?"

MEASURES: dict[str, Meaning] = {
    "similarity": Meaning("Fit to the template", low="the registration may be wrong: look at its picture"),
    "deformation": Meaning(
        "Fit to the groupwise template", low="the atlas prior may lie wrong: compare the regions with the picture"
    ),
    "overlap": Meaning("Overlap with the template's brain", low="registration or brain mask may be wrong"),
    "tilt": Meaning("Tilt of the head", "°", high="the head is turned far: look at the registration"),
    "head": Meaning(
        "Size of the head, log of its share of the template's",
        low="the head is unusually small: right voxel size? a child?",
        high="the head is unusually large: right voxel size? does the mask hold more than the brain?",
    ),
    "stretch": Meaning(
        "Stretch of the head", high="the head is longer in one direction than heads are: are the voxel sizes right?"
    ),
    "cut": Meaning("Brain on the image's edge", "%", high="the field of view cuts the brain: volumes come out small"),
    "brain": Meaning("Brain mask without a region", "%", high="the mask holds more than the brain, or is not its own"),
    "rim": Meaning("White matter on the rim of the mask", "%", high="the mask cuts the brain, or is another one's"),
    "contrast": Meaning("Contrast of white and gray matter", low=f"less contrast than usual, or none: {_OTHER_IMAGE}"),
    "fluid": Meaning("Contrast of gray matter and fluid", low=f"fluid is not dark: {_OTHER_IMAGE}"),
    "joint variation": Meaning(
        "Joint variation (CJV)", high="gray and white matter are hard to tell apart: noise, motion or bias"
    ),
    "noise": Meaning("Noise, as a share of the contrast", high="the scan is noisy"),
    "lesion": Meaning("Largest strange place", "cm³", high="a lesion, an artefact or a wrong label: look where it is"),
    "dark": Meaning(
        "Dark place on one side",
        "cm³",
        high="fluid, a cavity or a lesion that the other side has not: look where it is",
    ),
    "votes": Meaning("Mean share of the votes", low="the tiles disagree more than usual"),
    "missing": Meaning("Regions not found", high="regions are missing"),
    "fragments": Meaning("Labels apart from their region", "%", high="regions are in pieces"),
    "volumes": Meaning("Regions of unusual size", high="volumes are not usual: see the flags of the regions"),
    "sides": Meaning("Regions with unusual asymmetry", high="left and right differ: see the flags of the regions"),
    "expected dice": Meaning("Expected mean Dice", low="expect less agreement with manual labels than usual"),
}
"""All measures, in the order in which they are shown."""


@dataclass(frozen=True)
class Limits:
    """Values of a measure from which a reader should look, and from which the scan fails; None where there is none."""

    usual: float
    low_fail: float | None = None
    low_look: float | None = None
    high_look: float | None = None
    high_fail: float | None = None

    def grade(self, value: float) -> Literal["pass", "look", "fail"]:
        """Of one value; what could not be measured is to be looked at."""
        if math.isnan(value):
            return "look"
        if _beyond(value, self.low_fail, self.high_fail):
            return "fail"
        return "look" if _beyond(value, self.low_look, self.high_look) else "pass"


@dataclass(frozen=True)
class Usual:
    """Middle and robust spread (standard deviation of a normal distribution) of a number."""

    middle: float
    spread: float

    def z(self, value: float) -> float:
        """Spreads that a value lies above the middle."""
        return (value - self.middle) / self.spread


@dataclass(frozen=True)
class DiceRule:
    """How the Dice to expect of a region follows from what can be seen, a linear rule fitted on people held out.

    Attributes
    ----------
    base : dict of int to float
        Mean Dice of each region on undisturbed scans of people held out, by id.
    weights : dict of str to float
        By the names that `slant.quality.grade.evidence` gives.
    error : float
        Mean absolute error of the rule on people left out of its fit.
    """

    base: dict[int, float]
    weights: dict[str, float]
    error: float


@dataclass(frozen=True)
class Reference:
    """What is usual for one model.

    Attributes
    ----------
    about : str
        Scans that it was made from.
    limits : dict of str to Limits
        By the names of `MEASURES`.
    usual : dict of str to Usual
        Of the measures on good scans.
    volumes : dict of int to Usual
        Of the logarithm of each region's share of the intracranial volume.
    asymmetries : dict of int to Usual
        In percent, by the id of the left region.
    shares : dict of int to Usual
        Of the mean share of the votes.
    sums : dict of str to Usual
        As ``volumes``, of tissues, lobes and the brain, by ``level:name``.
    dice : DiceRule or None
        None if the model was judged on nobody.
    """

    about: str
    limits: dict[str, Limits]
    usual: dict[str, Usual] = field(default_factory=dict)
    volumes: dict[int, Usual] = field(default_factory=dict)
    asymmetries: dict[int, Usual] = field(default_factory=dict)
    shares: dict[int, Usual] = field(default_factory=dict)
    sums: dict[str, Usual] = field(default_factory=dict)
    dice: DiceRule | None = None


def reference_of(plain: dict[str, Any], where: str) -> Reference:
    """A reference from plain values, as `plain_reference` gives them.

    Raises
    ------
    ModelError
        If they are none.
    """
    try:
        rule = plain.get("dice")
        return Reference(
            str(plain["about"]),
            {name: build(Limits, entry, name) for name, entry in plain["limits"].items() if name in MEASURES},
            {name: Usual(*pair) for name, pair in plain["usual"].items()},
            {int(i): Usual(*pair) for i, pair in plain["volumes"].items()},
            {int(i): Usual(*pair) for i, pair in plain["asymmetries"].items()},
            {int(i): Usual(*pair) for i, pair in plain["shares"].items()},
            {name: Usual(*pair) for name, pair in plain["sums"].items()},
            DiceRule({int(i): float(v) for i, v in rule["base"].items()}, rule["weights"], rule["error"])
            if rule
            else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, SettingsError) as error:
        raise ModelError(f"{where} cannot be used: {error!r}; install or export the model again") from error


def plain_reference(reference: Reference) -> dict[str, Any]:
    """A reference as plain values for JSON, rounded to six digits."""

    def pairs(table: dict[Any, Usual]) -> dict[str, list[float]]:
        return {str(key): [_rounded(entry.middle), _rounded(entry.spread)] for key, entry in table.items()}

    limits = {
        name: {key: _rounded(value) for key, value in vars(entry).items() if value is not None}
        for name, entry in reference.limits.items()
    }
    rule = reference.dice
    dice = None
    if rule is not None:
        base = {str(i): _rounded(value) for i, value in rule.base.items()}
        weights = {name: _rounded(value) for name, value in rule.weights.items()}
        dice = {"base": base, "weights": weights, "error": _rounded(rule.error)}
    return {
        "about": reference.about,
        "limits": limits,
        "usual": pairs(reference.usual),
        "volumes": pairs(reference.volumes),
        "asymmetries": pairs(reference.asymmetries),
        "shares": pairs(reference.shares),
        "sums": pairs(reference.sums),
        "dice": dice,
    }


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _beyond(value: float, low: float | None, high: float | None) -> bool:
    return (low is not None and value < low) or (high is not None and value > high)
