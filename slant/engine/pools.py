"""Pools of workers: the interface, and worker processes on this machine by joblib."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from slant.engine.gpu_server import GpuClient, GpuServer, set_client
from slant.engine.resources import WorkerPlan

_THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


class Pool(Protocol):
    """Workers, each of which processes one scan at a time."""

    def __enter__(self) -> Self:
        """Start the workers."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the workers; after an error at once, with the scans that they are processing."""

    def stop(self, *, now: bool) -> None:
        """Stop the workers: now, or when they are done."""

    @property
    def slots(self) -> int:
        """Number of scans that can be processed at the same time."""

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        """Start a function on a worker, with its number of threads as the argument ``threads``."""


class LocalPool:
    """Worker processes on this machine.

    Each process has an executor of its own, so that a killed process affects one scan only, and it is known which one.

    Parameters
    ----------
    plan : WorkerPlan
    temporary : Path, optional
        Directory for temporary files (default: that of the system).
    device : str, optional
        Device of the networks, as in `SegmentSettings`. If it is a GPU, the workers send preprocessed scans to a
        `GpuServer`.
    """

    def __init__(self, plan: WorkerPlan, temporary: Path | None = None, device: str = "cpu") -> None:
        self._plan = plan
        self._device = device
        self._gpu_server: GpuServer | None = None
        self._environment = dict.fromkeys(_THREADS, str(plan.threads))
        if temporary is not None:
            self._environment["TMPDIR"] = os.fspath(temporary)
        self._executors: list[Any] = []
        self._running: list[Future[Any] | None] = []

    def __enter__(self) -> Self:
        """Start the GPU server, if the device is a GPU; the workers start when they are needed.

        Raises
        ------
        DeviceError
            If the device is not available.
        """
        if self._device != "cpu":
            from slant.nets.predict import choose_device

            device = choose_device(self._device)
            if device.type != "cpu":
                self._gpu_server = GpuServer(str(device))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the processes; after an error at once."""
        self.stop(now=kind is not None)

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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # loky warns when it replaces a worker that uses much memory
            future: Future[Any] = self._executors[free].submit(
                function, *arguments, threads=self._plan.threads, **options
            )
        self._running[free] = future
        return future

    def _executor(self) -> Any:
        from joblib.externals.loky.backend import get_context
        from joblib.externals.loky.process_executor import ProcessPoolExecutor

        return ProcessPoolExecutor(
            max_workers=1,
            context=get_context("loky"),
            env=self._environment,
            initializer=start_worker,
            initargs=(os.getpid(), None if self._gpu_server is None else self._gpu_server.client),
        )


def start_worker(parent: int, gpu_client: GpuClient | None) -> None:
    """Set up a worker: it ignores signals, which the parent handles, and ends if the parent is killed."""
    set_client(gpu_client)
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


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
