"""Normative reference of a model, a file in its folder: limits of metrics, volume ranges, model of expected Dice."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from slant.config import build
from slant.errors import ModelError, SettingsError
from slant.files import write_file
from slant.io.models import model_folder
from slant.quality.metrics import METRICS, Limits

FILE = "quality.json"
"""Name of the reference file in the folder of a model."""


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
        Limits by the names in `slant.quality.metrics.METRICS`; those with fixed limits are left out.
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
