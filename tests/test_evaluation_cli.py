"""`slant evaluate` on files: tables, figure, record, what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_evaluation import IDS, blocks
from toy import content, run_slant, save, the_line

from slant.report.agreement import Marks, draw_agreement

AFFINE = np.diag([-1.0, 1.5, 2.0, 1.0])
SCANS = ("a", "b", "c")


def write(path: Path, data: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(path, data.astype(np.int16), AFFINE)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """True maps, and the predictions of a worse and of a better method."""
    for i, scan in enumerate(SCANS):
        truth = blocks(seed=i)
        random = np.random.default_rng(i)
        worse, better = (np.where(random.random(truth.shape) < share, IDS[i], truth) for share in (0.4, 0.1))
        extra = truth.copy()
        extra[3, 4, 5] = 15  # outside the protocol
        write(tmp_path / "truth" / f"{scan}_dseg.nii.gz", extra)
        write(tmp_path / "worse" / f"{scan}_dseg.nii.gz", worse * (truth > 0))
        write(tmp_path / "better" / scan / f"{scan}_seg-BrainCOLOR_dseg.nii.gz", better * (truth > 0))
    return tmp_path / "truth", tmp_path / "worse", tmp_path / "better"


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype={"scan": str})


def test_two_methods_are_compared(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, worse, better = folders
    out = tmp_path / "out"
    assert run_slant("evaluate", worse, truth, out, "--compare", better, "--jobs", 1, "--resamples", 500) == 0
    said = capsys.readouterr().out
    assert "better - worse  median Dice +" in said
    assert "Wilcoxon p = 0.25 (too few scans to reach 0.05)" in said
    names = {"regions", "groups", "scans", "summary", "comparison"}
    assert set(content(out)) == {*(f"{n}.tsv" for n in names), "dice.png", "evaluation.json"}
    regions, scans, summary = (table(out / f"{name}.tsv") for name in ("regions", "scans", "summary"))
    assert len(regions) == 2 * 3 * 132
    assert scans["truth_other_mm3"].tolist() == pytest.approx([3.0] * 6)
    mean = regions.groupby(["method", "scan"])["dice"].mean()
    assert scans.set_index(["method", "scan"])["dice"].to_dict() == pytest.approx(mean.to_dict(), abs=1e-5)
    whole = summary[(summary["level"] == "all") & (summary["metric"] == "dice")].set_index("method")
    assert whole["mean"].to_dict() == pytest.approx(mean.groupby("method").mean().to_dict(), abs=1e-5)
    assert (whole["low"] <= whole["mean"]).all()
    assert (whole["mean"] <= whole["high"]).all()
    record = json.loads((out / "evaluation.json").read_text())
    assert len(record["files"]) == 6
    assert len(record["files"][0]["prediction"]["sha256"]) == 64
    assert record["rule"].startswith("Per scan, the mean over the regions")


def test_one_scan_has_no_interval(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, worse, _ = folders
    out = tmp_path / "out"
    assert run_slant("evaluate", worse / "a_dseg.nii.gz", truth, out, "--jobs", 1, "--resamples", 500) == 0
    said = capsys.readouterr()
    assert "no interval" in said.out
    assert "has no label map for b, c: left out" in said.err
    summary = table(out / "summary.tsv")
    assert summary[["low", "high"]].isna().all(axis=None)
    assert table(out / "comparison.tsv").empty


def test_results_are_replaced_only_if_forced(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, worse, _ = folders
    out = tmp_path / "out"
    out.mkdir()
    (out / "regions.tsv").write_text("old")
    command = ("evaluate", worse / "a_dseg.nii.gz", truth / "a_dseg.nii.gz", out, "--jobs", 1, "--resamples", 500)
    assert run_slant(*command) == 2
    assert "already holds results of an evaluation (regions.tsv)" in the_line(capsys)
    assert content(out) == {"regions.tsv": b"old"}
    assert run_slant(*command, "--force") == 0
    assert len(table(out / "regions.tsv")) == 132


def test_refusals_name_the_file_and_leave_nothing(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, worse, _ = folders
    strange = blocks()
    strange[5, 5, 5] = 999
    bad = write(tmp_path / "bad" / "a_dseg.nii.gz", strange)
    assert run_slant("evaluate", bad, truth, tmp_path / "out", "--jobs", 1) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"slant: {bad} against {truth / 'a_dseg.nii.gz'}: ")
    assert "999" in error
    (worse / "b_dseg.nii.gz").unlink()
    assert run_slant("evaluate", worse, truth, tmp_path / "out") == 2
    assert "has no label map for b of" in the_line(capsys)
    assert run_slant("evaluate", bad, truth, tmp_path / "out", "--protocol", "brancolor") == 2
    assert "no label protocol 'brancolor'" in the_line(capsys)
    assert run_slant("evaluate", bad, truth, tmp_path / "out", "--resamples", 0) == 2
    assert "resamples must be at least 1" in the_line(capsys)
    assert run_slant("evaluate", worse, truth, tmp_path / "out", "--compare", worse, "--allow-missing") == 2
    assert "given twice" in the_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_number_of_jobs_changes_nothing(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    truth, _, better = folders
    for jobs in (1, 2):
        assert run_slant("evaluate", better, truth, tmp_path / f"out{jobs}", "--jobs", jobs) == 0
    one, two = (content(tmp_path / f"out{jobs}") for jobs in (1, 2))
    for files in (one, two):
        del files["evaluation.json"]
    assert one == two


def test_the_figure_is_a_png_and_repeats() -> None:
    names = [f"region {i}" for i in range(8)]
    random = np.random.default_rng(0)
    both = [
        Marks(
            method,
            {"all regions": tuple(random.uniform(0.6, 0.9, 5)), "cortex": ()},
            {name: tuple(random.uniform(0.4, 1, 5)) for name in names},
        )
        for method in ("one $x_1", "two")
    ]
    picture = draw_agreement(tuple(both))
    assert picture.startswith(b"\x89PNG")
    assert picture == draw_agreement(tuple(both))
    assert picture != draw_agreement(tuple(both[:1]))
