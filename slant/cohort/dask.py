"""The workers of a dask cluster: one that runs, or one of SLURM jobs that is started for this run."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from slant.config import build, read_toml
from slant.errors import SettingsError, SlantError

_WAIT_S = 30
_COUNT_EVERY_S = 2.0
_ONE_AT_A_TIME = threading.Lock()
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
        self._executor: Any = None
        self._counted = (0, -1e9)

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
        self._executor = self._client.get_executor(pure=False, retries=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the cluster; one that was started ends."""
        self.stop(now=kind is not None)

    def stop(self, *, now: bool) -> None:
        """Leave the cluster; scans at work in a cluster that goes on come to their end."""
        if self._executor is not None:
            self._executor.shutdown(wait=not now)
        for part in (self._client, self._started):
            if part is not None:
                part.close()
        self._executor = self._client = self._started = None

    @property
    def slots(self) -> int:
        """Workers that are there, or that the jobs asked for will make."""
        count, when = self._counted
        if time.monotonic() - when > _COUNT_EVERY_S:
            count = len(self._client.nthreads())
            self._counted = (count, time.monotonic())
        wanted = self._wanted.workers if isinstance(self._wanted, ClusterSettings) else 1
        return max(count, wanted)

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        """Start one.

        Raises
        ------
        SlantError
            If the scheduler is gone.
        """
        try:
            future: Future[Any] = self._executor.submit(_on_worker, function, self._temporary, arguments, options)
        except Exception as error:
            raise SlantError(f"the dask scheduler is gone ({error}); finished scans stay, run again") from error
        return future


def _slurm(settings: ClusterSettings) -> Any:
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise SettingsError(f"dask-jobqueue is not here; {_INSTALL}") from error
    try:
        cluster = SLURMCluster(**{**settings.slurm, "processes": 1})
    except (TypeError, ValueError) as error:
        raise SettingsError(f"[slurm] does not describe jobs: {error}; see dask_jobqueue.SLURMCluster") from error
    cluster.adapt(minimum_jobs=1, maximum_jobs=settings.workers)
    return cluster


def _on_worker(
    function: Callable[..., Any], temporary: Path | None, arguments: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    """Run in a worker, which may have several threads: one scan after the other, as their output is redirected."""
    from distributed import get_worker

    if temporary is not None:
        tempfile.tempdir = os.fspath(temporary)
    with _ONE_AT_A_TIME:
        return function(*arguments, threads=get_worker().state.nthreads, **options)
