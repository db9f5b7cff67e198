"""Writes the dashboard of a cohort, ``group.html``, from the results of its scans."""

from __future__ import annotations

import csv
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from slant.cohort.table import ENTITIES, NUMBERS, CohortResults, CohortRow, common_reasons
from slant.engine.failures import Failure
from slant.engine.layout import key
from slant.errors import OutputError
from slant.files import CHECK_DISK, read_text, replacing, write_file
from slant.io.names import ResultNames, subject_of

if TYPE_CHECKING:
    from slant.report.group_page import GroupScan


def write_dashboard(
    out: Path, results: CohortResults, failures: Iterable[Failure], participants: Path | None = None
) -> None:
    """Write ``group.html`` with its data and thumbnails.

    Thumbnails are made in parallel from the overlays of the scans, and only for overlays that have changed.

    Parameters
    ----------
    out : Path
        Output directory of the cohort.
    participants : Path, optional
        TSV file with ``participant_id`` and columns to filter by; ignored if missing.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    from slant.report.group_page import GroupRegion, draw_group

    subjects = _participants(participants)
    thumbnails = _thumbnails(out, results.rows)
    scans = [_scan(out, row, thumbnails.get(row.scan, ""), subjects) for row in results.rows]
    regions = [GroupRegion(column, row.name) for column, row in results.columns.items() if row.level == "region"]
    failed = [(failure.name, failure.reason) for failure in failures]
    title, common = out.name or str(out), common_reasons(results)
    for name, content in draw_group(title, scans, regions, failed, common).items():
        write_file(out / name, content)


def _scan(out: Path, row: CohortRow, thumbnail: str, subjects: Mapping[str, Mapping[str, str]]) -> GroupScan:
    from slant.report.group_page import GroupScan

    cells = row.cells
    subject = row.entities.get("participant_id") or subject_of(row.scan)
    report = row.stem.parent / ResultNames(row.stem.name).report
    return GroupScan(
        row.scan,
        row.grade,
        "; ".join(text for text in (cells["reasons"], cells["warnings"]) if text),
        Path(os.path.relpath(report, out)).as_posix() if report.is_file() else "",
        thumbnail,
        row.entities | dict(subjects.get(subject, {})) | {column: cells[column] for column in NUMBERS},
        {column: mm3 for column, mm3 in row.volumes_mm3.items() if not math.isnan(mm3)},
        row.volumes_mm3.get("eTIV", math.nan),
    )


def _participants(path: Path | None) -> dict[str, dict[str, str]]:
    """Columns of ``participants.tsv`` by participant; empty, with a warning, if the file cannot be read."""
    if path is None or not path.is_file():
        return {}
    try:
        lines = list(csv.DictReader(read_text(path).splitlines(), delimiter="\t"))
    except (OSError, ValueError, csv.Error) as error:
        sys.stderr.write(f"slant: warning: cannot read {path} ({error}); the dashboard is made without it\n")
        return {}
    subjects = {}
    for line in lines:
        texts = {k: v or "" for k, v in line.items() if isinstance(k, str) and isinstance(v, str | None)}
        values = {k.strip(): v.strip() for k, v in texts.items()}
        subject = values.pop("participant_id", "")
        if subject:
            name = subject if subject.startswith("sub-") else f"sub-{subject}"
            subjects[name] = {
                k: "" if v == "n/a" else v for k, v in values.items() if k not in (*ENTITIES.values(), *NUMBERS)
            }
    return subjects


def _thumbnails(out: Path, rows: Sequence[CohortRow]) -> dict[str, str]:
    """Thumbnails by scan, as paths relative to the output directory; scans without an overlay have none."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    from slant.report.group_page import THUMBNAILS

    folder = out / THUMBNAILS
    overlays = {row.scan: row.stem.parent / ResultNames(row.stem.name).overlay for row in rows}
    targets = {scan: folder / f"{key(scan)}.webp" for scan in overlays}
    stale = [pair for scan, overlay in overlays.items() if _is_stale(*(pair := (overlay, targets[scan])))]
    try:
        if stale:
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create {folder}: {error.strerror or error}; {CHECK_DISK}") from error
    bar = tqdm(stale, desc="thumbnails", unit="scan", file=sys.stderr, disable=len(stale) < 100)
    Parallel(n_jobs=-1, prefer="threads")(delayed(_shrink)(*pair) for pair in bar)
    with suppress(OSError):
        folder.rmdir()  # if no overlay could be read
    return {scan: f"{THUMBNAILS}/{target.name}" for scan, target in targets.items() if target.is_file()}


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

    with suppress(OSError):
        state = overlay.stat()
        with replacing(thumbnail) as partial:
            partial.write_bytes(shrink(overlay))
            os.utime(partial, ns=(state.st_atime_ns, state.st_mtime_ns))
