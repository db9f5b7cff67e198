"""Killed workers, killed or terminated runs, full disks and simultaneous runs leave only complete results."""

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
from fake_task import make_jobs, results, run_fake

from slant.engine.layout import OutputLayout

TESTS = Path(__file__).resolve().parents[1]
SCANS = {f"s{i:02d}": "ok" for i in range(12)}


def start(tmp_path: Path, out: Path, *, workers: int = 2, seconds: float = 0.2) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"}
    arguments = [tmp_path / "in", out, workers, seconds, tmp_path / "tally.txt"]
    command = [sys.executable, "-c", "from fake_task import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the condition was not met within a minute"
        time.sleep(0.02)


def count_records(out: Path) -> int:
    return len(list(out.glob("*/*_record.json")))


def unfinished_folders(out: Path) -> list[Path]:
    return list(OutputLayout(out).staging.glob("*/s*"))


def no_partial_files(out: Path) -> bool:
    layout = OutputLayout(out)
    return not [*layout.staging.iterdir(), *layout.locks.iterdir(), *out.glob("*/.slant-*")]


def only_complete_results(out: Path) -> bool:
    """Whether each folder has all result files or none."""
    counts = Counter(path.partition("/")[0] for path in results(out))
    return set(counts.values()) <= {3}


@pytest.mark.slow
def test_a_killed_worker_is_a_failure_and_the_others_continue(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", {**SCANS, "bad": "truncated", "boom": "kill"}, out)
    summary = run_fake(jobs, out, workers=2)
    assert len(summary.done) == len(SCANS)
    assert [f.name for f in summary.failed] == ["bad", "boom"]
    assert "the worker was killed (SIGKILL) while processing this scan" in summary.failed[1].reason
    assert no_partial_files(out)
    assert only_complete_results(out)
    jobs[-1].scan.write_text("ok")
    assert run_fake(jobs, out, workers=1).done == ("boom",)


@pytest.mark.slow
def test_sigterm_stops_cleanly_and_the_next_run_resumes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", {**SCANS, "s05": "sleep 60", "s06": "sleep 60"}, out)
    run = start(tmp_path, out)
    layout = OutputLayout(out)
    wait_for(lambda: all(any(layout.staging_of(s).glob("*")) for s in ("s05", "s06")))  # files without a record
    run.send_signal(signal.SIGTERM)
    _, stderr = run.communicate(timeout=30)
    assert run.returncode == 143
    assert stderr.endswith("slant: terminated; no partial files were left\n")
    assert "Traceback" not in stderr
    assert no_partial_files(out)
    assert only_complete_results(out)
    assert not (out / "s05").exists()
    before = count_records(out)
    for job in jobs:
        job.scan.write_text("ok")
    again = run_fake(jobs, out)
    assert len(again.done) + len(again.kept) == len(SCANS)
    assert len(again.kept) >= before - 1, "at most the last scan is missing in the index"


@pytest.mark.slow
def test_the_files_after_sigkill_and_resume_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    jobs = make_jobs(tmp_path / "in", SCANS, out)
    run = start(tmp_path, out)
    wait_for(lambda: count_records(out) >= 4)
    run.kill()
    run.communicate(timeout=30)
    killed_after = count_records(out)
    assert killed_after < len(SCANS)
    again = run_fake(jobs, out, workers=2)
    assert len(again.kept) >= killed_after
    assert set(again.kept) | set(again.done) == set(SCANS)
    run_fake(make_jobs(tmp_path / "in", SCANS, other), other)
    assert results(out) == results(other)
    assert no_partial_files(out)


@pytest.mark.slow
def test_workers_end_with_a_killed_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_jobs(tmp_path / "in", {"s0": "sleep 60"}, out)
    run = start(tmp_path, out, workers=1)
    wait_for(lambda: bool(unfinished_folders(out)))
    run.kill()
    run.communicate(timeout=30)
    lock = OutputLayout(out).lock("s0")
    assert lock.exists(), "a killed run cannot remove its lock"
    from slant.engine.lock import exclusive

    def is_free() -> bool:
        with exclusive(lock) as owner:
            return owner == ""

    wait_for(is_free)


FULL = """
mount -t tmpfs -o size=256k tmpfs "$1/out" && exec "$2" -c "
import sys
from pathlib import Path
from fake_task import fake_task, make_jobs, results, run_fake
from slant.engine.failures import write_failures
from slant.errors import OutputError

top = Path(sys.argv[1])
out = top / 'out'
jobs = make_jobs(top / 'in', {f's{i}': 'ok' + 8000 * '.' for i in range(9)}, out)
first = run_fake(jobs, out)
for name in (*first.done, *(f.name for f in first.failed)):
    print(name, *(f.reason for f in first.failed if f.name == name))
print(*sorted({path.split('/')[0] for path in results(out)}))
try:
    with (out / 'filled').open('wb', buffering=0) as file:
        while True:
            file.write(b'0' * 512)
except OSError:
    pass
try:
    write_failures(out / 'failures.tsv', first.failed)
except OutputError as error:
    print(error)
print((out / 'failures.tsv').exists())
(out / 'filled').unlink()
kept = [job for job in jobs if job.id in first.done]
print(len(run_fake(tuple(kept), out).kept) == len(kept))
" "$1"
"""


@pytest.mark.slow
def test_on_a_full_disk_each_scan_that_does_not_fit_fails(tmp_path: Path) -> None:
    """The output directory is a file system of 256 KiB, in a mount namespace of its own."""
    (tmp_path / "out").mkdir()
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"}
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    allowed = subprocess.run([*command, 'mount -t tmpfs tmpfs "$1"', "sh", tmp_path / "out"], check=False)
    if allowed.returncode:
        pytest.skip("this user may not mount a file system")
    run = subprocess.run(
        [*command, FULL, "sh", tmp_path, sys.executable], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    *rows, complete, table, table_exists, kept = run.stdout.splitlines()
    done = [row for row in rows if " " not in row]
    failed = [row for row in rows if " " in row]
    assert len(done) >= 2
    assert len(failed) >= 2
    assert all("No space left on device" in row for row in failed)
    assert complete.split() == sorted(done), "failed scans leave no files"
    assert "failures.tsv: No space left on device; check free space and write permission" in table
    assert (table_exists, kept) == ("False", "True"), "finished scans are kept"


@pytest.mark.slow
def test_two_simultaneous_runs_share_the_scans(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_jobs(tmp_path / "in", SCANS, out)
    runs = [start(tmp_path, out) for _ in range(2)]
    for run in runs:
        _, stderr = run.communicate(timeout=120)
        assert run.returncode == 0, stderr
    started = Counter((tmp_path / "tally.txt").read_text().split()[::2])
    assert started == dict.fromkeys(SCANS, 1), "each scan is processed once"
    assert results(out).keys() == {f"{s}/{s}_{f}" for s in SCANS for f in ("labels.txt", "volumes.txt", "record.json")}
    assert no_partial_files(out)
    assert run_fake(make_jobs(tmp_path / "in", SCANS, out), out).kept == tuple(SCANS)
