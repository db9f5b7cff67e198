"""Takes every scan of a list to its results; one that fails stops no other."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from slant.cohort.failures import Failure, clear_failure, mark_failure
from slant.cohort.index import append, read_index
from slant.cohort.jobs import Job, JobList
from slant.cohort.place import Place
from slant.cohort.pools import Pool, lost_worker
from slant.cohort.work import Work
from slant.cohort.worker import Outcome, abandon, failure, process, still_finished
from slant.errors import SlantError

_LOOK_AGAIN_S = 2.0
_WORKERS_MAY_JOIN_S = 5.0
_LINE_EVERY_S = 30.0


@dataclass(frozen=True)
class Cohort:
    """What is to be done.

    Attributes
    ----------
    listed : JobList
    work : Work
    place : Place
    force : bool
        Whether finished scans are done again.
    """

    listed: JobList
    work: Work
    place: Place
    force: bool = False


@dataclass(frozen=True)
class Summary:
    """What was done.

    Attributes
    ----------
    done, kept : tuple of str
        Ids of scans segmented now, and of those that had been.
    failed : tuple of Failure
        Folders that cannot be read are among them.
    """

    done: tuple[str, ...]
    kept: tuple[str, ...]
    failed: tuple[Failure, ...]


def split(cohort: Cohort) -> tuple[list[Job], list[Job]]:
    """Jobs to be looked at, and those that the index knows to be finished; no scan is opened."""
    entries = {} if cohort.force else read_index(cohort.place.index)
    todo: list[Job] = []
    kept: list[Job] = []
    for job in cohort.listed.jobs:
        (kept if still_finished(job, cohort.work, entries.get(job.id)) else todo).append(job)
    return todo, kept


def run_cohort(cohort: Cohort, pool: Pool) -> Summary:
    """Do all scans that are not finished; run again after a kill, it goes on from what is there.

    Raises
    ------
    OutputError
        If nothing can be written in the folder for results.
    """
    cohort.place.make()
    unreadable = [Failure(folder, reason, folder, "") for folder, reason in cohort.listed.unreadable.items()]
    todo, known = split(cohort)
    for job in known:
        if cohort.place.mark(job.id).exists():
            clear_failure(cohort.place, job.id)
    outcomes: dict[str, Outcome] = {}
    if todo:
        progress = _progress(len(todo) + len(known), len(known), len(unreadable))
        with pool, progress as show, closing(_outcomes(cohort, pool, todo)) as found:
            for job, outcome in found:
                outcomes[job.id] = outcome
                if outcome.entry is not None:
                    append(cohort.place.index, outcome.entry)
                show(outcome)
    failed = [
        failure(job, cohort.place, outcomes[job.id].reason) for job in todo if outcomes[job.id].status == "failed"
    ]
    return Summary(
        tuple(job.id for job in todo if outcomes[job.id].status == "done"),
        tuple(sorted([job.id for job in known] + [job.id for job in todo if outcomes[job.id].status == "kept"])),
        tuple(sorted(failed + unreadable, key=lambda f: f.name)),
    )


def _outcomes(cohort: Cohort, pool: Pool, todo: list[Job]) -> Generator[tuple[Job, Outcome]]:
    """Each job with what became of it, as they end; those that another run is at come last."""
    queue, busy = deque(todo), deque[Job]()
    running: dict[Future[Any], Job] = {}
    try:
        while queue or running or busy:
            if not queue and not running:
                time.sleep(_LOOK_AGAIN_S)
                queue, busy = busy, queue
            slots = pool.slots
            while queue and len(running) < slots:
                job = queue.popleft()
                running[pool.submit(process, job, cohort.work, cohort.place, force=cohort.force)] = job
            ended, _ = wait(running, timeout=_WORKERS_MAY_JOIN_S, return_when=FIRST_COMPLETED)
            for future in ended:
                job = running.pop(future)
                outcome = _outcome(future, job, cohort.place)
                if outcome.status == "busy":
                    busy.append(job)
                else:
                    yield job, outcome
    except BaseException:
        pool.stop(now=True)  # before their files are cleared away
        for job in running.values():
            abandon(job, cohort.place)
        raise


def _outcome(future: Future[Any], job: Job, place: Place) -> Outcome:
    """What the worker says, or that it is gone."""
    error = future.exception()
    if error is None:
        found: Outcome = future.result()
        return found
    if isinstance(error, SlantError):  # not of the scan, whose errors are outcomes
        raise error
    reason = lost_worker(error)
    abandon(job, place)
    mark_failure(place, failure(job, place, reason))
    return Outcome("failed", reason)


@contextmanager
def _progress(scans: int, kept: int, failed: int) -> Iterator[Any]:
    """A line with scans an hour and the time left; in a file, a line every half minute."""
    live = sys.stderr.isatty()
    start, done = time.monotonic(), 0
    bar = tqdm(
        total=scans,
        initial=kept,
        unit="scan",
        file=sys.stderr,
        mininterval=0.2 if live else _LINE_EVERY_S,
        bar_format="{n_fmt}/{total_fmt} scans |{bar:20}| {elapsed}, {remaining} left{postfix}",
    )

    def show(outcome: Outcome) -> None:
        nonlocal done, failed
        done, failed = done + (outcome.status == "done"), failed + (outcome.status == "failed")
        rate = 3600 * done / max(time.monotonic() - start, 1e-3)
        bar.set_postfix_str(f"{rate:.0f} scans/hour" + (f", {failed} failed" if failed else ""), refresh=False)
        bar.update()

    with bar:
        yield show
