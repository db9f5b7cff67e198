"""Jobs of a task that only writes small files, and fails in the way that the text of the scan requests."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from slant.engine.job import Job, JobList, Worker, Workload
from slant.engine.layout import OutputLayout
from slant.engine.pools import LocalPool
from slant.engine.resources import WorkerPlan
from slant.engine.run import Summary, run_jobs
from slant.engine.trial import TrialTask
from slant.errors import InputError


def fake_task(setting: str = "a", *, seconds: float = 0.0, tally: Path | None = None) -> TrialTask:
    """A task that follows the text of the scan, takes some seconds, and adds a line for each scan to a file."""
    return TrialTask(setting, during=partial(act, seconds=seconds, tally=tally))


def act(job: Job, worker: Worker, *, seconds: float, tally: Path | None) -> None:
    """Do what the text of the scan says: ``ok``, ``kill``, ``truncated``, ``full``, ``error``, ``sleep SECONDS``."""
    word, _, rest = job.scan.read_text().partition(" ")
    if tally is not None:
        with tally.open("a") as file:
            file.write(f"{job.id} {worker.threads}\n")
    if seconds:
        time.sleep(seconds)
    if word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "truncated":
        raise InputError(f"{job.scan}: the file is truncated: found 9 bytes, expected 99; copy it again")
    if word == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if word == "error":
        raise ZeroDivisionError("two\nlines")
    if word == "sleep":
        time.sleep(float(rest))


class InlinePool:
    """Runs each job immediately, in this process."""

    slots = 1

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(now=False)

    def stop(self, *, now: bool) -> None:
        """Nothing runs."""

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        """Run the function now."""
        future: Future[Any] = Future()
        future.set_result(function(*arguments, worker=Worker(1), **options))
        return future


def make_jobs(folder: Path, texts: Mapping[str, str], out: Path) -> tuple[Job, ...]:
    """Write scans with these texts, and return their jobs."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.nii").write_text(text)
    return tuple(Job(name, folder / f"{name}.nii", out / name, name) for name in texts)


def run_fake(jobs: tuple[Job, ...], out: Path, *, workers: int = 0, task: Any = None, **options: Any) -> Summary:
    """Run jobs, in this process unless a number of workers is given."""
    pool = LocalPool(WorkerPlan(workers, 1)) if workers else InlinePool()
    return run_jobs(Workload(JobList(jobs, {}), task or fake_task(), OutputLayout(out), **options), pool)


def results(out: Path) -> dict[str, bytes]:
    """Contents of the result files of an output directory, without logs and ``.slant``."""
    files = (p for p in sorted(out.rglob("*")) if p.is_file())
    paths = [p.relative_to(out) for p in files]
    return {p.as_posix(): (out / p).read_bytes() for p in paths if p.parts[0] not in (".slant", "logs")}


def main() -> None:
    """Run jobs; arguments: input folder, output directory, workers, seconds per scan, tally file."""
    from slant.cli.app import guarded

    scans, out, workers, seconds, tally = sys.argv[1:]
    jobs = tuple(Job(p.stem, p, Path(out) / p.stem, p.stem) for p in sorted(Path(scans).glob("*.nii")))
    task = fake_task(seconds=float(seconds), tally=Path(tally))
    guarded(lambda: run_fake(jobs, Path(out), workers=int(workers), task=task))
