"""Processes one scan in a worker; an error of the scan does not affect other scans."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slant.engine.failures import Failure, remove_failure_marker, write_failure_marker
from slant.engine.index import Entry, FileState, file_state
from slant.engine.job import Job, Task, Worker
from slant.engine.layout import OutputLayout
from slant.engine.lock import exclusive
from slant.errors import SlantError
from slant.files import file_sha256


@dataclass(frozen=True)
class JobOutcome:
    """Outcome of one scan: processed now, already finished, failed, or being processed by another run.

    Attributes
    ----------
    reason : str
        Error message of a failed scan, or the owner of the lock of a busy scan.
    entry : Entry, optional
        Index entry of a finished scan.
    """

    status: Literal["done", "kept", "failed", "busy"]
    reason: str = ""
    entry: Entry | None = None


def process(job: Job, task: Task, layout: OutputLayout, worker: Worker, *, force: bool = False) -> JobOutcome:
    """Process one scan, unless it is finished or another run is processing it."""
    try:
        with exclusive(layout.lock(job.id)) as owner:
            return JobOutcome("busy", owner) if owner else _process(job, task, layout, worker, force=force)
    except (SlantError, OSError) as error:  # an error of the lock
        return _failed(job, layout, str(error), logged=False)


def _process(job: Job, task: Task, layout: OutputLayout, worker: Worker, *, force: bool) -> JobOutcome:
    kept = None if force else finished_entry(job, task, layout)
    if kept is not None:
        remove_failure_marker(layout, job.id)
        return JobOutcome("kept", entry=kept)
    staging = layout.staging_of(job.id)
    try:
        with _logged(layout.log(job.id), job):
            state = None
            with suppress(OSError):  # before it is read: the next run notices a change in the meantime
                state = file_state(job.scan)
            shutil.rmtree(staging, ignore_errors=True)  # left by a run that was killed
            try:
                task(job, staging, worker)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        entry = finished_entry(job, task, layout, state)
    except SlantError as error:
        return _failed(job, layout, str(error))
    except Exception as error:  # noqa: BLE001 (one scan must not stop the others)
        return _failed(job, layout, f"{type(error).__name__}: {error}")
    if entry is None:
        return _failed(job, layout, f"the results in {job.folder} changed while they were written; run again")
    remove_failure_marker(layout, job.id)
    return JobOutcome("done", entry=entry)


def finished_entry(job: Job, task: Task, layout: OutputLayout, known_state: FileState | None = None) -> Entry | None:
    """Index entry of a scan with complete results, made from the same bytes by the same task; else None.

    Parameters
    ----------
    known_state : FileState, optional
        State of the scan when it was read for these results; its bytes are then not read again.
    """
    names = task.names(job)
    record_path = job.folder / names.record
    try:
        record_state = file_state(record_path)
        record: Any = json.loads(record_path.read_text(encoding="utf-8"))
        existing = {path.name for path in job.folder.iterdir()}
        if not isinstance(record, dict) or not task.fits(job, record) or not existing.issuperset(names.all):
            return None
        scan_state = known_state or file_state(job.scan)
        sha256, key = task.scan_sha256(record), task.key(job)
        if known_state is None and file_sha256(job.scan) != sha256:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    folder = os.path.relpath(job.folder, layout.out)
    return Entry(job.id, os.fspath(job.scan), job.name, folder, key, scan_state, record_state, sha256)


def still_finished(job: Job, task: Task, entry: Entry | None) -> bool:
    """Whether a scan is finished according to its index entry and the states of two files."""
    if entry is None or entry.scan != os.fspath(job.scan) or entry.name != job.name:
        return False
    names = task.names(job)
    try:
        return (
            entry.key == task.key(job)
            and entry.scan_state == file_state(job.scan)
            and entry.record_state == file_state(job.folder / names.record)
            and {path.name for path in job.folder.iterdir()}.issuperset(names.all)
        )
    except OSError:
        return False


def clean_up(job: Job, layout: OutputLayout) -> None:
    """Remove the partial files of a killed worker, unless another run is processing the scan."""
    with suppress(SlantError, OSError), exclusive(layout.lock(job.id)) as owner:
        if not owner:
            shutil.rmtree(layout.staging_of(job.id), ignore_errors=True)
            folder = job.folder
            while folder != layout.out and folder.is_relative_to(layout.out):
                folder.rmdir()  # raises OSError, and stops here, at the first folder that is not empty
                folder = folder.parent


def failure(job: Job, layout: OutputLayout, reason: str, *, logged: bool = True) -> Failure:
    """The failure of a scan, with the reason on one line."""
    log = os.path.relpath(layout.log(job.id), layout.out) if logged else ""
    return Failure(job.id, " ".join(reason.split()), os.fspath(job.scan), log)


def _failed(job: Job, layout: OutputLayout, reason: str, *, logged: bool = True) -> JobOutcome:
    write_failure_marker(layout, failure(job, layout, reason, logged=logged))
    return JobOutcome("failed", reason)


@contextmanager
def _logged(path: Path, job: Job) -> Iterator[None]:
    """Redirect all output of this process, including that of compiled libraries, to the log of the scan."""
    with path.open("w", encoding="utf-8", errors="backslashreplace", buffering=1) as log:
        log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S %z')} {socket.gethostname()} process {os.getpid()}\n{job.scan}\n")
        start = time.monotonic()
        with _redirected(log.fileno()), redirect_stdout(log), redirect_stderr(log):
            try:
                yield
            except SlantError as error:
                log.write(f"failed: {error}\n")
                raise
            except BaseException:
                traceback.print_exc(file=log)
                raise
            log.write(f"done in {time.monotonic() - start:.1f} s\n")


@contextmanager
def _redirected(target: int) -> Iterator[None]:
    _flush()
    saved = [os.dup(1), os.dup(2)]
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
    finally:
        _flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in saved:
            os.close(descriptor)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
