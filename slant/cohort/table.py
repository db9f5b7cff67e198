"""The results of a cohort: one row per scan, read from its record and its table of volumes, and the table of them."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slant.engine.index import read_index
from slant.engine.job import Job
from slant.engine.layout import OutputLayout
from slant.errors import InputError
from slant.io.names import ResultNames
from slant.io.quality import Check
from slant.io.read_results import read_record
from slant.io.record import Record
from slant.io.volume_table import MISSING, cell, read_volumes
from slant.volumes import VolumeRow

VOLUMES, DESCRIPTIONS = "volumes.tsv", "volumes.json"
"""Names of the table and of the description of its columns."""

_ABOUT = {
    "scan": "Id of the scan: its relative path without extension, or its name",
    "participant_id": "Label of the participant",
    "session_id": "Label of the session",
    "acquisition": "Value of the acq entity",
    "reconstruction": "Value of the rec entity",
    "run": "Value of the run entity",
    "grade": "pass, review or fail: whether the quality metrics of the scan are within the limits of the model",
    "reasons": "Why the grade is not pass",
    "expected_dice": "Expected Dice, mean over the regions: overlap with manual labels predicted from quality metrics",
    "registration_similarity": "Correlation of the registered scan with the template inside the brain; check the "
    "overlay of scans with low values",
    "regions_missing": "Number of regions without a voxel",
    "warnings": "Warnings, joined by semicolons",
    "runtime_s": "Total processing time from reading to the quality checks",
}  # in the order of the columns

ENTITIES = {"sub": "participant_id", "ses": "session_id", "acq": "acquisition", "rec": "reconstruction", "run": "run"}
"""Columns of the BIDS entities."""

NUMBERS = {"expected_dice": ".3f", "registration_similarity": ".4f", "regions_missing": "d", "runtime_s": ".1f"}
"""Numeric columns of a scan, with their formats."""

MIN_COMMON = 4
"""Fewest graded scans of which a reason can be common, see `common_reasons`."""

_AGGREGATES = {("intracranial", "eTIV"): "eTIV", ("brain", "brain without ventricles"): "brain"}


@dataclass(frozen=True)
class CohortRow:
    """One scan of a cohort.

    Attributes
    ----------
    stem : Path
        Path of the results without the suffix of each file: folder and output file prefix.
    grade : str
        ``pass``, ``review`` or ``fail``; empty if the scan is not graded.
    problems : tuple of Check
        Quality checks that are not ``pass``.
    warnings : tuple of str
        Warnings from reading and from segmenting the scan.
    expected_dice, registration_similarity, runtime_s : float
        Mean expected Dice, similarity to the template, and total runtime; nan if unknown.
    regions_missing : int
        Number of regions without a voxel.
    volumes_mm3 : dict of str to float
        Volumes of the regions, of the brain and of the intracranial space, by abbreviation; nan if unknown.
    entities : dict of str to str
        BIDS entities by the columns in `ENTITIES`.
    """

    scan: str
    stem: Path
    grade: str
    problems: tuple[Check, ...]
    warnings: tuple[str, ...]
    expected_dice: float
    registration_similarity: float
    regions_missing: int
    runtime_s: float
    volumes_mm3: dict[str, float]
    entities: dict[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> dict[str, str]:
        """Texts of all columns but the volumes, for tables and pages; empty if unknown."""
        numbers = {column: getattr(self, column) for column in NUMBERS}
        return {
            "scan": self.scan,
            **self.entities,
            "grade": self.grade,
            "reasons": " ".join("; ".join(check.text for check in self.problems).split()),
            "warnings": " ".join("; ".join(self.warnings).split()),
            **{c: "" if math.isnan(value) else format(value, NUMBERS[c]) for c, value in numbers.items()},
        }


@dataclass(frozen=True)
class CohortResults:
    """All scans of a cohort with results, sorted.

    Attributes
    ----------
    columns : dict of str to VolumeRow
        What each column of volumes measures, by abbreviation: the row of the first scan that has it.
    """

    rows: tuple[CohortRow, ...]
    columns: dict[str, VolumeRow]


def read_cohort(layout: OutputLayout, jobs: Iterable[Job], *, bids: bool = False) -> CohortResults:
    """Read the results of all finished scans in an output directory.

    Parameters
    ----------
    jobs : iterable of Job
        Jobs of this run; finished scans of other runs are added.
    bids : bool, optional
        Whether file names follow BIDS and have entities.
    """
    stems = {e.id: layout.out / e.folder / e.name for e in read_index(layout.index).values()}
    stems |= {job.id: job.folder / job.name for job in jobs}
    rows: list[CohortRow] = []
    columns: dict[str, VolumeRow] = {}
    for scan, stem in sorted(stems.items()):
        names = ResultNames(stem.name)
        try:
            record = read_record(stem.parent / names.record)
            volumes = _by_column(read_volumes(stem.parent / names.volumes))
        except (InputError, OSError, ValueError):
            continue  # no results
        rows.append(_row(scan, stem, record, volumes, _entities(stem.name) if bids else {}))
        for column, row in volumes.items():
            columns.setdefault(column, row)
    return CohortResults(tuple(rows), columns)


def common_reasons(results: CohortResults) -> tuple[str, ...]:
    """Reasons against a grade of ``pass`` that more than half of the graded scans share, the most frequent first.

    Such a reason says more about the scanner, the sequence or the subjects than about a single scan. There are none in
    cohorts of fewer than `MIN_COMMON` graded scans.
    """
    graded = [row for row in results.rows if row.grade]
    counts = Counter(reason for row in graded for reason in {(check.label, check.reason) for check in row.problems})
    if len(graded) < MIN_COMMON:
        return ()
    common = [(count, *reason) for reason, count in counts.items() if 2 * count > len(graded)]
    common.sort(key=lambda entry: (-entry[0], entry[1:]))
    return tuple(f"{count} of {len(graded)} scans: {label}: {reason}" for count, label, reason in common)


def _by_column(volumes: Iterable[VolumeRow]) -> dict[str, VolumeRow]:
    """The rows that become columns: those of regions, brain and intracranial space."""
    columns = {}
    for row in volumes:
        column = row.abbreviation if row.level == "region" else _AGGREGATES.get((row.level, row.abbreviation))
        if column is not None:
            columns[column] = row
    return columns


def _row(scan: str, stem: Path, record: Record, volumes: dict[str, VolumeRow], entities: dict[str, str]) -> CohortRow:
    quality, similarity = record.quality, record.registration_similarity
    return CohortRow(
        scan,
        stem,
        "" if quality is None else quality.grade,
        () if quality is None else quality.problems,
        record.warnings,
        math.nan if quality is None else quality.metrics.get("expected_dice", math.nan),
        math.nan if similarity is None else similarity,
        sum(row.level == "region" and row.volume_mm3 == 0 for row in volumes.values()),
        sum(timing.runtime_s for timing in record.timings),
        {column: row.volume_mm3 for column, row in volumes.items()},
        entities,
    )


def _entities(name: str) -> dict[str, str]:
    values = dict(re.findall(r"(?:^|_)([a-z]+)-([A-Za-z0-9]+)", name))
    prefixes = {"sub": "sub-", "ses": "ses-"}
    return {column: prefixes.get(e, "") + values[e] for e, column in ENTITIES.items() if e in values}


def format_table(results: CohortResults) -> str:
    """The text of ``volumes.tsv``."""
    columns = _leading_columns(results)
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow([*columns, *results.columns])
    for row in results.rows:
        cells, mm3 = row.cells, row.volumes_mm3
        writer.writerow([cells.get(c) or MISSING for c in columns] + [cell(mm3.get(c)) for c in results.columns])
    return text.getvalue()


def describe_columns(results: CohortResults) -> dict[str, Any]:
    """The content of ``volumes.json``: the description of each column."""
    about: dict[str, Any] = {column: {"Description": _ABOUT[column]} for column in _leading_columns(results)}
    if "runtime_s" in about:
        about["runtime_s"]["Units"] = "s"
    return about | {column: _describe(row) for column, row in results.columns.items()}


def _leading_columns(results: CohortResults) -> list[str]:
    """All columns but the volumes; those of BIDS entities only if they occur."""
    return [c for c in _ABOUT if any(c not in ENTITIES.values() or c in row.entities for row in results.rows)]


def _describe(row: VolumeRow) -> dict[str, Any]:
    description: dict[str, Any] = {"LongName": row.name, "Description": f"Volume of {row.name}", "Units": "mm3"}
    if row.level == "intracranial":
        description["Description"] = "Estimated total intracranial volume (eTIV), from the affine registration"
    if row.level == "region":
        description |= {"Index": row.index, "Hemisphere": row.hemisphere, "Tissue": row.tissue, "Lobe": row.lobe}
    return description
