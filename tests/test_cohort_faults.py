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


FULL = """
mount -t tmpfs -o size=256k tmpfs "$1/out" && exec "$2" -c "
import sys
from pathlib import Path
from fake_work import FakeWork, make_jobs, results, run_fake
from slant.cohort.failures import write_failures
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
def test_a_full_disk_is_a_row_for_each_scan_that_does_not_fit(tmp_path: Path) -> None:
    """A file system of 256 KiB, in a name space of its own."""
    (tmp_path / "out").mkdir()
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"}
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    allowed = subprocess.run([*command, 'mount -t tmpfs tmpfs "$1"', "sh", tmp_path / "out"], check=False)
    if allowed.returncode:
        pytest.skip("no file system may be mounted here")
    run = subprocess.run(
        [*command, FULL, "sh", tmp_path, sys.executable], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    *rows, whole_ones, table, there, kept = run.stdout.splitlines()
    done = [row for row in rows if " " not in row]
    failed = [row for row in rows if " " in row]
    assert len(done) >= 2
    assert len(failed) >= 2
    assert all("No space left on device" in row for row in failed)
    assert whole_ones.split() == sorted(done), "nothing is there of those that failed"
    assert "failures.tsv: No space left on device; free some space and run again" in table
    assert (there, kept) == ("False", "True"), "finished scans stay"


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
