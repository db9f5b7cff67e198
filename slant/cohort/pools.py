"""Where the scans are worked on: processes of this machine by joblib, or the workers of a dask cluster."""

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

from slant.cohort.feed import Feed, LabellingProcess, use
from slant.cohort.machine import Plan

_THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


class Pool(Protocol):
    """Workers, each of which takes one scan at a time."""

    def __enter__(self) -> Self:
        """Start."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; with an error at once, and whatever is running with it."""

    def stop(self, *, now: bool) -> None:
        """End the workers, when they are done or now."""

    @property
    def slots(self) -> int:
        """Scans that may be at work now."""

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        """Start one, with the worker's threads as the option ``threads``."""


class LocalPool:
    """Processes of this machine; each is an executor of its own, so that a kill ends one scan and is known to be its.

    Parameters
    ----------
    plan : Plan
    temporary : Path, optional
        Folder for temporary files, instead of the system's.
    device : str, optional
        Where the networks run, as in `SegmentSettings`. If that is a GPU, the processes prepare for one that labels.
    """

    def __init__(self, plan: Plan, temporary: Path | None = None, device: str = "cpu") -> None:
        self._plan = plan
        self._device = device
        self._labelling: LabellingProcess | None = None
        self._environment = dict.fromkeys(_THREADS, str(plan.threads))
        if temporary is not None:
            self._environment["TMPDIR"] = os.fspath(temporary)
        self._executors: list[Any] = []
        self._running: list[Future[Any] | None] = []

    def __enter__(self) -> Self:
        """Start the process that labels, if it is a GPU that does; the others start when they are needed.

        Raises
        ------
        DeviceError
            If the device is not there.
        """
        if self._device != "cpu":
            from slant.nets.predict import choose_device

            device = choose_device(self._device)
            if device.type != "cpu":
                self._labelling = LabellingProcess(str(device))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes, at once if there was an error."""
        self.stop(now=kind is not None)

    def stop(self, *, now: bool) -> None:
        """End the processes, when they are done or now."""
        while self._executors:
            self._executors.pop().shutdown(wait=True, kill_workers=now)
        self._running.clear()
        if self._labelling is not None:
            self._labelling.stop()
        self._labelling = None

    @property
    def slots(self) -> int:
        """Number of processes."""
        return self._plan.workers

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        """Start one in a process that is free."""
        free = next((i for i, running in enumerate(self._running) if running is None or running.done()), None)
        if free is None:
            self._executors.append(self._executor())
            self._running.append(None)
            free = len(self._executors) - 1
        ended = self._running[free]
        if ended is not None and isinstance(ended.exception(), BrokenExecutor):
            self._executors[free].shutdown(wait=True, kill_workers=True)
            self._executors[free] = self._executor()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # loky replaces a worker that has grown, and says so
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
            initargs=(os.getpid(), None if self._labelling is None else self._labelling.feed),
        )


def start_worker(parent: int, feed: Feed | None) -> None:
    """Leave signals to the parent, which ends us, and end with it if it is killed."""
    use(feed)
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def lost_worker(error: BaseException) -> str:
    """The reason of a failure whose worker did not live to tell it."""
    if isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker":
        known = re.search(r"SIG[A-Z]+", str(error))
        how = f"was killed ({known[0]})" if known else "ended"
        return (
            f"the worker {how} while it was at this scan, most often for want of memory; "
            "run again, with fewer --jobs or more memory"
        )
    with suppress(Exception):
        return f"the worker failed: {type(error).__name__}: {error}"
    return "the worker failed"
