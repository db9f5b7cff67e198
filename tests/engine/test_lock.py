"""Locks: two runs never process the same scan."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from fake_task import fake_task, make_jobs, run_fake

from slant.engine.job import Worker
from slant.engine.layout import OutputLayout
from slant.engine.lock import exclusive
from slant.engine.worker import process
from slant.errors import OutputError

GOOD = {"a": "ok", "b": "ok", "c": "ok"}


def test_a_scan_that_another_run_processes_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (job,) = make_jobs(tmp_path / "in", {"a": "ok"}, out)
    layout = OutputLayout(out)
    layout.make()
    layout.staging_of("a").mkdir()
    with exclusive(layout.lock("a")) as owner:
        assert owner == ""
        outcome = process(job, fake_task(), layout, Worker(1))
        assert outcome.status == "busy"
        assert f"process {os.getpid()} on " in outcome.reason
        assert layout.staging_of("a").is_dir()
        assert not (out / "a").exists()
    assert process(job, fake_task(), layout, Worker(1)).status == "done"


def test_a_busy_scan_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", GOOD, out)
    layout = OutputLayout(out)
    layout.make()
    held = exclusive(layout.lock("b"))
    held.__enter__()
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            held.__exit__(None, None, None)

    monkeypatch.setattr("slant.engine.run.time.sleep", sleep)
    assert run_fake(jobs, out).done == ("a", "b", "c")
    assert len(waits) == 2


def test_a_lock_file_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.write_text("left by a killed process")
    os.utime(path, (4e9, 4e9))
    with exclusive(path) as owner:
        assert owner == ""
    assert not path.exists()


def test_a_lock_file_that_was_replaced_is_acquired_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.lock"
    real, calls = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not calls:
            path.unlink()  # the owner ends after this process opened the file
        calls.append(operation)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with exclusive(path) as owner:
        assert (owner, len(calls)) == ("", 2)
        with exclusive(path) as other:
            assert other == f"process {os.getpid()} on {os.uname().nodename}"


def test_a_file_system_without_locks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_implemented(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", not_implemented)
    with pytest.raises(OutputError, match=r"Function not implemented; the file system has no locks; use --work-dir"):
        exclusive(tmp_path / "x.lock").__enter__()
    jobs = make_jobs(tmp_path / "in", {"a": "ok"}, tmp_path / "out")
    assert "has no locks" in run_fake(jobs, tmp_path / "out").failed[0].reason
