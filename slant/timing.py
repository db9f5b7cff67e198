"""Wall time of each step of a run, and peak memory of the process at its end."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Timing:
    """Timing of one finished step.

    Attributes
    ----------
    runtime_s : float
        Wall time in seconds.
    peak_mib : float
        Peak resident memory of the process up to the end of the step, in MiB; 0 if the system does not report it.
    """

    name: str
    runtime_s: float
    peak_mib: float


def peak_resident_mib() -> float:
    """Peak resident memory of this process so far, in MiB; 0 on Windows.

    On Linux it is VmHWM of proc_pid_status(5), because getrusage(2) also counts the memory that the parent process had
    when it started this one.
    """
    try:
        if found := re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text("ascii"), re.MULTILINE):
            return int(found[1]) / 2**10
    except (OSError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class TimingLog:
    """Records the timings of steps: ``with clock("brain"): ...``; ``clock.timings`` lists the finished steps."""

    def __init__(self) -> None:
        self._timings: list[Timing] = []

    @property
    def timings(self) -> tuple[Timing, ...]:
        """Timings of the finished steps, in the order in which they finished."""
        return tuple(self._timings)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the body of a ``with`` statement as a step of this name."""
        start = time.perf_counter()
        yield
        self._timings.append(Timing(name, round(time.perf_counter() - start, 3), round(peak_resident_mib(), 1)))
