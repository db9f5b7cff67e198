"""How many scans a machine can take at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slant.errors import SettingsError

WORKER_GIB = 2.0
"""Largest resident memory of a worker, measured on full heads of 1 mm."""

_CGROUP, _PROC_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Plan:
    """How the work is divided.

    Attributes
    ----------
    workers : int
        Scans at a time, each in a process of its own.
    threads : int
        Of each worker.
    """

    workers: int
    threads: int


def plan(scans: int, *, jobs: int | None = None, mem_gb: float | None = None, threads: int | None = None) -> Plan:
    """Workers and their threads for so many scans.

    Parameters
    ----------
    scans : int
    jobs : int, optional
        Workers wanted; by default as many as cores, memory and scans allow.
    mem_gb : float, optional
        Memory for all workers in GiB; by default what is available, which ``jobs`` overrules.
    threads : int, optional
        Of each worker; by default the cores are shared out.

    Raises
    ------
    SettingsError
        If there is no room for one worker in ``mem_gb``, or ``jobs`` is not positive.
    """
    from joblib import cpu_count

    if jobs is not None and jobs < 1:
        raise SettingsError(f"--jobs must be at least 1, found {jobs}")
    if mem_gb is not None and not mem_gb >= WORKER_GIB:
        raise SettingsError(f"--mem-gb must be at least {WORKER_GIB:g}, which one worker needs; found {mem_gb:g}")
    cores = int(cpu_count())
    room = int((available_gib() if mem_gb is None else mem_gb) / WORKER_GIB)
    wanted = cores // (threads or 1) if jobs is None else jobs
    if jobs is None or mem_gb is not None:
        wanted = min(wanted, room)
    workers = max(1, min(wanted, scans))
    return Plan(workers, threads or max(1, cores // workers))


def available_gib() -> float:
    """Memory that new processes can have, in GiB: of the machine, or of our control group if that is less."""
    import psutil

    return float(min([psutil.virtual_memory().available, *_cgroup_bytes()])) / 2**30


def _cgroup_bytes() -> Iterator[int]:
    """What the control groups that hold this process leave, in bytes; nothing where they set no limit."""
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
                with suppress(OSError, ValueError):  # "max" is no number: no limit
                    yield int((folder / limit).read_text()) - int((folder / used).read_text())
                if folder == top:
                    break
