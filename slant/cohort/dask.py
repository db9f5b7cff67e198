"""The workers of a dask cluster: one that runs, or one of SLURM jobs that is started for this run."""

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

_WAIT_S = 30
_COUNT_EVERY_S = 2.0
_EMPTY_S = 300.0
_REFUSED_S = 10.0
_ANY_PORT = {"scheduler_options": {"dashboard_address": ":0"}}  # two runs on one machine need two
_ONE_AT_A_TIME = threading.Lock()
_TRIES = 3
_ALL_AT_ONCE = "0.1 s"  # as many jobs as scans, before it is known that these take longer than dask's guess of 0.5 s
_GONE, _CONTINUE = "the dask scheduler is gone", "finished scans stay, run again to continue"
_INSTALL = "install dask's part: pip install 'slant[cluster]'"


@dataclass(frozen=True)
class ClusterSettings:
    """SLURM jobs that work on scans, from a TOML file.

    Attributes
    ----------
    workers : int
        Jobs at a time; each takes one scan after the other.
    slurm : dict
        What `dask_jobqueue.SLURMCluster` takes: queue, account, cores, memory, walltime and so forth.
    """

    workers: int
    slurm: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SettingsError(f"workers must be at least 1, found {self.workers}")
        missing = [key for key in ("cores", "memory") if key not in self.slurm]
        if missing:
            raise SettingsError(
                f"[slurm] lacks {' and '.join(missing)} of a job; wanted such as cores = 2, memory = '6GB'"
            )


def read_cluster(path: Path) -> ClusterSettings:
    """The settings of a TOML file.

    Raises
    ------
    SettingsError
        If it cannot be read, or a key is unknown or missing.
    """
    try:
        return build(ClusterSettings, read_toml(path), str(path))
    except SettingsError as error:
        raise SettingsError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


class DaskPool:
    """Workers of dask; each takes one scan at a time with all its threads.

    Parameters
    ----------
    cluster : str or ClusterSettings
        The address of a scheduler, or the jobs to start.
    temporary : Path, optional
        Folder for temporary files, instead of the system's.
    """

    def __init__(self, cluster: str | ClusterSettings, temporary: Path | None = None) -> None:
        self._wanted = cluster
        self._temporary = temporary
        self._started: Any = None
        self._client: Any = None
        self._tasks: dict[Future[Any], Any] = {}
        self._count, self._counted_at, self._seen_at = 0, -math.inf, time.monotonic()
        self._refused_at, self._told = math.inf, False

    def __enter__(self) -> Self:
        """Find the scheduler, or start it.

        Raises
        ------
        SettingsError
            If dask is not installed, the scheduler does not answer, or the jobs cannot be described.
        """
        try:
            from distributed import Client
        except ImportError as error:
            raise SettingsError(f"dask is not here; {_INSTALL}") from error
        address: Any = self._wanted
        if isinstance(self._wanted, ClusterSettings):
            self._started = address = _slurm(self._wanted)
        try:
            self._client = Client(address, timeout=_WAIT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"no dask scheduler answers at {self._wanted}: {error}; wanted such as tcp://node01:8786"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the cluster; one that was started ends."""
        self.stop(now=kind is not None)

    def stop(self, *, now: bool) -> None:
        """Leave the cluster; scans at work in a cluster that goes on come to their end."""
        if not now:
            wait(list(self._tasks))
        client, started, self._client, self._started = self._client, self._started, None, None
        jobs = [] if started is None else [str(job.job_id) for job in started.workers.values() if job.job_id]
        for part in (client, started):
            if part is not None:
                with suppress(Exception):  # of dask about a scheduler that is gone
                    part.close()
        self._tasks.clear()
        if now and jobs:
            _wait_for_end(jobs)

    @property
    def slots(self) -> int:
        """Workers that are there, or that the jobs asked for will make.

        Raises
        ------
        SlantError
            If a scheduler has had no workers for some minutes, or is gone, or SLURM takes none of the jobs.
        """
        now = time.monotonic()
        if now - self._counted_at > _COUNT_EVERY_S:
            try:
                self._count = len(self._client.nthreads())
            except Exception as error:
                raise SlantError(f"{_GONE} ({error}); {_CONTINUE}") from error
            self._counted_at = now
            self._seen_at = now if self._count else self._seen_at
        if isinstance(self._wanted, ClusterSettings):
            self._look_for_refused()
            return self._wanted.workers
        if now - self._seen_at > _EMPTY_S:
            raise SlantError(f"{self._wanted} has had no workers for {_EMPTY_S:.0f} s; start some; {_CONTINUE}")
        return max(self._count, 1)

    def _look_for_refused(self) -> None:
        """Dask waits for jobs that SLURM did not take, such as those beyond a limit on them, as if they were queued."""
        jobs = list(self._started.workers.values())
        refused = [job for job in jobs if job.job_id is None]
        if refused and len(refused) == len(jobs):
            self._refused_at = min(self._refused_at, time.monotonic())
            if time.monotonic() - self._refused_at > _REFUSED_S:  # a job may have ended and another be on its way
                raise SlantError(f"SLURM takes no job: {refused[0].refusal}; {_CONTINUE}")
            return
        self._refused_at = math.inf
        if refused and not self._told:
            self._told = True
            left = f"goes on with {len(jobs) - len(refused)} of {self._wanted.workers}"  # type: ignore[union-attr]
            tqdm.write(f"slant: SLURM takes no more jobs: {refused[0].refusal}; {left}", file=sys.stderr)

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        """Start one."""
        outcome: Future[Any] = Future()
        threads = int(self._wanted.slurm["cores"]) if isinstance(self._wanted, ClusterSettings) else None
        self._send(outcome, (function, threads, self._temporary, arguments, options), _TRIES)
        return outcome

    def _send(self, outcome: Future[Any], call: tuple[Any, ...], tries: int) -> None:
        try:
            self._tasks[outcome] = self._client.submit(_on_worker, *call, pure=False, retries=0)
            self._tasks[outcome].add_done_callback(partial(self._take, outcome, call, tries))
        except Exception as error:  # noqa: BLE001 (dask has many for a scheduler that is gone)
            outcome.set_exception(SlantError(f"{_GONE} ({error}); {_CONTINUE}"))

    def _take(self, outcome: Future[Any], call: tuple[Any, ...], tries: int, task: Any) -> None:
        """Hand on what became of a task; if the worker that held it is lost, send it again, to be looked up."""
        if self._client is None:
            return
        try:
            if task.status == "error":
                outcome.set_exception(task.exception(timeout=_WAIT_S))
            elif task.status == "cancelled":
                outcome.set_exception(SlantError(f"{_GONE}; {_CONTINUE}"))
            else:
                outcome.set_result(task.result(timeout=_WAIT_S))
        except Exception as error:  # noqa: BLE001 (of dask; the task's own are handed on above)
            if tries:
                self._send(outcome, call, tries - 1)
            else:
                outcome.set_exception(error)
        if outcome.done():
            self._tasks.pop(outcome, None)


def _slurm(settings: ClusterSettings) -> Any:
    """Jobs with one worker each, which dask takes to have one thread: to more it would send more than one scan."""
    try:
        from dask_jobqueue.slurm import SLURMCluster, SLURMJob
        from distributed import Status
    except ImportError as error:
        raise SettingsError(f"dask-jobqueue is not here; {_INSTALL}") from error
    if shutil.which("sbatch") is None:
        raise SettingsError("there is no sbatch here, which starts SLURM jobs; run this on a login node of the cluster")

    class Job(SLURMJob):
        """One that knows why SLURM did not take it, which dask only logs, and that it is closed."""

        refusal = ""

        async def start(self) -> None:
            try:
                await super().start()  # type: ignore[no-untyped-call]
            except (RuntimeError, ValueError) as error:  # SLURM says no, or something else than a job's number
                said = str(error)
                self.refusal = " ".join(said.partition("stderr:")[2].split() or said.split())
                self.status = Status.running  # as dask would take it anyway, but for a traceback

        async def close(self) -> None:
            await super().close()  # type: ignore[no-untyped-call]
            self.status = Status.closed  # which dask wants of every job before it closes

    one_scan_a_job = {"processes": 1, "cores": 1, "job_cpu": settings.slurm.get("job_cpu", settings.slurm["cores"])}
    job_class: Any = Job
    try:
        cluster = SLURMCluster(**{**_ANY_PORT, **settings.slurm, **one_scan_a_job}, job_cls=job_class)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"[slurm] does not describe jobs: {error}; see dask_jobqueue.SLURMCluster") from error
    logging.getLogger("distributed").setLevel(logging.ERROR)  # else it tells of each job that ends with a traceback
    _check_jobs(str(cluster.job_script()))
    cluster.adapt(minimum_jobs=1, maximum_jobs=settings.workers, target_duration=_ALL_AT_ONCE)
    return cluster


def _check_jobs(script: str) -> None:
    """Ask SLURM whether it would take such jobs: dask only says so in the background, and goes on waiting for them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.sh"
        path.write_text(script, encoding="utf-8")
        asked = _say("sbatch", "--test-only", str(path))
    if asked.returncode:
        said = " ".join(asked.stderr.split()) or f"sbatch --test-only ended with {asked.returncode}"
        raise SettingsError(f"SLURM refuses the jobs that [slurm] describes: {said}")


def _wait_for_end(jobs: list[str]) -> None:
    """Wait until cancelled jobs have ended, so that what they left can be cleared away."""
    end = time.monotonic() + _WAIT_S
    while time.monotonic() < end:
        try:
            listed = _say("squeue", "--noheader", f"--jobs={','.join(jobs)}")
        except OSError:
            return
        if not listed.stdout.strip():  # nor is there an answer for jobs that SLURM has forgotten
            return
        time.sleep(0.2)


def _say(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (SLURM's own commands)


def _on_worker(
    function: Callable[..., Any],
    threads: int | None,
    temporary: Path | None,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    """Run in a worker, which may have several threads: one scan after the other, as their output is redirected."""
    from distributed import get_worker

    if temporary is not None:
        tempfile.tempdir = os.fspath(temporary)
    with _ONE_AT_A_TIME:
        return function(*arguments, threads=threads or get_worker().state.nthreads, **options)
