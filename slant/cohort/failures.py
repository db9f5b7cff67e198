"""A scan that failed leaves a mark with the reason until it succeeds; the marks make a table."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from slant.cohort.place import Place
from slant.errors import OutputError

TABLE = "failures.tsv"


@dataclass(frozen=True)
class Failure:
    """A scan without results.

    Attributes
    ----------
    name : str
        The job's id.
    reason : str
        One line.
    scan : str
        Path.
    log : str
        Path of its log from the folder of results; empty if it was not begun.
    """

    name: str
    reason: str
    scan: str
    log: str


def mark_failure(place: Place, failure: Failure) -> None:
    """Leave the mark; on a full disk there is none, and the run still tells."""
    path = place.mark(failure.name)
    with suppress(OSError):
        write_whole(path, json.dumps(asdict(failure), indent=2) + "\n")


def clear_failure(place: Place, scan_id: str) -> None:
    """Take the mark away."""
    with suppress(OSError):
        place.mark(scan_id).unlink()


def read_failures(place: Place) -> dict[str, Failure]:
    """All marks by id, but those of scans that are no longer there."""
    found: dict[str, Failure] = {}
    for path in sorted(place.marks.glob("*.json")):
        with suppress(OSError, ValueError, TypeError):
            failure = Failure(**json.loads(path.read_text(encoding="utf-8")))
            found[failure.name] = failure
    return found


def write_failures(path: Path, failures: Iterable[Failure]) -> None:
    """Write the table with the columns name, reason, scan and log.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["name", "reason", "scan", "log"])
    for failure in sorted(failures, key=lambda f: f.name):
        row = (failure.name, failure.reason, failure.scan, failure.log or "n/a")
        writer.writerow([" ".join(cell.split()) for cell in row])
    write_table(path, text.getvalue())


def write_table(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    try:
        write_whole(path, text)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; free some space and run again, finished scans stay"
        ) from error


def write_whole(path: Path, text: str) -> None:
    """Write a file by way of another name; OSError if that fails."""
    partial = path.with_name(f".{path.name}-{os.getpid()}.part")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
