"""Progress of a run on stderr: one line that is redrawn in a terminal, one line per finished step in a log.

The remaining time is estimated from the typical durations of the steps and from how long those of this run have taken.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from slant.timing import Listener, StepProgress, Timing

NETWORKS, ATLASES = "networks and vote", "atlases"

STEPS: Mapping[str, tuple[str, float]] = {
    "read": ("reading the scan", 0.4),
    "load model": ("loading the model", 1.4),
    "robust intensities": ("robust intensities", 0.1),
    "brain": ("brain extraction", 2.7),
    "register": ("registration", 3.6),
    "bias": ("bias field correction", 4.5),
    "intensity": ("intensity normalization", 0.1),
    "deform": ("deformation of the atlas", 1.8),
    NETWORKS: ("networks and vote", 17.3),
    "resample labels": ("resampling to native space", 0.2),
    "volumes": ("volumes", 0.1),
    "quality": ("quality checks", 0.9),
    "overlay and reports": ("overlay and reports", 2.5),
    "write files": ("writing files", 0.3),
}
"""Steps in the order of a run: text for the user, and typical seconds with one thread (`chris_T1w`, slant27)."""

_VOTING = list(STEPS).index(NETWORKS)

STEPS_WITH_ATLASES: Mapping[str, tuple[str, float]] = dict(
    [*list(STEPS.items())[:_VOTING], (ATLASES, ("registration of atlases", 30.0)), *list(STEPS.items())[_VOTING:]]
)
"""The same with 12 atlases."""

_INITIAL_S = 5.0  # of a run at the typical speed, so that the first short steps do not decide on the estimate
_REDRAW_S = 1.0
_BAR, _DEFAULT_COLUMNS = 20, 80
_ERASE = "\r\x1b[K"  # to the start of the line, and erase to its end


@dataclass(frozen=True)
class RunningStep:
    """A step that has not ended: when it started, which fraction was done at the last update, and when that was."""

    name: str
    start_s: float
    fraction: float
    updated_s: float


@dataclass(frozen=True)
class RunState:
    """Steps of a run at a time; ``steps`` are the expected ones, ``last`` is the latest of them that started."""

    start_s: float
    ended: tuple[Timing, ...] = ()
    running: tuple[RunningStep, ...] = ()
    last: str = ""
    steps: Mapping[str, tuple[str, float]] = field(default_factory=lambda: STEPS)

    def after(self, progress: StepProgress, now_s: float) -> RunState:
        """The state after a start, progress or end of a step."""
        before = {step.name: step for step in self.running}
        others = tuple(step for step in self.running if step.name != progress.name)
        if progress.timing is not None:
            return replace(self, ended=(*self.ended, progress.timing), running=others)
        if progress.fraction > 0 and progress.name in before:
            step = replace(before[progress.name], fraction=progress.fraction, updated_s=now_s)
            return replace(self, running=tuple(step if old.name == progress.name else old for old in self.running))
        step = RunningStep(progress.name, now_s, progress.fraction, now_s)
        return replace(self, running=(*others, step), last=progress.name if progress.name in self.steps else self.last)


def typical_durations(threads: int, steps: Mapping[str, tuple[str, float]] = STEPS) -> dict[str, float]:
    """Typical seconds of each step; more threads make networks and atlases faster, and little else."""
    return {
        name: seconds / (threads if name.endswith((NETWORKS, ATLASES)) else 1) for name, (_, seconds) in steps.items()
    }


def remaining_s(state: RunState, now_s: float, typical_s: Mapping[str, float]) -> float:
    """Estimated remaining seconds of a run: the typical ones at the speed of this run so far.

    Steps that were passed over, for example because the model has no groupwise template, do not count. A step that
    takes longer than expected slows down the expected rest of the run.
    """
    known = [step for step in state.running if step.name in typical_s]
    spent = _INITIAL_S + sum(timing.runtime_s for timing in state.ended if timing.name in typical_s)
    spent += sum(step.updated_s - step.start_s for step in known)
    typical = _INITIAL_S + sum(typical_s.get(timing.name, 0.0) for timing in state.ended)
    typical += sum(step.fraction * typical_s[step.name] for step in known)
    rests = [((1 - step.fraction) * typical_s[step.name], now_s - step.updated_s) for step in known]
    slowness = max([spent / typical, *((spent + since) / (typical + rest) for rest, since in rests)])
    current = max((slowness * rest - since for rest, since in rests), default=0.0)
    names = list(typical_s)
    gone = {step.name for step in known} | {timing.name for timing in state.ended}
    later = names[names.index(state.last) + 1 :] if state.last in names else names
    return max(0.0, current) + slowness * sum(typical_s[name] for name in later if name not in gone)


def progress_text(state: RunState, now_s: float, left_s: float, columns: int, block: str = "#") -> str:
    """The line for a terminal: step, bar, elapsed and remaining time; it fits into this number of columns."""
    name = state.running[-1].name if state.running else state.last
    title, elapsed_s = state.steps.get(name, (name, 0.0))[0], now_s - state.start_s
    bar = (block * int(_BAR * elapsed_s / max(elapsed_s + left_s, 1.0))).ljust(_BAR)
    times = f"{elapsed_s:.0f} s, {_left(left_s)}"
    widest = f"{title} |{bar}| {times}"
    text = widest if len(widest) < columns else f"{title}, {times}"
    return text[: max(1, columns - 1)]  # a full line would wrap


def _left(seconds: float) -> str:
    if seconds <= 5:
        return "a few seconds left"
    if seconds <= 90:
        return f"about {5 * math.ceil(seconds / 5)} s left"
    return f"about {math.ceil(seconds / 60)} min left"


@contextmanager
def shown_progress(
    threads: int, *, quiet: bool = False, steps: Mapping[str, tuple[str, float]] = STEPS
) -> Iterator[Listener | None]:
    """Context manager that yields the listener of a run, which shows its progress on stderr; None if ``quiet``."""
    if quiet or sys.stderr is None:
        yield None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _live_line(threads, steps) as listener:
            yield listener
    else:
        yield _log_line


def _log_line(progress: StepProgress) -> None:
    if progress.timing is not None:
        _write(f"{progress.timing}\n")


@contextmanager
def _live_line(threads: int, steps: Mapping[str, tuple[str, float]]) -> Iterator[Listener]:
    """Redraw the line at each call of the listener and every second; at the end, also by an error, erase it."""
    state, typical_s = RunState(time.perf_counter(), steps=steps), typical_durations(threads, steps)
    block, lock, stopped = _block(), threading.Lock(), threading.Event()

    def draw() -> None:
        now_s = time.perf_counter()
        text = progress_text(state, now_s, remaining_s(state, now_s, typical_s), _columns(), block)
        _write(f"\r{text}{_ERASE[1:]}")

    def listen(progress: StepProgress) -> None:
        nonlocal state
        with lock:
            state = state.after(progress, time.perf_counter())
            draw()

    def redraw() -> None:
        while not stopped.wait(_REDRAW_S):
            with lock:
                if state.last and not stopped.is_set():
                    draw()

    threading.Thread(target=redraw, daemon=True).start()
    try:
        yield listen
    finally:
        with lock:
            stopped.set()
            _write(_ERASE)


def _columns() -> int:
    with suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or _DEFAULT_COLUMNS
    return _DEFAULT_COLUMNS


def _block() -> str:
    try:
        "█".encode(sys.stderr.encoding)
    except (LookupError, UnicodeEncodeError):
        return "#"
    return "█"


def _write(text: str) -> None:
    with suppress(OSError, ValueError):  # progress that cannot be shown must not end a run
        sys.stderr.write(text)
        sys.stderr.flush()
