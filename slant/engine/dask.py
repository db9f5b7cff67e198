"""Workers of a dask cluster: an existing one, or SLURM jobs that are started for this run."""

from __future__ import annotations

import logging
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from slant.config import build, read_toml
from slant.errors import SettingsError, SlantError
from slant.extras import require_extra

_TIMEOUT_S = 30
_COUNT_EVERY_S = 2.0
_NO_WORKERS_S = 300.0
_REJECTED_S = 10.0
_ANY_PORT = {"scheduler_options": {"dashboard_address": ":0"}}  # two runs on one machine need two ports
_ONE_AT_A_TIME = threading.Lock()
_TRIES = 3
_TARGET_DURATION = "0.1 s"  # start as many jobs as scans at once: dask first assumes that a scan takes 0.5 s
_GONE, _RESUME = "the dask scheduler is gone", "finished scans are kept; run again to resume"


@dataclass(frozen=True)
class ClusterSettings:
    """SLURM jobs to start as workers, from a TOML file.

    Attributes
    ----------
    workers : int
        Number of jobs at the same time; each processes one scan after the other.
    slurm : dict
        Arguments of `dask_jobqueue.SLURMCluster`: queue, account, cores, memory, walltime and others.
    """

    workers: int
    slurm: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SettingsError(f"workers must be at least 1, found {self.workers}")
        missing = [key for key in ("cores", "memory") if key not in self.slurm]
        if missing:
            raise SettingsError(
                f"[slurm] lacks {' and '.join(missing)}; expected for example cores = 2, memory = '6GB'"
            )


def read_cluster(path: Path) -> ClusterSettings:
    """Read the settings of SLURM jobs from a TOML file.

    Raises
    ------
    SettingsError
        If the file cannot be read, or a key is unknown or missing.
    """
    try:
        return build(ClusterSettings, read_toml(path), str(path))
    except SettingsError as error:
        raise SettingsError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


class DaskPool:
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
            self._cluster = address = _slurm(self._requested)
        try:
            self._client = Client(address, timeout=_TIMEOUT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"no dask scheduler answers at {self._requested}: {error}; expected for example tcp://node01:8786"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect from the cluster; a cluster that was started for this run ends."""
        self.stop(now=kind is not None)

    def stop(self, *, now: bool) -> None:
        """Disconnect from the cluster; an existing cluster finishes the scans that it is processing."""
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
            _wait_for_end(jobs)

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
        self._send(outcome, (function, threads, self._temporary, arguments, options), _TRIES)
        return outcome

    def _send(self, outcome: Future[Any], call: tuple[Any, ...], tries: int) -> None:
        try:
            self._tasks[outcome] = self._client.submit(_on_worker, *call, pure=False, retries=0)
            self._tasks[outcome].add_done_callback(partial(self._receive, outcome, call, tries))
        except Exception as error:  # noqa: BLE001 (dask raises many kinds of errors if the scheduler is gone)
            outcome.set_exception(SlantError(f"{_GONE} ({error}); {_RESUME}"))

    def _receive(self, outcome: Future[Any], call: tuple[Any, ...], tries: int, task: Any) -> None:
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


def _slurm(settings: ClusterSettings) -> Any:
    """Start SLURM jobs with one worker each; dask counts one thread per worker, or it would send several scans."""
    from dask_jobqueue.slurm import SLURMCluster, SLURMJob
    from distributed import Status

    if shutil.which("sbatch") is None:
        raise SettingsError("sbatch not found; run on a login node of the SLURM cluster")

    class Job(SLURMJob):
        """A job that stores why SLURM rejected it, which dask only logs, and that it is closed."""

        rejection = ""

        async def start(self) -> None:
            try:
                await super().start()  # type: ignore[no-untyped-call]
            except (RuntimeError, ValueError) as error:  # SLURM rejected it, or printed no job id
                text = str(error)
                self.rejection = " ".join(text.partition("stderr:")[2].split() or text.split())
                self.status = Status.running  # dask would assume this too, after printing a traceback

        async def close(self) -> None:
            await super().close()  # type: ignore[no-untyped-call]
            self.status = Status.closed  # dask requires this of every job before it closes

    one_worker_per_job = {"processes": 1, "cores": 1, "job_cpu": settings.slurm.get("job_cpu", settings.slurm["cores"])}
    job_class: Any = Job
    try:
        cluster = SLURMCluster(**{**_ANY_PORT, **settings.slurm, **one_worker_per_job}, job_cls=job_class)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"the [slurm] settings are invalid: {error}; see dask_jobqueue.SLURMCluster") from error
    logging.getLogger("distributed").setLevel(logging.ERROR)  # otherwise it prints a traceback for each job that ends
    _check_jobs(str(cluster.job_script()))
    cluster.adapt(minimum_jobs=1, maximum_jobs=settings.workers, target_duration=_TARGET_DURATION)
    return cluster


def _check_jobs(script: str) -> None:
    """Check that SLURM accepts such jobs; dask only logs a rejection, and keeps waiting for the job."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.sh"
        path.write_text(script, encoding="utf-8")
        test = _run("sbatch", "--test-only", str(path))
    if test.returncode:
        reason = " ".join(test.stderr.split()) or f"sbatch --test-only exited with status {test.returncode}"
        raise SettingsError(f"sbatch rejected the [slurm] settings: {reason}")


def _wait_for_end(jobs: list[str]) -> None:
    """Wait until cancelled jobs have ended, so that their partial files can be removed."""
    end = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < end:
        try:
            queue = _run("squeue", "--noheader", f"--jobs={','.join(jobs)}")
        except OSError:
            return
        if not queue.stdout.strip():  # also if SLURM no longer knows the jobs
            return
        time.sleep(0.2)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (commands of SLURM)


def _on_worker(
    function: Callable[..., Any],
    threads: int | None,
    temporary: Path | None,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    """Run a function in a worker; one at a time, as the output is redirected per process."""
    from distributed import get_worker

    if temporary is not None:
        tempfile.tempdir = os.fspath(temporary)
    with _ONE_AT_A_TIME:
        return function(*arguments, threads=threads or get_worker().state.nthreads, **options)
