"""How long each stage of a run took and how much memory the process had needed by its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


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
    """Largest resident memory of this process so far, in MiB; 0 on Windows."""
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
