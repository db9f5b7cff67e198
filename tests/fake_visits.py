"""Replaces the work on several visits of a subject by small made results, and counts the calls."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from toy import light_found, native_from_template, toy_head, write_toy_scan

from slant.engine.job import Job, Worker
from slant.grid import Grid
from slant.io.read import read_scan
from slant.longitudinal.task import LongitudinalTask
from slant.segmentation import Segmentation
from slant.sparse_votes import KEPT, SparseVotes
from slant.timing import Timing, TimingLog
from slant.volume import LabelMap, Volume
from slant.within_subject.visit import AlignedVisit

SMALL = Grid((3, 4, 5), np.eye(4))


def write_visits(folder: Path, *names: str) -> list[Path]:
    """Different scans of these names, each an image file of the toy head with an outlier of its own."""
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        head = toy_head().copy()
        head[tuple(np.argwhere(head)[sum(map(ord, path.name))])] += 1
        write_toy_scan(path, head)
    return paths


@dataclass(frozen=True, eq=False)
class FakeSubject:
    """As `slant.within_subject.subject.Subject`, but with only the names of the visits."""

    names: tuple[str, ...]
    similarities: tuple[float, ...]
    template: Volume = field(default_factory=lambda: Volume(np.ones(SMALL.shape), SMALL))
    timings: tuple[Timing, ...] = (Timing("rigid alignment", 5.0, 200.0),)


@dataclass(frozen=True)
class Fakes:
    """The four functions; each adds a line to a file, and raises the error that is given for its line."""

    tally: Path
    errors: Mapping[str, BaseException] = field(default_factory=dict)

    def called(self, line: str) -> None:
        """Add a line, and raise its error."""
        with self.tally.open("a") as file:
            file.write(f"{line}\n")
        if line in self.errors:
            raise self.errors[line]

    def align_visit(self, scan: Volume, *others: Any) -> AlignedVisit:
        """The whole scan as brain; tells the listener, the last argument, of a step."""
        with TimingLog(others[-1])("brain"):
            self.called(_line_of(scan))
        brain = LabelMap((scan.data > 0).astype(np.uint8), scan.grid)
        return AlignedVisit(brain, True, native_from_template(), 0.9, ("blurred",), (Timing("brain", 3.0, 100.0),))

    def align_subject(self, names: Sequence[str], scans: Any, aligned: Sequence[AlignedVisit], *_: Any) -> FakeSubject:
        """The names; checks that kept alignments are read as they were."""
        for one, scan in zip(aligned, scans, strict=True):
            assert one.brain.grid.same_as(scan.grid)
            assert np.array_equal(one.brain.data, scan.data > 0)
            assert (one.warnings, one.timings[0].runtime_s, one.skull_stripped) == (("blurred",), 3.0, True)
        self.called(f"align_subject {' '.join(names)}")
        return FakeSubject(tuple(names), (0.95,) * len(names))

    def visit_votes(self, subject: FakeSubject, index: int, *_: Any) -> SparseVotes:
        """Votes with the index of the visit everywhere."""
        self.called(f"visit_votes {subject.names[index]}")
        votes = np.full((*SMALL.shape, KEPT), index, np.uint8)
        return SparseVotes(votes, votes, np.ones(SMALL.shape, np.uint8))

    def label_visit(self, subject: FakeSubject, index: int, votes: Sequence[SparseVotes], *_: Any) -> Segmentation:
        """The same labels for every visit; checks that the votes are those of all visits."""
        assert [int(one.channels.max()) for one in votes] == list(range(len(subject.names)))
        self.called(f"label_visit {subject.names[index]}")
        return light_found()

    def lines(self) -> list[str]:
        """The calls so far."""
        return self.tally.read_text().splitlines() if self.tally.exists() else []


def align_line(scan: Path) -> str:
    """Line of the call that aligns the visit of a file."""
    return _line_of(read_scan(scan).volume)


def _line_of(scan: Volume) -> str:
    return f"align_visit {hashlib.sha256(scan.data.tobytes()).hexdigest()[:8]}"


@contextmanager
def fake_visits(tally: Path, errors: Mapping[str, BaseException] | None = None) -> Iterator[Fakes]:
    """Replace the functions of `slant.within_subject`, the drawings and all times."""
    fakes = Fakes(tally, errors or {})
    light_found()  # other tests share it, with its real times
    with ExitStack() as stack:
        for module, names in (("visit", ["align_visit"]), ("subject", ["align_subject", "visit_votes", "label_visit"])):
            for name in names:
                stack.enter_context(patch(f"slant.within_subject.{module}.{name}", getattr(fakes, name)))
        stack.enter_context(patch("slant.report.overlay.draw_overlay", lambda *_, **__: b"a picture"))
        stack.enter_context(patch("slant.report.page.reports_of", lambda *_: {"report": b"a page"}))
        stack.enter_context(patch("slant.timing.time.perf_counter", lambda: 0.0))
        stack.enter_context(patch("slant.timing.peak_resident_mib", lambda: 0.0))
        yield fakes


@dataclass(frozen=True)
class FakeTask:
    """A `LongitudinalTask` that fakes the work, also in a worker process."""

    task: LongitudinalTask
    tally: Path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.task, name)

    def __call__(self, job: Job, staging: Path, worker: Worker) -> None:
        """Do the task with fakes."""
        with fake_visits(self.tally):
            self.task(job, staging, worker)
