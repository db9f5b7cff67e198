"""Failure markers: one file per failed scan, removed when the scan succeeds, and the table made of them."""

from __future__ import annotations

import csv
import io
import json
import os.path
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from slant.engine.layout import OutputLayout
from slant.files import CHECK_DISK, write_atomic, write_file

KEPT = f"{CHECK_DISK}, then run again: finished scans are kept"
"""End of the message if a table cannot be written."""

TABLE = "failures.tsv"


@dataclass(frozen=True)
class Failure:
    """A scan without results.

    Attributes
    ----------
    name, reason : str
        Id of the job, and the error message on one line.
    scan, log : str
        Path of the scan; path of its log relative to the output directory, empty if processing did not start.
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


def all_failures(layout: OutputLayout, failed: Iterable[Failure]) -> list[Failure]:
    """The failures of a run, and those of other runs on the same output directory if their scans still exist."""
    others = {name: f for name, f in read_failures(layout).items() if os.path.lexists(f.scan)}
    return list(({f.name: f for f in failed} | others).values())


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
    """Write a table or page of the output directory; OutputError if that fails."""
    write_file(path, text, KEPT)
