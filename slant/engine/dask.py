"""Workers of a dask cluster: an existing one, or SLURM jobs that are started for this run."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from slant.engine.job import Pool, Worker
from slant.engine.slurm import ClusterSettings, start_cluster, wait_for_end
from slant.errors import SettingsError, SlantError
from slant.extras import require_extra

_TIMEOUT_S = 30
_COUNT_EVERY_S = 2.0
_NO_WORKERS_S = 300.0
_REJECTED_S = 10.0
_ONE_AT_A_TIME = threading.Lock()
_TRIES = 3
_GONE, _RESUME = "the dask scheduler is gone", "finished scans are kept; run again to resume"


@dataclass(frozen=True)
class Call:
    """A function, its arguments, and optionally the number of threads and the directory for temporary files."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    threads: int | None
    temporary: Path | None


class DaskPool(Pool):
    """Dask workers; each processes one scan at a time with all its threads.

    Parameters
    ----------
    cluster : str or ClusterSettings
        Address of a scheduler, or the SLURM jobs to start.
    temporary : Path, optional
        Directory for temporary files (default: that of the system).

    Raises
    ------
    MissingExtraError
        If dask is not installed.
    """

    def __init__(self, cluster: str | ClusterSettings, temporary: Path | None = None) -> None:
        require_extra("cluster")
        self._requested = cluster
        self._temporary = temporary
        self._cluster: Any = None
        self._client: Any = None
        self._tasks: dict[Future[Any], Any] = {}
        self._count, self._counted_at, self._worker_seen_at = 0, -math.inf, time.monotonic()
        self._rejected_at, self._warned = math.inf, False

    def __enter__(self) -> Self:
        """Connect to the scheduler, or start a cluster.

        Raises
        ------
        SettingsError
            If the scheduler does not answer, or the settings of the SLURM jobs are invalid.
        """
        from distributed import Client

        address: Any = self._requested
        if isinstance(self._requested, ClusterSettings):
            self._cluster = address = start_cluster(self._requested)
        try:
            self._client = Client(address, timeout=_TIMEOUT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"no dask scheduler answers at {self._requested}: {error}; expected for example tcp://node01:8786"
            ) from error
        return self

    def stop(self, *, now: bool) -> None:
        """Disconnect; an existing cluster finishes its scans, and one that was started for this run ends."""
        if not now:
            wait(list(self._tasks))
        client, cluster, self._client, self._cluster = self._client, self._cluster, None, None
        jobs = [] if cluster is None else [str(job.job_id) for job in cluster.workers.values() if job.job_id]
        for connection in (client, cluster):
            if connection is not None:
                with suppress(Exception):  # dask raises errors if the scheduler is gone
                    connection.close()
        self._tasks.clear()
        if now and jobs:
            wait_for_end(jobs)

    @property
    def slots(self) -> int:
        """Number of workers that are connected, or that the SLURM jobs will start.

        Raises
        ------
        SlantError
            If the scheduler is gone or has had no workers for some minutes, or SLURM rejects every job.
        """
        now = time.monotonic()
        if now - self._counted_at > _COUNT_EVERY_S:
            try:
                self._count = len(self._client.nthreads())
            except Exception as error:
                raise SlantError(f"{_GONE} ({error}); {_RESUME}") from error
            self._counted_at = now
            self._worker_seen_at = now if self._count else self._worker_seen_at
        if isinstance(self._requested, ClusterSettings):
            self._check_rejected_jobs()
            return self._requested.workers
        if now - self._worker_seen_at > _NO_WORKERS_S:
            raise SlantError(f"{self._requested} has had no workers for {_NO_WORKERS_S:.0f} s; start some; {_RESUME}")
        return max(self._count, 1)

    def _check_rejected_jobs(self) -> None:
        """Notice jobs that SLURM rejected, for example beyond a limit; dask waits for them as if they were queued."""
        jobs = list(self._cluster.workers.values())
        rejected = [job for job in jobs if job.job_id is None]
        if rejected and len(rejected) == len(jobs):
            self._rejected_at = min(self._rejected_at, time.monotonic())
            if time.monotonic() - self._rejected_at > _REJECTED_S:  # one job may have ended before the next starts
                raise SlantError(f"SLURM rejected every job: {rejected[0].rejection}; {_RESUME}")
            return
        self._rejected_at = math.inf
        if rejected and not self._warned:
            self._warned = True
            remaining = f"{len(jobs) - len(rejected)} of {self._requested.workers}"  # type: ignore[union-attr]
            message = f"SLURM rejected further jobs: {rejected[0].rejection}; continuing with {remaining}"
            tqdm.write(f"slant: warning: {message}", file=sys.stderr)

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        """Start a function on a worker."""
        outcome: Future[Any] = Future()
        threads = int(self._requested.slurm["cores"]) if isinstance(self._requested, ClusterSettings) else None
        self._send(outcome, Call(function, arguments, options, threads, self._temporary), _TRIES)
        return outcome

    def _send(self, outcome: Future[Any], call: Call, tries: int) -> None:
        try:
            self._tasks[outcome] = self._client.submit(_on_worker, call, pure=False, retries=0)
            self._tasks[outcome].add_done_callback(partial(self._receive, outcome, call, tries))
        except Exception as error:  # noqa: BLE001 (dask raises many kinds of errors if the scheduler is gone)
            outcome.set_exception(SlantError(f"{_GONE} ({error}); {_RESUME}"))

    def _receive(self, outcome: Future[Any], call: Call, tries: int, task: Any) -> None:
        """Pass on the result or error of a task; if its worker was lost, send the task again."""
        if self._client is None:
            return
        try:
            if task.status == "error":
                outcome.set_exception(task.exception(timeout=_TIMEOUT_S))
            elif task.status == "cancelled":
                outcome.set_exception(SlantError(f"{_GONE}; {_RESUME}"))
            else:
                outcome.set_result(task.result(timeout=_TIMEOUT_S))
        except Exception as error:  # noqa: BLE001 (an error of dask; errors of the task are passed on above)
            if tries:
                self._send(outcome, call, tries - 1)
            else:
                outcome.set_exception(error)
        if outcome.done():
            self._tasks.pop(outcome, None)


def _on_worker(call: Call) -> Any:
    """Run a function in a worker; one at a time, as the output is redirected per process."""
    from distributed import get_worker

    if call.temporary is not None:
        tempfile.tempdir = os.fspath(call.temporary)
    with _ONE_AT_A_TIME:
        worker = Worker(call.threads or get_worker().state.nthreads)
        return call.function(*call.arguments, worker=worker, **call.options)
