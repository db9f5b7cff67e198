"""The volumes of all scans as one table, a row a scan, with what tells of their quality."""

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
from slant.cohort.failures import TABLE, Failure, read_failures, write_failures, write_table
from slant.cohort.index import read_index
from slant.cohort.jobs import Job
from slant.cohort.place import Place

VOLUMES = "volumes.tsv"
_ENTITIES = {"sub": "participant_id", "ses": "session_id", "acq": "acquisition", "rec": "reconstruction", "run": "run"}
_QUALITY = ("grade", "reasons", "expected_dice", "similarity", "regions_missing", "warnings", "seconds")
_DESCRIPTIONS = {
    "scan": "Name of the scan; its results begin with it",
    "participant_id": "Label of the participant",
    "session_id": "Label of the session",
    "acquisition": "Value of the acq entity",
    "reconstruction": "Value of the rec entity",
    "run": "Value of the run entity",
    "grade": "pass, look or fail: whether measures of the scan lie within what is usual for the model",
    "reasons": "Why the grade is not pass",
    "expected_dice": "Mean overlap with manual labels that such scans had on people held out from training",
    "similarity": "Correlation of the registered scan with the template inside the brain: look at the picture where it "
    "is low",
    "regions_missing": "Regions without a voxel",
    "warnings": "What was repaired or is doubtful, all in one text",
    "seconds": "Seconds that brain extraction, registration, networks and measures took",
}
_SUMS = {("intracranial", "TIV"): "TIV", ("brain", "brain without ventricles"): "brain"}


@dataclass(frozen=True)
class Row:
    """One scan of the table.

    Attributes
    ----------
    lead : dict of str to str
        Name, entities and quality.
    volumes : dict of str to str
        mm3 as in the scan's own table, by abbreviation.
    stem : Path
        Of its results, with the beginning of their names.
    """

    lead: dict[str, str]
    volumes: dict[str, str]
    stem: Path


def write_tables(
    place: Place,
    jobs: Iterable[Job],
    failed: Iterable[Failure],
    *,
    bids: bool = False,
    participants: Path | None = None,
) -> tuple[int, int]:
    """Write ``volumes.tsv``, ``volumes.json``, ``failures.tsv`` and the dashboard of all that the folder holds.

    Parameters
    ----------
    place : Place
    jobs : iterable of Job
        Of this run; finished ones of other runs are added.
    failed : iterable of Failure
        Of this run; those of others are added while their scans are there.
    bids : bool, optional
        Whether the names are those of BIDS: then there is a column for each entity that occurs.
    participants : Path, optional
        ``participants.tsv``, whose columns the dashboard filters by.

    Returns
    -------
    tuple of int
        Rows of the table of volumes, and of that of failures.

    Raises
    ------
    OutputError
        If a table cannot be written.
    """
    about: dict[str, dict[str, Any]] = {}
    stems = {e.id: place.out / e.folder / e.name for e in read_index(place.index).values()}
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
    if "seconds" in described:
        described["seconds"]["Units"] = "s"
    write_table(place.out / VOLUMES, text.getvalue())
    sidecar = json.dumps(described | about, indent=2, ensure_ascii=False) + "\n"
    write_table((place.out / VOLUMES).with_suffix(".json"), sidecar)
    others = {name: f for name, f in read_failures(place).items() if os.path.lexists(f.scan)}
    failures = {f.name: f for f in failed} | others
    write_failures(place.out / TABLE, failures.values())
    write_dashboard(place.out, rows, about, failures.values(), participants)
    return len(rows), len(failures)


def _row(scan_id: str, stem: Path, about: dict[str, dict[str, Any]], *, bids: bool) -> Row | None:
    """The row of a scan, if its results are there; ``about`` gets the columns that are new."""
    try:
        record = json.loads(Path(f"{stem}_record.json").read_text(encoding="utf-8"))
        with Path(f"{stem}_seg-BrainCOLOR_volumes.tsv").open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, ValueError):
        return None
    volumes = {}
    for line in lines:
        column = line["abbreviation"] if line["level"] == "region" else _SUMS.get((line["level"], line["abbreviation"]))
        if column is None:
            continue
        volumes[column] = line["volume_mm3"]
        if column not in about:
            about[column] = _about(line)
    regions = sum(line["level"] == "region" for line in lines)
    lead = {"scan": scan_id} | (_entities(stem.name) if bids else {}) | _quality(record, regions)
    return Row(lead, volumes, stem)


def _entities(name: str) -> dict[str, str]:
    found = dict(re.findall(r"(?:^|_)([a-z]+)-([A-Za-z0-9]+)", name))
    prefixed = {"sub": "sub-", "ses": "ses-"}
    return {column: prefixed.get(e, "") + found[e] for e, column in _ENTITIES.items() if e in found}


def _quality(record: Mapping[str, Any], regions: int) -> dict[str, str]:
    judged = record.get("quality") or {}
    dice = judged.get("measures", {}).get("expected dice")
    return {
        "grade": judged.get("grade", "n/a"),
        "reasons": _one_line(judged.get("reasons", ())),
        "expected_dice": "n/a" if dice is None else f"{dice:.3f}",
        "similarity": f"{record['registration_similarity']:.4f}",
        "regions_missing": str(regions - record["regions_found"]),
        "warnings": _one_line(record["warnings"]),
        "seconds": f"{sum(stage['seconds'] for stage in record['stages']):.1f}",
    }


def _one_line(texts: Iterable[str]) -> str:
    """Texts as one value of a table."""
    return " ".join("; ".join(texts).split()) or "n/a"


def _about(line: Mapping[str, str]) -> dict[str, Any]:
    """What the sidecar says of a column, from a row of a scan's own table."""
    name = line["name"]
    found: dict[str, Any] = {"LongName": name, "Description": f"Volume of {name}", "Units": "mm3"}
    if line["level"] == "intracranial":
        found["Description"] = "Total intracranial volume, estimated from the affine registration"
    if line["level"] == "region":
        found |= {"Index": int(line["index"]), "Hemisphere": line["hemisphere"], "Tissue": line["tissue"]}
        found["Lobe"] = line["lobe"]
    return found
