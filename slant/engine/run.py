"""Processes a list of scans; a failure does not stop the run."""

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

from slant.engine.failures import Failure, remove_failure_marker, write_failure_marker
from slant.engine.index import append, read_index
from slant.engine.job import Job, JobList, Task
from slant.engine.layout import OutputLayout
from slant.engine.pools import Pool, lost_worker
from slant.engine.worker import JobOutcome, clean_up, failure, process, still_finished
from slant.errors import SlantError

_RETRY_BUSY_S = 2.0
_CHECK_WORKERS_S = 5.0
_PROGRESS_LINE_S = 30.0


@dataclass(frozen=True)
class Cohort:
    """Scans to process, with the task and the output directory.

    Attributes
    ----------
    job_list : JobList
    task : Task
    layout : OutputLayout
    force : bool
        Whether finished scans are processed again.
    """

    job_list: JobList
    task: Task
    layout: OutputLayout
    force: bool = False


@dataclass(frozen=True)
class Summary:
    """Result of a run.

    Attributes
    ----------
    done, kept : tuple of str
        Ids of the scans that this run processed, and of those that were already finished.
    failed : tuple of Failure
        Failed scans, and folders that cannot be read.
    """

    done: tuple[str, ...]
    kept: tuple[str, ...]
    failed: tuple[Failure, ...]


def split(cohort: Cohort) -> tuple[list[Job], list[Job]]:
    """Split the jobs into those to process and those that the index lists as finished; no scan is opened."""
    entries = {} if cohort.force else read_index(cohort.layout.index)
    todo: list[Job] = []
    kept: list[Job] = []
    for job in cohort.job_list.jobs:
        (kept if still_finished(job, cohort.task, entries.get(job.id)) else todo).append(job)
    return todo, kept


def run_cohort(cohort: Cohort, pool: Pool) -> Summary:
    """Process all unfinished scans. An interrupted run can be repeated: finished scans are skipped.

    Parameters
    ----------
    cohort : Cohort
    pool : Pool
        Workers; started and stopped here.

    Returns
    -------
    Summary

    Raises
    ------
    OutputError
        If the output directory cannot be written.
    SlantError
        If the workers cannot continue, for example because the dask scheduler is gone.
    """
    cohort.layout.make()
    unreadable = [Failure(folder, reason, folder, "") for folder, reason in cohort.job_list.unreadable.items()]
    todo, finished = split(cohort)
    for job in finished:
        if cohort.layout.failure_marker(job.id).exists():
            remove_failure_marker(cohort.layout, job.id)
    outcomes: dict[str, JobOutcome] = {}
    if todo:
        progress = _progress(len(todo) + len(finished), len(finished), len(unreadable))
        with pool, progress as show, closing(_outcomes(cohort, pool, todo)) as ended:
            for job, outcome in ended:
                outcomes[job.id] = outcome
                if outcome.entry is not None:
                    append(cohort.layout.index, outcome.entry)
                show(outcome)
    failed = [
        failure(job, cohort.layout, outcomes[job.id].reason) for job in todo if outcomes[job.id].status == "failed"
    ]
    return Summary(
        tuple(job.id for job in todo if outcomes[job.id].status == "done"),
        tuple(sorted([job.id for job in finished] + [job.id for job in todo if outcomes[job.id].status == "kept"])),
        tuple(sorted(failed + unreadable, key=lambda f: f.name)),
    )


def _outcomes(cohort: Cohort, pool: Pool, todo: list[Job]) -> Generator[tuple[Job, JobOutcome]]:
    """Jobs with their outcomes, in the order in which they end; scans that another run is processing come last."""
    queue, busy = deque(todo), deque[Job]()
    running: dict[Future[Any], Job] = {}
    try:
        while queue or running or busy:
            if not queue and not running:
                time.sleep(_RETRY_BUSY_S)
                queue, busy = busy, queue
            slots = pool.slots
            while queue and len(running) < slots:
                job = queue.popleft()
                running[pool.submit(process, job, cohort.task, cohort.layout, force=cohort.force)] = job
            ended, _ = wait(running, timeout=_CHECK_WORKERS_S, return_when=FIRST_COMPLETED)
            for future in ended:
                job = running.pop(future)
                outcome = _outcome(future, job, cohort.layout)
                if outcome.status == "busy":
                    busy.append(job)
                else:
                    yield job, outcome
    except BaseException:
        pool.stop(now=True)  # before their partial files are removed
        for job in running.values():
            clean_up(job, cohort.layout)
        raise


def _outcome(future: Future[Any], job: Job, layout: OutputLayout) -> JobOutcome:
    """The outcome that the worker returned, or a failure if the worker was lost."""
    error = future.exception()
    if error is None:
        outcome: JobOutcome = future.result()
        return outcome
    if isinstance(error, SlantError):  # an error of the pool; an error of the scan is an outcome
        raise error
    reason = lost_worker(error)
    clean_up(job, layout)
    write_failure_marker(layout, failure(job, layout, reason))
    return JobOutcome("failed", reason)


@contextmanager
def _progress(scans: int, kept: int, failed: int) -> Iterator[Any]:
    """Progress line with scans per hour and the remaining time; in a log file, one line every half minute."""
    live = sys.stderr.isatty()
    start, done = time.monotonic(), 0
    bar = tqdm(
        total=scans,
        initial=kept,
        unit="scan",
        file=sys.stderr,
        mininterval=0.2 if live else _PROGRESS_LINE_S,
        bar_format="{n_fmt}/{total_fmt} scans |{bar:20}| {elapsed}, {remaining} left{postfix}",
    )

    def show(outcome: JobOutcome) -> None:
        nonlocal done, failed
        done, failed = done + (outcome.status == "done"), failed + (outcome.status == "failed")
        rate = 3600 * done / max(time.monotonic() - start, 1e-3)
        bar.set_postfix_str(f"{rate:.0f} scans/hour" + (f", {failed} failed" if failed else ""), refresh=False)
        bar.update()

    with bar:
        yield show
