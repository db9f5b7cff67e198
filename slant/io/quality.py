"""The quality of a scan as values: its grade with the checks, its metrics, and how usual each region is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any, Literal

Grade = Literal["pass", "review", "fail"]


@dataclass(frozen=True)
class Check:
    """One check of a segmentation: label of the metric, value with unit, grade, and reason if the grade is not pass."""

    label: str
    value: str
    grade: Grade
    reason: str

    @property
    def text(self) -> str:
        """Label, value and reason in one sentence."""
        return f"{self.label} {self.value}: {self.reason}"


@dataclass(frozen=True)
class RegionQuality:
    """Quality of a region, or of a tissue, lobe or the brain; nan where a value is not known.

    Attributes
    ----------
    expected_dice : float
        Mean Dice with manual labels of such regions on held-out subjects; always nan for sums over regions.
    volume_z : float
        Robust z-score of the logarithm of its fraction of the intracranial volume.
    reference_low, reference_high : float
        Ends of the 95 % reference range of its fraction of the intracranial volume.
    """

    expected_dice: float = math.nan
    volume_z: float = math.nan
    reference_low: float = math.nan
    reference_high: float = math.nan


COLUMNS = tuple(field.name for field in fields(RegionQuality))
"""Columns of the quality of regions, in a record and in the table of volumes."""


@dataclass(frozen=True)
class Quality:
    """Quality of one scan; its grade is the worst of the checks, which are sorted by it, the worst first.

    Attributes
    ----------
    metrics : dict of str to float
        Metrics of the scan by the names in `slant.quality.metrics.METRICS`; nan if they could not be measured.
    regions : dict of int to RegionQuality
        Quality of each region, by id.
    aggregates : dict of str to RegionQuality
        Quality of tissues, lobes and the brain, by ``level:name``.
    flags : dict of int to str
        Flags joined by commas, by region id; regions without a flag are absent.
    compared_with : str
        Description of the reference scans.
    """

    grade: Grade
    checks: tuple[Check, ...]
    metrics: dict[str, float]
    regions: dict[int, RegionQuality]
    aggregates: dict[str, RegionQuality]
    flags: dict[int, str]
    compared_with: str

    @property
    def problems(self) -> tuple[Check, ...]:
        """The checks that are not ``pass``, the worst first."""
        return tuple(check for check in self.checks if check.grade != "pass")

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the grade is not ``pass``."""
        return tuple(check.text for check in self.problems)

    def plain(self) -> dict[str, Any]:
        """Plain values for JSON, with None for nan."""
        return {
            "grade": self.grade,
            "reasons": list(self.reasons),
            "checks": [vars(check) for check in self.checks],
            "metrics": {name: _or_none(value) for name, value in self.metrics.items()},
            "columns": list(COLUMNS),
            "regions": {str(i): _row(quality) for i, quality in self.regions.items()},
            "aggregates": {name: _row(quality) for name, quality in self.aggregates.items()},
            "flags": {str(i): flag for i, flag in self.flags.items()},
            "compared_with": self.compared_with,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Quality:
        """Quality from the values that `plain` returns.

        Raises
        ------
        LookupError, TypeError, ValueError
            If a value is missing or has the wrong type.
        """
        order = [plain["columns"].index(name) for name in COLUMNS]
        return cls(
            plain["grade"],
            tuple(Check(**check) for check in plain["checks"]),
            {name: _or_nan(value) for name, value in plain["metrics"].items()},
            {int(i): RegionQuality(*(_or_nan(row[c]) for c in order)) for i, row in plain["regions"].items()},
            {name: RegionQuality(*(_or_nan(row[c]) for c in order)) for name, row in plain["aggregates"].items()},
            {int(i): flag for i, flag in plain["flags"].items()},
            plain["compared_with"],
        )


def _row(quality: RegionQuality) -> list[float | None]:
    return [_or_none(value) for value in astuple(quality)]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
