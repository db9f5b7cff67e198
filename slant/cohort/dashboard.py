"""The dashboard of a cohort, ``group.html``, from the rows of its tables."""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slant.cohort.failures import Failure, write_whole
from slant.cohort.place import key
from slant.errors import OutputError
from slant.io.results import ResultNames

if TYPE_CHECKING:
    from slant.cohort.table import Row
    from slant.report.group import GroupScan

_SHOWN = ("participant_id", "session_id", "acquisition", "reconstruction", "run")
_NUMBERS = ("expected_dice", "similarity", "regions_missing", "seconds")
_PARTICIPANT = re.compile(r"(?:^|[_/])(sub-[A-Za-z0-9]+)")


def write_dashboard(
    out: Path,
    rows: Sequence[Row],
    about: Mapping[str, Mapping[str, Any]],
    failures: Iterable[Failure],
    participants: Path | None = None,
) -> None:
    """Write ``group.html`` with its numbers and thumbnails.

    Thumbnails are made from the pictures of the scans, in parallel, and only for those that have changed.

    Parameters
    ----------
    out : Path
        Folder of the results.
    rows : sequence of Row
    about : mapping
        What is known of each column of volumes, by abbreviation; those with an ``Index`` are regions.
    failures : iterable of Failure
    participants : Path, optional
        TSV with ``participant_id`` and columns to filter by; left out if it is not there.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    from slant.report.group import GroupRegion, draw_group

    people = _participants(participants)
    thumbnails = _thumbnails(out, [row.stem for row in rows], [row.lead["scan"] for row in rows])
    scans = [_scan(out, row, thumbnails, people) for row in rows]
    regions = [GroupRegion(column, str(entry["LongName"])) for column, entry in about.items() if "Index" in entry]
    lost = [(failure.name, failure.reason) for failure in failures]
    for name, content in draw_group(out.name or str(out), scans, regions, lost).items():
        try:
            write_whole(out / name, content.decode())
        except OSError as error:
            raise OutputError(f"{out / name} cannot be written: {error}") from error


def _scan(out: Path, row: Row, thumbnails: Mapping[str, str], people: Mapping[str, Mapping[str, str]]) -> GroupScan:
    from slant.report.group import GroupScan

    lead, names = row.lead, ResultNames(row.stem.name)
    person = lead.get("participant_id") or next(iter(_PARTICIPANT.findall(lead["scan"])), lead["scan"])
    known = people.get(person, {})
    page = row.stem.parent / names.report
    shown = {column: lead[column] for column in _SHOWN if column in lead}
    numbers = {column: "" if lead[column] == "n/a" else lead[column] for column in _NUMBERS if column in lead}
    reasons = "; ".join(text for text in (lead.get("reasons"), lead.get("warnings")) if text and text != "n/a")
    return GroupScan(
        lead["scan"],
        "" if lead.get("grade", "n/a") == "n/a" else lead["grade"],
        reasons,
        Path(os.path.relpath(page, out)).as_posix() if page.is_file() else "",
        thumbnails.get(lead["scan"], ""),
        shown | dict(known) | numbers,
        {column: float(value) for column, value in row.volumes.items() if value != "n/a"},
        float(row.volumes.get("TIV", "nan").replace("n/a", "nan")),
    )


def _participants(path: Path | None) -> dict[str, dict[str, str]]:
    """Columns of ``participants.tsv`` by participant; nothing if it cannot be read as such."""
    if path is None or not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, ValueError, csv.Error) as error:
        sys.stderr.write(f"slant: warning: {path} cannot be read ({error}); the dashboard does without it\n")
        return {}
    found = {}
    for line in lines:
        values = {k: (v or "").strip() for k, v in line.items() if isinstance(k, str) and isinstance(v, str | None)}
        person = values.pop("participant_id", "")
        if person:
            name = person if person.startswith("sub-") else f"sub-{person}"
            found[name] = {k: "" if v == "n/a" else v for k, v in values.items() if k not in (*_SHOWN, *_NUMBERS)}
    return found


def _thumbnails(out: Path, stems: Sequence[Path], scans: Sequence[str]) -> dict[str, str]:
    """Paths of the thumbnails from the folder of results, by scan; scans without a picture have none."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    from slant.report.group import THUMBNAILS

    folder = out / THUMBNAILS
    pictures = [stem.parent / ResultNames(stem.name).overlay for stem in stems]
    targets = [folder / f"{key(scan)}.webp" for scan in scans]
    stale = [pair for pair in zip(pictures, targets, strict=True) if _stale(*pair)]
    try:
        if stale:
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error}") from error
    bar = tqdm(stale, desc="thumbnails", unit="scan", file=sys.stderr, disable=len(stale) < 100)
    Parallel(n_jobs=-1, prefer="threads")(delayed(_shrink)(*pair) for pair in bar)
    with suppress(OSError):
        folder.rmdir()  # if no picture could be read
    return {
        scan: f"{THUMBNAILS}/{target.name}" for scan, target in zip(scans, targets, strict=True) if target.is_file()
    }


def _stale(picture: Path, thumbnail: Path) -> bool:
    """Whether there is a picture without a thumbnail that was made of it, which has its time."""
    with suppress(OSError):
        made = picture.stat().st_mtime_ns
        with suppress(OSError):
            return thumbnail.stat().st_mtime_ns != made
        return True
    return False


def _shrink(picture: Path, thumbnail: Path) -> None:
    """Write a thumbnail whole; without one if the picture is damaged."""
    from slant.report.group import shrink

    partial = thumbnail.with_suffix(".part")
    try:
        state = picture.stat()
        partial.write_bytes(shrink(picture))
        os.utime(partial, ns=(state.st_atime_ns, state.st_mtime_ns))
        partial.replace(thumbnail)
    except OSError:
        partial.unlink(missing_ok=True)
