"""Processes a list of jobs; a failure does not stop the run."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from tqdm import tqdm

from slant.engine.failures import Failure, remove_failure_marker, write_failure_marker
from slant.engine.index import append, read_index
from slant.engine.job import Job, Pool, Workload
from slant.engine.layout import OutputLayout
from slant.engine.pools import lost_worker
from slant.engine.worker import JobOutcome, clean_up, failure, finished_entry, process, still_finished
from slant.errors import SlantError

_RETRY_BUSY_S = 2.0
_CHECK_WORKERS_S = 5.0
_PROGRESS_LINE_S = 30.0
R = TypeVar("R")
T = TypeVar("T")


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


def unfinished(workload: Workload) -> list[Job]:
    """Jobs without complete results; finished jobs that the index lacks are found by their records, and added to it.

    Raises
    ------
    OutputError
        If the output directory cannot be written.
    """
    workload.layout.make()
    todo, _ = _split(workload)
    remaining = []
    for job in todo:
        entry = None if workload.force else finished_entry(job, workload.task, workload.layout)
        if entry is None:
            remaining.append(job)
        else:
            append(workload.layout.index, entry)
    return remaining


def _split(workload: Workload) -> tuple[list[Job], list[Job]]:
    """Split the jobs into those to process and those that the index lists as finished; no scan is opened."""
    entries = {} if workload.force else read_index(workload.layout.index)
    todo: list[Job] = []
    kept: list[Job] = []
    for job in workload.job_list.jobs:
        (kept if still_finished(job, workload.task, entries.get(job.id)) else todo).append(job)
    return todo, kept


def run_jobs(workload: Workload, pool: Pool, first: Callable[[Pool], None] | None = None) -> Summary:
    """Process all unfinished jobs. An interrupted run can be repeated: finished jobs are skipped.

    Parameters
    ----------
    pool : Pool
        Workers; started and stopped here.
    first : callable, optional
        Called with the started pool before the first job, if any job is unfinished; may use `map_on`.

    Raises
    ------
    OutputError
        If the output directory cannot be written.
    SlantError
        If the workers cannot continue, for example because the dask scheduler is gone.
    """
    layout, job_list = workload.layout, workload.job_list
    layout.make()
    unreadable = [Failure(folder, reason, folder, "") for folder, reason in job_list.unreadable.items()]
    todo, finished = _split(workload)
    for job in finished:
        if layout.failure_marker(job.id).exists():
            remove_failure_marker(layout, job.id)
    outcomes: dict[str, JobOutcome] = {}
    if todo:
        with pool:
            if first is not None:
                first(pool)
            progress = _progress(len(todo) + len(finished), len(finished), len(unreadable))
            with progress as show, closing(_outcomes(workload, pool, todo)) as ended:
                for job, outcome in ended:
                    outcomes[job.id] = outcome
                    if outcome.entry is not None:
                        append(layout.index, outcome.entry)
                    show(outcome)
    by_status = {s: [job for job in todo if outcomes[job.id].status == s] for s in ("done", "kept", "failed")}
    failed = [failure(job, layout, outcomes[job.id].reason) for job in by_status["failed"]]
    return Summary(
        tuple(job.id for job in by_status["done"]),
        tuple(sorted(job.id for job in finished + by_status["kept"])),
        tuple(sorted(failed + unreadable, key=lambda f: f.name)),
    )


def map_on(pool: Pool, function: Callable[..., R], items: Sequence[T], label: str) -> list[R]:
    """Results of a function for each item, in order, computed by the workers, with a progress bar.

    Parameters
    ----------
    pool : Pool
        Started workers.
    function : callable
        Picklable; called with an item and the `Worker` as the argument ``worker``.
    label : str
        Name of the items for the progress bar.

    Raises
    ------
    SlantError
        If a worker is lost.
    """
    results: dict[int, R] = {}
    numbers = deque(range(len(items)))
    ended = _completed(pool, numbers, lambda i: pool.submit(function, items[i]), {})
    for i, future in tqdm(ended, total=len(items), desc=label, unit="scan", file=sys.stderr):
        error = future.exception()
        if error is not None:
            raise error if isinstance(error, SlantError) else SlantError(lost_worker(error)) from error
        results[i] = future.result()
    return [results[i] for i in range(len(items))]


def _completed(
    pool: Pool, queue: deque[T], submit: Callable[[T], Future[Any]], running: dict[Future[Any], T]
) -> Iterator[tuple[T, Future[Any]]]:
    """Submit the items of a queue, as many at a time as the pool has slots; yield them in the order of their ends."""
    while queue or running:
        slots = pool.slots
        while queue and len(running) < slots:
            item = queue.popleft()
            running[submit(item)] = item
        ended, _ = wait(running, timeout=_CHECK_WORKERS_S, return_when=FIRST_COMPLETED)
        for future in ended:
            yield running.pop(future), future


def _outcomes(workload: Workload, pool: Pool, todo: list[Job]) -> Generator[tuple[Job, JobOutcome]]:
    """Jobs with their outcomes, in the order in which they end; scans that another run is processing come last."""

    def submit(job: Job) -> Future[Any]:
        return pool.submit(process, job, workload.task, workload.layout, force=workload.force)

    queue, running = deque(todo), dict[Future[Any], Job]()
    try:
        while queue:
            busy = deque[Job]()
            for job, future in _completed(pool, queue, submit, running):
                outcome = _outcome(future, job, workload.layout)
                if outcome.status == "busy":
                    busy.append(job)
                else:
                    yield job, outcome
            queue = busy
            if queue:
                time.sleep(_RETRY_BUSY_S)
    except BaseException:
        pool.stop(now=True)  # before their partial files are removed
        for job in running.values():
            clean_up(job, workload.layout)
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
