"""Writes the table of a cohort: one row per scan, with its regional volumes and quality."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slant.cohort.dashboard import write_dashboard
from slant.engine.failures import TABLE, Failure, read_failures, write_failures, write_text
from slant.engine.index import read_index
from slant.engine.job import Job
from slant.engine.layout import OutputLayout

VOLUMES = "volumes.tsv"
_ENTITIES = {"sub": "participant_id", "ses": "session_id", "acq": "acquisition", "rec": "reconstruction", "run": "run"}
_QUALITY = ("grade", "reasons", "expected_dice", "registration_similarity", "regions_missing", "warnings", "runtime_s")
_DESCRIPTIONS = {
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
}
_AGGREGATES = {("intracranial", "eTIV"): "eTIV", ("brain", "brain without ventricles"): "brain"}


@dataclass(frozen=True)
class CohortRow:
    """One row of the table.

    Attributes
    ----------
    lead : dict of str to str
        Leading columns: id, BIDS entities and quality.
    volumes : dict of str to str
        Volumes in mm3, as in the table of the scan, by abbreviation.
    stem : Path
        Path of the results without the suffix of each file: folder and output file prefix.
    """

    lead: dict[str, str]
    volumes: dict[str, str]
    stem: Path


def write_tables(
    layout: OutputLayout,
    jobs: Iterable[Job],
    failed: Iterable[Failure],
    *,
    bids: bool = False,
    participants: Path | None = None,
) -> tuple[int, int]:
    """Write ``volumes.tsv``, ``volumes.json``, ``failures.tsv`` and the dashboard of an output directory.

    Parameters
    ----------
    layout : OutputLayout
    jobs : iterable of Job
        Jobs of this run; finished scans of other runs are added.
    failed : iterable of Failure
        Failures of this run; failures of other runs are added if their scans still exist.
    bids : bool, optional
        Whether file names follow BIDS; each entity that occurs then gets a column.
    participants : Path, optional
        ``participants.tsv``, whose columns become filters of the dashboard.

    Returns
    -------
    tuple of int
        Numbers of rows of the table of volumes and of the table of failures.

    Raises
    ------
    OutputError
        If a table cannot be written.
    """
    about: dict[str, dict[str, Any]] = {}
    stems = {e.id: layout.out / e.folder / e.name for e in read_index(layout.index).values()}
    stems |= {job.id: job.folder / job.name for job in jobs}
    rows = [row for i, stem in sorted(stems.items()) if (row := _row(i, stem, about, bids=bids))]
    leads = ["scan", *_ENTITIES.values(), *_QUALITY]
    columns = [lead for lead in leads if any(lead in row.lead for row in rows)]
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow([*columns, *about])
    for row in rows:
        writer.writerow([row.lead.get(c, "n/a") for c in columns] + [row.volumes.get(c, "n/a") for c in about])
    described: dict[str, Any] = {column: {"Description": _DESCRIPTIONS[column]} for column in columns}
    if "runtime_s" in described:
        described["runtime_s"]["Units"] = "s"
    write_text(layout.out / VOLUMES, text.getvalue())
    sidecar = json.dumps(described | about, indent=2, ensure_ascii=False) + "\n"
    write_text((layout.out / VOLUMES).with_suffix(".json"), sidecar)
    others = {name: f for name, f in read_failures(layout).items() if os.path.lexists(f.scan)}
    failures = {f.name: f for f in failed} | others
    write_failures(layout.out / TABLE, failures.values())
    write_dashboard(layout.out, rows, about, failures.values(), participants)
    return len(rows), len(failures)


def _row(scan_id: str, stem: Path, about: dict[str, dict[str, Any]], *, bids: bool) -> CohortRow | None:
    """The row of a scan; None if it has no results. Descriptions of new columns are added to ``about``."""
    try:
        record = json.loads(Path(f"{stem}_record.json").read_text(encoding="utf-8"))
        with Path(f"{stem}_seg-BrainCOLOR_volumes.tsv").open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, ValueError):
        return None
    volumes = {}
    for line in lines:
        is_region = line["level"] == "region"
        column = line["abbreviation"] if is_region else _AGGREGATES.get((line["level"], line["abbreviation"]))
        if column is None:
            continue
        volumes[column] = line["volume_mm3"]
        if column not in about:
            about[column] = _about(line)
    regions = sum(line["level"] == "region" for line in lines)
    lead = {"scan": scan_id} | (_entities(stem.name) if bids else {}) | _quality(record, regions)
    return CohortRow(lead, volumes, stem)


def _entities(name: str) -> dict[str, str]:
    values = dict(re.findall(r"(?:^|_)([a-z]+)-([A-Za-z0-9]+)", name))
    prefixes = {"sub": "sub-", "ses": "ses-"}
    return {column: prefixes.get(e, "") + values[e] for e, column in _ENTITIES.items() if e in values}


def _quality(record: Mapping[str, Any], regions: int) -> dict[str, str]:
    quality = record.get("quality") or {}
    dice = quality.get("metrics", {}).get("expected_dice")
    return {
        "grade": quality.get("grade", "n/a"),
        "reasons": _one_line(quality.get("reasons", ())),
        "expected_dice": "n/a" if dice is None else f"{dice:.3f}",
        "registration_similarity": f"{record['registration_similarity']:.4f}",
        "regions_missing": str(regions - record["regions_found"]),
        "warnings": _one_line(record["warnings"]),
        "runtime_s": f"{sum(timing['runtime_s'] for timing in record['timings']):.1f}",
    }


def _one_line(texts: Iterable[str]) -> str:
    """Join texts to one cell of a table."""
    return " ".join("; ".join(texts).split()) or "n/a"


def _about(line: Mapping[str, str]) -> dict[str, Any]:
    """Description of a column for the sidecar, from a line of the table of a scan."""
    name = line["name"]
    description: dict[str, Any] = {"LongName": name, "Description": f"Volume of {name}", "Units": "mm3"}
    if line["level"] == "intracranial":
        description["Description"] = "Estimated total intracranial volume (eTIV), from the affine registration"
    if line["level"] == "region":
        description |= {"Index": int(line["index"]), "Hemisphere": line["hemisphere"], "Tissue": line["tissue"]}
        description["Lobe"] = line["lobe"]
    return description
