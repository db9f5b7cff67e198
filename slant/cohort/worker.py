"""What a worker does with one scan: nothing that can go wrong with it ends more than itself."""

from __future__ import annotations

import hashlib
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

from slant.cohort.failures import Failure, clear_failure, mark_failure
from slant.cohort.index import Entry, FileState, file_state
from slant.cohort.jobs import Job
from slant.cohort.lock import exclusive
from slant.cohort.place import Place
from slant.cohort.work import Work
from slant.errors import SlantError


@dataclass(frozen=True)
class Outcome:
    """What became of one scan.

    Attributes
    ----------
    status : {"done", "kept", "failed", "busy"}
        Made now, found finished, failed, or at work in another run.
    reason : str
        Of a failure; who is at work on a busy one.
    entry : Entry, optional
        Of a finished scan.
    """

    status: Literal["done", "kept", "failed", "busy"]
    reason: str = ""
    entry: Entry | None = None


def process(job: Job, work: Work, place: Place, threads: int, *, force: bool = False) -> Outcome:
    """Take one scan to its results, unless they are there or another run is at it."""
    try:
        with exclusive(place.lock(job.id)) as owner:
            return Outcome("busy", owner) if owner else _process(job, work, place, threads, force=force)
    except (SlantError, OSError) as error:  # of the lock
        return _failed(job, place, str(error), logged=False)


def _process(job: Job, work: Work, place: Place, threads: int, *, force: bool) -> Outcome:
    kept = None if force else finished(job, work, place)
    if kept is not None:
        clear_failure(place, job.id)
        return Outcome("kept", entry=kept)
    stage = place.stage(job.id)
    try:
        with _logged(place.log(job.id), job):
            state = _state(job.scan)  # before it is read, so that a change in the meantime is noticed next time
            shutil.rmtree(stage, ignore_errors=True)  # left by a run that was killed
            try:
                work(job, stage, threads)
            finally:
                shutil.rmtree(stage, ignore_errors=True)
        entry = finished(job, work, place, state)
    except SlantError as error:
        return _failed(job, place, str(error))
    except Exception as error:  # noqa: BLE001 (one scan, whatever is wrong with it, must not end the others)
        return _failed(job, place, f"{type(error).__name__}: {error}")
    if entry is None:
        return _failed(job, place, f"the results in {job.folder} were changed while they were written; run again")
    clear_failure(place, job.id)
    return Outcome("done", entry=entry)


def finished(job: Job, work: Work, place: Place, read_from: FileState | None = None) -> Entry | None:
    """The entry of a scan whose results are there, made from the same bytes by the same work; else None.

    Parameters
    ----------
    job : Job
    work : Work
    place : Place
    read_from : FileState, optional
        State of the scan when it was read for these results; then its bytes are not read again.
    """
    names = work.names(job)
    record_path = job.folder / names.record
    try:
        record_state = file_state(record_path)
        record: Any = json.loads(record_path.read_text(encoding="utf-8"))
        there = {path.name for path in job.folder.iterdir()}
        if not isinstance(record, dict) or not work.fits(record) or not there.issuperset(names.all):
            return None
        scan_state = read_from or file_state(job.scan)
        sha256 = str(record["input"]["sha256"])
        if read_from is None and _sha256(job.scan) != sha256:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    folder = os.path.relpath(job.folder, place.out)
    return Entry(job.id, os.fspath(job.scan), job.name, folder, work.key, scan_state, record_state, sha256)


def still_finished(job: Job, work: Work, entry: Entry | None) -> bool:
    """Whether the index alone, with the state of two files, tells that a scan is finished."""
    if entry is None or entry.key != work.key or entry.scan != os.fspath(job.scan) or entry.name != job.name:
        return False
    names = work.names(job)
    try:
        return (
            entry.scan_state == file_state(job.scan)
            and entry.record_state == file_state(job.folder / names.record)
            and {path.name for path in job.folder.iterdir()}.issuperset(names.all)
        )
    except OSError:
        return False


def abandon(job: Job, place: Place) -> None:
    """Remove what a killed worker left unfinished, unless another run is at it."""
    with suppress(SlantError, OSError), exclusive(place.lock(job.id)) as owner:
        if not owner:
            shutil.rmtree(place.stage(job.id), ignore_errors=True)
            folder = job.folder
            while folder != place.out and folder.is_relative_to(place.out):
                folder.rmdir()  # fails, and ends this, at the first that is not empty
                folder = folder.parent


def failure(job: Job, place: Place, reason: str, *, logged: bool = True) -> Failure:
    """A failed scan with its reason on one line."""
    log = os.path.relpath(place.log(job.id), place.out) if logged else ""
    return Failure(job.id, " ".join(reason.split()), os.fspath(job.scan), log)


def _failed(job: Job, place: Place, reason: str, *, logged: bool = True) -> Outcome:
    mark_failure(place, failure(job, place, reason, logged=logged))
    return Outcome("failed", reason)


def _state(scan: Path) -> FileState | None:
    with suppress(OSError):
        return file_state(scan)
    return None  # reading it says what is wrong


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _logged(path: Path, job: Job) -> Iterator[None]:
    """Send all that this process says, compiled libraries included, to the scan's log."""
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
