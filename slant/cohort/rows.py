"""The results of a cohort as values: one row per scan, read from its record and its table of volumes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from slant.engine.index import read_index
from slant.engine.job import Job
from slant.engine.layout import OutputLayout
from slant.errors import InputError
from slant.io.names import ResultNames
from slant.io.read_results import read_record
from slant.io.record import Record
from slant.io.volume_table import read_volumes
from slant.volumes import VolumeRow

ENTITIES = {"sub": "participant_id", "ses": "session_id", "acq": "acquisition", "rec": "reconstruction", "run": "run"}
"""Columns of the BIDS entities."""

NUMBERS = {"expected_dice": ".3f", "registration_similarity": ".4f", "regions_missing": "d", "runtime_s": ".1f"}
"""Numeric columns of a scan, with their formats."""

_AGGREGATES = {("intracranial", "eTIV"): "eTIV", ("brain", "brain without ventricles"): "brain"}


@dataclass(frozen=True)
class CohortRow:
    """One scan of a cohort.

    Attributes
    ----------
    scan : str
        Id of the scan.
    stem : Path
        Path of the results without the suffix of each file: folder and output file prefix.
    grade : str
        ``pass``, ``review`` or ``fail``; empty if the scan is not graded.
    reasons, warnings : tuple of str
        Why the grade is not ``pass``; warnings of the segmentation.
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
    reasons: tuple[str, ...]
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
            "reasons": _one_line(self.reasons),
            "warnings": _one_line(self.warnings),
            **{c: "" if math.isnan(value) else format(value, NUMBERS[c]) for c, value in numbers.items()},
        }


@dataclass(frozen=True)
class CohortResults:
    """All scans of a cohort with results.

    Attributes
    ----------
    rows : tuple of CohortRow
        Rows, sorted by scan.
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
        () if quality is None else quality.reasons,
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


def _one_line(texts: Iterable[str]) -> str:
    return " ".join("; ".join(texts).split())
