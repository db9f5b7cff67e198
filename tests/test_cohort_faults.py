"""Workers and runs that are killed, ended or doubled lose nothing and spoil nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_work import make_jobs, results, run_fake

from slant.cohort.place import Place

TESTS = Path(__file__).resolve().parent
SCANS = {f"s{i:02d}": "ok" for i in range(12)}


def start(tmp_path: Path, out: Path, *, workers: int = 2, seconds: float = 0.2) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"}
    arguments = [tmp_path / "in", out, workers, seconds, tmp_path / "tally.txt"]
    command = [sys.executable, "-c", "from fake_work import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited for a minute"
        time.sleep(0.02)


def records(out: Path) -> int:
    return len(list(out.glob("*/*_record.json")))


def at_work(out: Path) -> list[Path]:
    return list(Place(out).stages.glob("*/s*"))


def nothing_unfinished(out: Path) -> bool:
    place = Place(out)
    return not [*place.stages.iterdir(), *place.locks.iterdir(), *out.glob("*/.slant-*")]


def whole(out: Path) -> bool:
    """Whether there is nothing but complete results."""
    counts = Counter(path.partition("/")[0] for path in results(out))
    return set(counts.values()) <= {3}


@pytest.mark.slow
def test_a_killed_worker_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", {**SCANS, "bad": "truncated", "boom": "kill"}, out)
    found = run_fake(jobs, out, workers=2)
    assert len(found.done) == len(SCANS)
    assert [f.name for f in found.failed] == ["bad", "boom"]
    assert "the worker was killed (SIGKILL) while it was at this scan" in found.failed[1].reason
    assert nothing_unfinished(out)
    assert whole(out)
    jobs[-1].scan.write_text("ok")
    assert run_fake(jobs, out, workers=1).done == ("boom",)


@pytest.mark.slow
def test_sigterm_ends_cleanly_and_the_next_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", {**SCANS, "s05": "sleep 60", "s06": "sleep 60"}, out)
    run = start(tmp_path, out)
    wait_for(lambda: len(at_work(out)) >= 4)  # both sleepers have written half of their files
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 143
    assert said.endswith("slant: terminated; nothing half-written was left\n")
    assert "Traceback" not in said
    assert nothing_unfinished(out)
    assert whole(out)
    assert not (out / "s05").exists()
    before = records(out)
    for job in jobs:
        job.scan.write_text("ok")
    again = run_fake(jobs, out)
    assert len(again.done) + len(again.kept) == len(SCANS)
    assert len(again.kept) >= before - 1, "at most the last one had not come into the index"


@pytest.mark.slow
def test_after_sigkill_the_files_are_those_of_a_run_without(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    jobs = make_jobs(tmp_path / "in", SCANS, out)
    run = start(tmp_path, out)
    wait_for(lambda: records(out) >= 4)
    run.kill()
    run.communicate(timeout=30)
    killed_after = records(out)
    assert killed_after < len(SCANS)
    again = run_fake(jobs, out, workers=2)
    assert len(again.kept) >= killed_after
    assert set(again.kept) | set(again.done) == set(SCANS)
    run_fake(make_jobs(tmp_path / "in", SCANS, other), other)
    assert results(out) == results(other)
    assert nothing_unfinished(out)


@pytest.mark.slow
def test_workers_end_with_a_killed_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_jobs(tmp_path / "in", {"s0": "sleep 60"}, out)
    run = start(tmp_path, out, workers=1)
    wait_for(lambda: bool(at_work(out)))
    run.kill()
    run.communicate(timeout=30)
    lock = Place(out).lock("s0")
    assert lock.exists(), "nobody could take it away"
    from slant.cohort.lock import exclusive

    def is_free() -> bool:
        with exclusive(lock) as owner:
            return owner == ""

    wait_for(is_free)


@pytest.mark.slow
def test_two_runs_at_a_time_share_the_scans(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_jobs(tmp_path / "in", SCANS, out)
    runs = [start(tmp_path, out) for _ in range(2)]
    for run in runs:
        _, said = run.communicate(timeout=120)
        assert run.returncode == 0, said
    begun = Counter((tmp_path / "tally.txt").read_text().split()[::2])
    assert begun == dict.fromkeys(SCANS, 1), "each scan was worked on once"
    assert results(out).keys() == {f"{s}/{s}_{f}" for s in SCANS for f in ("labels.txt", "volumes.txt", "record.json")}
    assert nothing_unfinished(out)
    assert run_fake(make_jobs(tmp_path / "in", SCANS, out), out).kept == tuple(SCANS)
