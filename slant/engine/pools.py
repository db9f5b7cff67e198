"""Pools of workers: the choice of a pool, and worker processes on this machine by joblib."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from slant.engine.gpu_server import GpuServer, start_child
from slant.engine.job import Pool, Worker, Workload
from slant.engine.resources import WORKER_GIB, Resources, WorkerPlan, plan

_THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


def choose_pool(
    workload: Workload,
    resources: Resources,
    *,
    threads: int | None = None,
    default_jobs: int | None = None,
    worker_gib: float = WORKER_GIB,
    start_server: Callable[[], GpuServer | None] = lambda: None,
) -> Pool:
    """The pool that the resources ask for: workers of a dask scheduler, SLURM jobs, or processes on this machine.

    Parameters
    ----------
    threads : int, optional
        Number of threads per worker on this machine (default: the cores are divided among the workers).
    default_jobs : int, optional
        Number of workers on this machine if the resources do not give it (default: as many as fit).
    worker_gib : float, optional
        Peak resident memory of a worker in GiB.
    start_server : callable, optional
        Starts the GPU server of the workers on this machine, or returns None.

    Raises
    ------
    SettingsError
        If the resources are not enough for a worker, or the description of the SLURM jobs is invalid.
    MissingExtraError
        If dask is needed and not installed.
    """
    temporary = workload.layout.work_dir
    if resources.scheduler is not None or resources.cluster is not None:
        from slant.engine.dask import DaskPool
        from slant.engine.slurm import read_cluster

        return DaskPool(resources.scheduler or read_cluster(Path(str(resources.cluster))), temporary)
    scans = len(workload.job_list.jobs)
    jobs = default_jobs if resources.jobs is None else resources.jobs
    worker_plan = plan(scans, jobs=jobs, mem_gb=resources.mem_gb, threads=threads, worker_gib=worker_gib)
    return LocalPool(worker_plan, temporary, start_server)


class LocalPool(Pool):
    """Worker processes on this machine.

    Each process has an executor of its own, so that a killed process affects one scan only, and it is known which one.

    Parameters
    ----------
    temporary : Path, optional
        Directory for temporary files (default: that of the system).
    start_server : callable, optional
        Starts the GPU server that the workers share, or returns None; called when the pool starts.
    """

    def __init__(
        self,
        worker_plan: WorkerPlan,
        temporary: Path | None = None,
        start_server: Callable[[], GpuServer | None] = lambda: None,
    ) -> None:
        self._plan = worker_plan
        self._start_server = start_server
        self._gpu_server: GpuServer | None = None
        self._environment = dict.fromkeys(_THREADS, str(worker_plan.threads))
        if temporary is not None:
            self._environment["TMPDIR"] = os.fspath(temporary)
        self._executors: list[Any] = []
        self._running: list[Future[Any] | None] = []

    def __enter__(self) -> Self:
        """Start the GPU server, if there is one; the workers start when they are needed."""
        self._gpu_server = self._start_server()
        return self

    def stop(self, *, now: bool) -> None:
        """Stop the processes: now, or when they are done."""
        while self._executors:
            self._executors.pop().shutdown(wait=True, kill_workers=now)
        self._running.clear()
        if self._gpu_server is not None:
            self._gpu_server.stop()
        self._gpu_server = None

    @property
    def slots(self) -> int:
        """Number of processes."""
        return self._plan.workers

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        """Start a function in a free process."""
        free = next((i for i, running in enumerate(self._running) if running is None or running.done()), None)
        if free is None:
            self._executors.append(self._executor())
            self._running.append(None)
            free = len(self._executors) - 1
        last = self._running[free]
        if last is not None and isinstance(last.exception(), BrokenExecutor):
            self._executors[free].shutdown(wait=True, kill_workers=True)
            self._executors[free] = self._executor()
        worker = Worker(self._plan.threads, None if self._gpu_server is None else self._gpu_server.client)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # loky warns when it replaces a worker that uses much memory
            future: Future[Any] = self._executors[free].submit(function, *arguments, worker=worker, **options)
        self._running[free] = future
        return future

    def _executor(self) -> Any:
        from joblib.externals.loky.backend import get_context
        from joblib.externals.loky.process_executor import ProcessPoolExecutor

        return ProcessPoolExecutor(
            max_workers=1,
            context=get_context("loky"),
            env=self._environment,
            initializer=start_child,
            initargs=(os.getpid(),),
        )


def lost_worker(error: BaseException) -> str:
    """Error message for a scan whose worker ended without a result."""
    if isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker":
        signal_name = re.search(r"SIG[A-Z]+", str(error))
        ending = f"was killed ({signal_name[0]})" if signal_name else "ended unexpectedly"
        return (
            f"the worker {ending} while processing this scan, probably out of memory; "
            "run again with fewer --jobs or more memory"
        )
    with suppress(Exception):
        return f"the worker failed: {type(error).__name__}: {error}"
    return "the worker failed"
