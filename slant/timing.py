"""Wall time of each step of a run, peak memory of the process at its end, and who is told of it."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
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

    def __str__(self) -> str:
        return f"{self.name}: {self.runtime_s:.1f} s, {self.peak_mib:.0f} MiB"


@dataclass(frozen=True)
class StepProgress:
    """What a listener is told of a step when it starts, goes on and ends.

    Attributes
    ----------
    fraction : float
        Fraction of the step that is done, 0 to 1.
    timing : Timing, optional
        Timing of the step, if it has ended.
    """

    name: str
    fraction: float = 0.0
    timing: Timing | None = None


Listener = Callable[[StepProgress], None]


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
    """Records the timings of steps: ``with clock("brain"): ...``; ``clock.timings`` lists the finished steps.

    Parameters
    ----------
    listener : callable, optional
        Told of every start and end of a step, and of its progress: ``with clock("networks") as advance: advance(0.5)``.
        It is called in the thread of the step, so it must be quick, must not raise errors, and must take calls from
        several threads.
    """

    def __init__(self, listener: Listener | None = None) -> None:
        self.listener = listener
        self._timings: list[Timing] = []

    @property
    def timings(self) -> tuple[Timing, ...]:
        """Timings of the finished steps, in the order in which they finished."""
        return tuple(self._timings)

    def add(self, timings: Iterable[Timing]) -> None:
        """Add the timings of steps that another log recorded."""
        self._timings.extend(timings)

    @contextmanager
    def __call__(self, name: str) -> Iterator[Callable[[float], None]]:
        """Time the body of a ``with`` statement as a step of this name.

        Yields
        ------
        advance : callable
            Tells the listener which fraction of the step is done, 0 to 1.
        """
        start = time.perf_counter()
        self._tell(StepProgress(name))
        yield lambda fraction: self._tell(StepProgress(name, fraction))
        timing = Timing(name, round(time.perf_counter() - start, 3), round(peak_resident_mib(), 1))
        self._timings.append(timing)
        self._tell(StepProgress(name, 1.0, timing))

    def _tell(self, progress: StepProgress) -> None:
        if self.listener is not None:
            self.listener(progress)
