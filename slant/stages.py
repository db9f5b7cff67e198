"""How long each stage of a run took and how much memory the process had needed by its end."""

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
class Stage:
    """One finished stage.

    Attributes
    ----------
    name : str
    seconds : float
        Wall time.
    peak_mib : float
        Largest resident memory of the process up to the stage's end, in MiB; 0 where the system does not tell.
    """

    name: str
    seconds: float
    peak_mib: float


def peak_resident_mib() -> float:
    """Largest resident memory of this process so far, in MiB; 0 on Windows.

    On Linux it is VmHWM of proc_pid_status(5): what getrusage(2) tells there counts the process that started this one
    too, as it was then.
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


class StageClock:
    """Times stages in the order they run: ``with clock("brain"): ...``; ``clock.stages`` lists the finished ones."""

    def __init__(self) -> None:
        self._stages: list[Stage] = []

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The finished stages in order."""
        return tuple(self._stages)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the body as a stage of that name."""
        start = time.perf_counter()
        yield
        self._stages.append(Stage(name, round(time.perf_counter() - start, 3), round(peak_resident_mib(), 1)))
