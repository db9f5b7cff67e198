"""The table of a cohort: one row per scan, with its regional volumes and quality."""

from __future__ import annotations

import csv
import io
from typing import Any

from slant.cohort.rows import ENTITIES, CohortResults
from slant.io.volume_table import MISSING, cell
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
    "runtime_s": "Total processing time from brain extraction to volumetry",
}  # in the order of the columns


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
