"""Killed, terminated, simultaneous and parallel runs of `slant multiatlas` end with the files of an undisturbed run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_atlases import NAMES, OPTIONS

from slant.engine.layout import OutputLayout

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture
def prepared(done: Path, tmp_path: Path) -> Path:
    """A work directory with the preprocessed scans, but without registrations."""
    shutil.copytree(done / "work" / "prepared", tmp_path / "work" / "prepared")
    return tmp_path / "work"


def start(library: Path, out: Path, work_dir: Path, *options: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [out, "--atlases", library, "--leave-one-out", *OPTIONS, "--work-dir", work_dir, *options]
    command = [sys.executable, "-c", "from slant.cli import main; main()", "multiatlas", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(run: subprocess.Popen[str]) -> tuple[int, int]:
    """Numbers of segmented and of already finished targets, of a run that succeeds."""
    stdout, stderr = run.communicate(timeout=180)
    assert run.returncode == 0, stderr
    counts = re.search(r"segmented (\d+) scan\(s\), (\d+) already done", stdout)
    assert counts is not None
    return int(counts[1]), int(counts[2])


def wait_for_a_record(out: Path) -> None:
    end = time.monotonic() + 90
    while not list(out.glob("*_multiatlas.json")):
        assert time.monotonic() < end, "no target was finished"
        time.sleep(0.02)


def assert_only_complete_results(out: Path, work_dir: Path) -> None:
    layout = OutputLayout(out, work_dir)
    assert not [*layout.staging.iterdir(), *layout.locks.iterdir(), *out.glob(".slant-*")]
    files = {name: len(list(out.glob(f"{name}_*"))) for name in NAMES}
    assert set(files.values()) <= {0, 4}


def assert_same_files(out: Path, done: Path) -> None:
    """All files are the same, except for the runtimes in the records."""
    names = {path.name for path in done.iterdir() if path.is_file()}
    assert {path.name for path in out.iterdir() if path.is_file()} == names
    different = [name for name in names if (out / name).read_bytes() != (done / name).read_bytes()]
    assert set(different) <= {f"{name}_multiatlas.json" for name in NAMES}
    for name in different:
        first, second = (re.sub(r'(runtime_s|prepare|register|resample|fuse)": [0-9.]+', "", path.read_text())
                         for path in (out / name, done / name))  # fmt: skip
        assert first == second


def test_after_sigkill_the_same_command_ends_with_the_same_files(
    library: Path, done: Path, prepared: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = start(library, out, prepared)
    wait_for_a_record(out)
    run.kill()
    run.communicate(timeout=30)
    segmented, kept = finished(start(library, out, prepared))
    assert segmented + kept == len(NAMES)
    assert kept >= 1
    assert segmented >= 1, "it was killed before the end"
    assert_only_complete_results(out, prepared)
    assert_same_files(out, done)


def test_sigterm_leaves_complete_results_only(library: Path, prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = start(library, out, prepared)
    wait_for_a_record(out)
    run.send_signal(signal.SIGTERM)
    _, stderr = run.communicate(timeout=30)
    assert run.returncode == 143, stderr
    assert stderr.endswith("slant: terminated; no partial files were left\n")
    assert "Traceback" not in stderr
    assert_only_complete_results(out, prepared)
    assert not (out / "quality.tsv").exists()


def test_two_simultaneous_runs_segment_each_target_once(
    library: Path, done: Path, prepared: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    counts = [finished(run) for run in [start(library, out, prepared) for _ in range(2)]]
    assert sum(segmented for segmented, _ in counts) == len(NAMES)
    assert [segmented + kept for segmented, kept in counts] == [len(NAMES)] * 2
    assert_only_complete_results(out, prepared)
    assert_same_files(out, done)


def test_two_jobs_give_the_same_files(library: Path, done: Path, prepared: Path, tmp_path: Path) -> None:
    assert finished(start(library, tmp_path / "out", prepared, "--jobs", 2)) == (4, 0)
    assert_same_files(tmp_path / "out", done)
