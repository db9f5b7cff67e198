"""A task that only writes small files, and fails in the way that the text of the scan requests."""

# ruff: noqa: D101, D102

from __future__ import annotations

import errno
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slant.engine.job import Job, JobList
from slant.engine.layout import OutputLayout
from slant.engine.pools import LocalPool
from slant.engine.resources import WorkerPlan
from slant.engine.run import Cohort, Summary, run_cohort
from slant.errors import InputError
from slant.io.staging import staged, write_json


@dataclass(frozen=True)
class FakeNames:
    name: str

    @property
    def record(self) -> str:
        return f"{self.name}_record.json"

    @property
    def all(self) -> tuple[str, ...]:
        return f"{self.name}_labels.txt", f"{self.name}_volumes.txt", self.record


@dataclass(frozen=True)
class FakeTask:
    """Does what the text of the scan says: ``ok``, ``kill``, ``truncated``, ``full``, ``error``, ``sleep SECONDS``."""

    setting: str = "a"
    seconds: float = 0.0
    tally: Path | None = None
    """File that gets a line for each scan when its processing starts."""

    @property
    def key(self) -> str:
        return self.setting

    def names(self, job: Job) -> FakeNames:
        return FakeNames(job.name)

    def fits(self, record: Mapping[str, Any]) -> bool:
        return record.get("setting") == self.setting

    def __call__(self, job: Job, staging: Path, threads: int) -> None:
        content = job.scan.read_bytes()
        if self.tally is not None:
            with self.tally.open("a") as file:
                file.write(f"{job.id} {threads}\n")
        if self.seconds:
            time.sleep(self.seconds)
        word = content.decode().partition(" ")[0]
        names = self.names(job)
        with staged(job.folder, names, unfinished=staging) as folder:
            for name in names.all[:-1]:
                (folder / name).write_bytes(name.encode() + content * 3)
            if word == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if word == "truncated":
                raise InputError(f"{job.scan}: the file is truncated: found 9 bytes, expected 99; copy it again")
            if word == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if word == "error":
                raise ZeroDivisionError("two\nlines")
            if word == "sleep":
                time.sleep(float(content.split()[1]))
            sha256 = hashlib.sha256(content).hexdigest()
            write_json(folder / names.record, {"input": {"sha256": sha256}, "setting": self.setting})


class InlinePool:
    """Runs each job immediately, in this process."""

    slots = 1

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(now=False)

    def stop(self, *, now: bool) -> None:
        pass

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments, threads=1, **options))
        return future


def make_jobs(folder: Path, texts: Mapping[str, str], out: Path) -> tuple[Job, ...]:
    """Write scans with these texts, and return their jobs."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.nii").write_text(text)
    return tuple(Job(name, folder / f"{name}.nii", out / name, name) for name in texts)


def run_fake(jobs: tuple[Job, ...], out: Path, *, workers: int = 0, task: Any = None, **options: Any) -> Summary:
    """Run a cohort, in this process unless a number of workers is given."""
    pool = LocalPool(WorkerPlan(workers, 1)) if workers else InlinePool()
    return run_cohort(Cohort(JobList(jobs, {}), task or FakeTask(), OutputLayout(out), **options), pool)


def results(out: Path) -> dict[str, bytes]:
    """Contents of the result files of an output directory, without logs and ``.slant``."""
    files = (p for p in sorted(out.rglob("*")) if p.is_file())
    paths = [p.relative_to(out) for p in files]
    return {p.as_posix(): (out / p).read_bytes() for p in paths if p.parts[0] not in (".slant", "logs")}


def main() -> None:
    """Run a cohort; arguments: input folder, output directory, workers, seconds per scan, tally file."""
    from slant.cli.app import guarded

    scans, out, workers, seconds, tally = sys.argv[1:]
    jobs = tuple(Job(p.stem, p, Path(out) / p.stem, p.stem) for p in sorted(Path(scans).glob("*.nii")))
    task = FakeTask(seconds=float(seconds), tally=Path(tally))
    guarded(lambda: run_fake(jobs, Path(out), workers=int(workers), task=task))
