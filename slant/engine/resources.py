"""Chooses how many scans are processed in parallel, and where."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slant.engine.layout import OutputLayout, absolute
from slant.errors import SettingsError

WORKER_GIB = 2.0
"""Peak resident memory of a worker in GiB, measured on scans of whole heads at 1 mm."""

_CGROUP, _PROC_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Resources:
    """Workers and memory for many scans.

    Attributes
    ----------
    jobs : int, optional
        Scans processed in parallel (default: as many as cores and available memory allow; slant multiatlas: 1).
    mem_gb : float, optional
        Memory for all scans that are processed at the same time, in GiB (default: the available memory).
    work_dir : Path, optional
        Directory for locks and temporary files, shared by all runs on one output directory.
        In slant multiatlas also for prepared scans and registrations (default: work in the output directory).
    scheduler : str, optional
        Address of a running dask scheduler, for example tcp://node01:8786. Its workers process the scans.
    cluster : Path, optional
        TOML file that describes SLURM jobs to start as workers: workers = N and a table [slurm].
    """

    jobs: int | None = None
    mem_gb: float | None = None
    work_dir: Path | None = None
    scheduler: str | None = None
    cluster: Path | None = None

    def __post_init__(self) -> None:
        if self.scheduler is not None and self.cluster is not None:
            raise SettingsError("--scheduler uses a running cluster and --cluster starts one; give only one of them")
        if self.jobs is not None and (self.scheduler or self.cluster):
            raise SettingsError("--jobs is for this machine; each worker of a cluster processes one scan at a time")

    def layout(self, out: Path) -> OutputLayout:
        """Layout of an output directory, with the locks in the work directory if one is given."""
        return OutputLayout(absolute(out), None if self.work_dir is None else absolute(self.work_dir))


@dataclass(frozen=True)
class WorkerPlan:
    """Number of workers, each a process that processes one scan at a time, and number of threads of each worker."""

    workers: int
    threads: int


def plan(
    scans: int,
    *,
    jobs: int | None = None,
    mem_gb: float | None = None,
    threads: int | None = None,
    worker_gib: float = WORKER_GIB,
) -> WorkerPlan:
    """Choose the numbers of workers and threads.

    Parameters
    ----------
    jobs : int, optional
        Requested number of workers (default: as many as cores, memory and scans allow).
    mem_gb : float, optional
        Memory for all workers in GiB (default: the available memory, which does not limit a given ``jobs``).
    threads : int, optional
        Number of threads per worker (default: the cores are divided among the workers).
    worker_gib : float, optional
        Peak resident memory of a worker in GiB.

    Raises
    ------
    SettingsError
        If ``mem_gb`` is too small for one worker, or ``jobs`` is not positive.
    """
    from joblib import cpu_count

    if jobs is not None and jobs < 1:
        raise SettingsError(f"--jobs must be at least 1, found {jobs}")
    if mem_gb is not None and not mem_gb >= worker_gib:
        raise SettingsError(f"--mem-gb must be at least {worker_gib:g}, the memory of one worker, found {mem_gb:g}")
    cores = int(cpu_count())
    fit_in_memory = int((available_gib() if mem_gb is None else mem_gb) / worker_gib)
    workers = cores // (threads or 1) if jobs is None else jobs
    if jobs is None or mem_gb is not None:
        workers = min(workers, fit_in_memory)
    workers = max(1, min(workers, scans))
    return WorkerPlan(workers, threads or max(1, cores // workers))


def available_gib() -> float:
    """Memory available to new processes, in GiB: of the machine, or of the control group (cgroup) if that is less."""
    import psutil

    return float(min([psutil.virtual_memory().available, *_cgroup_bytes()])) / 2**30


def _cgroup_bytes() -> Iterator[int]:
    """Memory left in each control group of this process, in bytes; groups without a limit are skipped."""
    with suppress(OSError, ValueError):
        for line in _PROC_CGROUP.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                top, limit, used = _CGROUP, "memory.max", "memory.current"
            elif "memory" in controllers.split(","):
                top, limit, used = _CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            else:
                continue
            group = Path(os.path.normpath(f"{top}/{path}"))
            for folder in (group, *group.parents):
                with suppress(OSError, ValueError):  # "max" is not a number and means no limit
                    yield int((folder / limit).read_text()) - int((folder / used).read_text())
                if folder == top:
                    break
