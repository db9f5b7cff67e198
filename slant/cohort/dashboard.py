"""Writes the dashboard of a cohort, ``group.html``, from the rows of its tables."""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slant.engine.failures import Failure, write_atomic
from slant.engine.layout import key
from slant.errors import OutputError
from slant.io.results import ResultNames

if TYPE_CHECKING:
    from slant.cohort.table import CohortRow
    from slant.report.group_page import GroupScan

_ENTITY_COLUMNS = ("participant_id", "session_id", "acquisition", "reconstruction", "run")
_NUMBER_COLUMNS = ("expected_dice", "registration_similarity", "regions_missing", "runtime_s")
_PARTICIPANT = re.compile(r"(?:^|[_/])(sub-[A-Za-z0-9]+)")


def write_dashboard(
    out: Path,
    rows: Sequence[CohortRow],
    about: Mapping[str, Mapping[str, Any]],
    failures: Iterable[Failure],
    participants: Path | None = None,
) -> None:
    """Write ``group.html`` with its data and thumbnails.

    Thumbnails are made in parallel from the overlays of the scans, and only for overlays that have changed.

    Parameters
    ----------
    out : Path
        Output directory of the cohort.
    rows : sequence of CohortRow
    about : mapping
        Description of each column of volumes, by abbreviation; columns with an ``Index`` are regions.
    failures : iterable of Failure
    participants : Path, optional
        TSV file with ``participant_id`` and columns to filter by; ignored if missing.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    from slant.report.group_page import GroupRegion, draw_group

    subjects = _participants(participants)
    thumbnails = _thumbnails(out, [row.stem for row in rows], [row.lead["scan"] for row in rows])
    scans = [_scan(out, row, thumbnails, subjects) for row in rows]
    regions = [GroupRegion(column, str(entry["LongName"])) for column, entry in about.items() if "Index" in entry]
    failed = [(failure.name, failure.reason) for failure in failures]
    for name, content in draw_group(out.name or str(out), scans, regions, failed).items():
        try:
            write_atomic(out / name, content.decode())
        except OSError as error:
            raise OutputError(
                f"cannot write {out / name}: {error.strerror or error}; check free space and write permission"
            ) from error


def _scan(
    out: Path, row: CohortRow, thumbnails: Mapping[str, str], subjects: Mapping[str, Mapping[str, str]]
) -> GroupScan:
    from slant.report.group_page import GroupScan

    lead, names = row.lead, ResultNames(row.stem.name)
    subject = lead.get("participant_id") or next(iter(_PARTICIPANT.findall(lead["scan"])), lead["scan"])
    columns = subjects.get(subject, {})
    report = row.stem.parent / names.report
    entities = {column: lead[column] for column in _ENTITY_COLUMNS if column in lead}
    numbers = {column: "" if lead[column] == "n/a" else lead[column] for column in _NUMBER_COLUMNS if column in lead}
    reasons = "; ".join(text for text in (lead.get("reasons"), lead.get("warnings")) if text and text != "n/a")
    return GroupScan(
        lead["scan"],
        "" if lead.get("grade", "n/a") == "n/a" else lead["grade"],
        reasons,
        Path(os.path.relpath(report, out)).as_posix() if report.is_file() else "",
        thumbnails.get(lead["scan"], ""),
        entities | dict(columns) | numbers,
        {column: float(value) for column, value in row.volumes.items() if value != "n/a"},
        float(row.volumes.get("eTIV", "nan").replace("n/a", "nan")),
    )


def _participants(path: Path | None) -> dict[str, dict[str, str]]:
    """Columns of ``participants.tsv`` by participant; empty, with a warning, if the file cannot be read."""
    if path is None or not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, ValueError, csv.Error) as error:
        sys.stderr.write(f"slant: warning: cannot read {path} ({error}); the dashboard is made without it\n")
        return {}
    subjects = {}
    for line in lines:
        values = {k: (v or "").strip() for k, v in line.items() if isinstance(k, str) and isinstance(v, str | None)}
        subject = values.pop("participant_id", "")
        if subject:
            name = subject if subject.startswith("sub-") else f"sub-{subject}"
            subjects[name] = {
                k: "" if v == "n/a" else v for k, v in values.items() if k not in (*_ENTITY_COLUMNS, *_NUMBER_COLUMNS)
            }
    return subjects


def _thumbnails(out: Path, stems: Sequence[Path], scans: Sequence[str]) -> dict[str, str]:
    """Thumbnails by scan, as paths relative to the output directory; scans without an overlay have none."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    from slant.report.group_page import THUMBNAILS

    folder = out / THUMBNAILS
    overlays = [stem.parent / ResultNames(stem.name).overlay for stem in stems]
    targets = [folder / f"{key(scan)}.webp" for scan in scans]
    stale = [pair for pair in zip(overlays, targets, strict=True) if _is_stale(*pair)]
    try:
        if stale:
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot create {folder}: {error.strerror or error}; check free space and write permission"
        ) from error
    bar = tqdm(stale, desc="thumbnails", unit="scan", file=sys.stderr, disable=len(stale) < 100)
    Parallel(n_jobs=-1, prefer="threads")(delayed(_shrink)(*pair) for pair in bar)
    with suppress(OSError):
        folder.rmdir()  # if no overlay could be read
    return {
        scan: f"{THUMBNAILS}/{target.name}" for scan, target in zip(scans, targets, strict=True) if target.is_file()
    }


def _is_stale(overlay: Path, thumbnail: Path) -> bool:
    """Whether an overlay has no thumbnail with the same modification time."""
    with suppress(OSError):
        modified_ns = overlay.stat().st_mtime_ns
        with suppress(OSError):
            return thumbnail.stat().st_mtime_ns != modified_ns
        return True
    return False


def _shrink(overlay: Path, thumbnail: Path) -> None:
    """Write a thumbnail atomically; nothing is written if the overlay is damaged."""
    from slant.report.group_page import shrink

    partial = thumbnail.with_suffix(".part")
    try:
        state = overlay.stat()
        partial.write_bytes(shrink(overlay))
        os.utime(partial, ns=(state.st_atime_ns, state.st_mtime_ns))
        partial.replace(thumbnail)
    except OSError:
        partial.unlink(missing_ok=True)
