"""Failure markers: one file per failed scan, removed when the scan succeeds, and the table made of them."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from slant.engine.layout import OutputLayout
from slant.errors import OutputError

TABLE = "failures.tsv"


@dataclass(frozen=True)
class Failure:
    """A scan without results.

    Attributes
    ----------
    name : str
        Id of the job.
    reason : str
        Error message, on one line.
    scan : str
        Path of the scan.
    log : str
        Path of the log, relative to the output directory; empty if processing did not start.
    """

    name: str
    reason: str
    scan: str
    log: str


def write_failure_marker(layout: OutputLayout, failure: Failure) -> None:
    """Write the marker of a failed scan; skipped if the disk is full, as the run reports the failure too."""
    path = layout.failure_marker(failure.name)
    with suppress(OSError):
        write_atomic(path, json.dumps(asdict(failure), indent=2) + "\n")


def remove_failure_marker(layout: OutputLayout, scan_id: str) -> None:
    """Remove the marker of a scan, if it has one."""
    with suppress(OSError):
        layout.failure_marker(scan_id).unlink()


def read_failures(layout: OutputLayout) -> dict[str, Failure]:
    """Failures of all readable markers, by job id."""
    failures: dict[str, Failure] = {}
    for path in sorted(layout.failure_markers.glob("*.json")):
        with suppress(OSError, ValueError, TypeError):
            failure = Failure(**json.loads(path.read_text(encoding="utf-8")))
            failures[failure.name] = failure
    return failures


def write_failures(path: Path, failures: Iterable[Failure]) -> None:
    """Write ``failures.tsv`` with the columns name, reason, scan and log.

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
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    try:
        write_atomic(path, text)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; check free space and write permission, then run again: "
            "finished scans are kept"
        ) from error


def write_atomic(path: Path, text: str) -> None:
    """Write a text file to a temporary name and rename it; OSError if that fails."""
    partial = path.with_name(f".{path.name}-{os.getpid()}.part")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
