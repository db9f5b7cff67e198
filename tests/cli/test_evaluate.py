"""`slant evaluate` on files: tables, figure, record, output and errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from label_maps import IDS, blocks
from toy import content, run_slant, save, the_line

from slant.report.dice_figure import MethodDice, draw_dice

AFFINE = np.diag([-1.0, 1.5, 2.0, 1.0])
SCANS = ("a", "b", "c")


def write(path: Path, data: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(path, data.astype(np.int16), AFFINE)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Reference maps, and the predictions of a worse and of a better method."""
    for i, scan in enumerate(SCANS):
        reference = blocks(seed=i)
        random = np.random.default_rng(i)
        worse, better = (np.where(random.random(reference.shape) < error, IDS[i], reference) for error in (0.4, 0.1))
        extra = reference.copy()
        extra[3, 4, 5] = 15  # outside the protocol
        write(tmp_path / "reference" / f"{scan}_dseg.nii.gz", extra)
        write(tmp_path / "worse" / f"{scan}_dseg.nii.gz", worse * (reference > 0))
        write(tmp_path / "better" / scan / f"{scan}_seg-BrainCOLOR_dseg.nii.gz", better * (reference > 0))
    return tmp_path / "reference", tmp_path / "worse", tmp_path / "better"


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype={"scan": str})


def test_two_methods_are_compared(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, worse, better = folders
    out = tmp_path / "out"
    assert run_slant("evaluate", worse, reference, out, "--compare", better, "--jobs", 1, "--resamples", 500) == 0
    printed = capsys.readouterr().out
    assert "better - worse  median Dice difference +" in printed
    assert "Wilcoxon p = 0.25 (too few scans to reach 0.05)" in printed
    names = {"regions", "groups", "scans", "summary", "comparison"}
    assert set(content(out)) == {*(f"{n}.tsv" for n in names), "dice.png", "evaluation.json"}
    regions, scans, summary = (table(out / f"{name}.tsv") for name in ("regions", "scans", "summary"))
    assert len(regions) == 2 * 3 * 132
    assert scans["reference_other_mm3"].tolist() == pytest.approx([3.0] * 6)
    mean = regions.groupby(["method", "scan"])["dice"].mean()
    assert scans.set_index(["method", "scan"])["dice"].to_dict() == pytest.approx(mean.to_dict(), abs=1e-5)
    overall = summary[(summary["level"] == "all") & (summary["metric"] == "dice")].set_index("method")
    assert overall["mean"].to_dict() == pytest.approx(mean.groupby("method").mean().to_dict(), abs=1e-5)
    assert (overall["ci_low"] <= overall["mean"]).all()
    assert (overall["mean"] <= overall["ci_high"]).all()
    record = json.loads((out / "evaluation.json").read_text())
    assert len(record["files"]) == 6
    assert len(record["files"][0]["prediction"]["sha256"]) == 64
    assert record["rule"].startswith("For each scan, the mean over the regions")


def test_one_scan_has_no_interval(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, worse, _ = folders
    out = tmp_path / "out"
    assert run_slant("evaluate", worse / "a_dseg.nii.gz", reference, out, "--jobs", 1, "--resamples", 500) == 0
    printed = capsys.readouterr()
    assert "no interval" in printed.out
    assert "has no label map for b, c: skipped" in printed.err
    assert "only one scan: no confidence interval" in printed.err
    summary = table(out / "summary.tsv")
    assert summary[["ci_low", "ci_high"]].isna().all(axis=None)
    assert table(out / "comparison.tsv").empty


def test_results_are_replaced_only_if_forced(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, worse, _ = folders
    out = tmp_path / "out"
    out.mkdir()
    (out / "regions.tsv").write_text("old")
    command = ("evaluate", worse / "a_dseg.nii.gz", reference / "a_dseg.nii.gz", out, "--jobs", 1, "--resamples", 500)
    assert run_slant(*command) == 2
    assert "already holds results of an evaluation (regions.tsv)" in the_line(capsys)
    assert content(out) == {"regions.tsv": b"old"}
    assert run_slant(*command, "--force") == 0
    assert len(table(out / "regions.tsv")) == 132


def test_errors_have_the_file_name_and_leave_no_results(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, worse, _ = folders
    labels = blocks()
    labels[5, 5, 5] = 999
    bad = write(tmp_path / "bad" / "a_dseg.nii.gz", labels)
    assert run_slant("evaluate", bad, reference, tmp_path / "out", "--jobs", 1) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"slant: {bad} against {reference / 'a_dseg.nii.gz'}: ")
    assert "999" in error
    (worse / "b_dseg.nii.gz").unlink()
    assert run_slant("evaluate", worse, reference, tmp_path / "out") == 2
    assert "has no label map for b of" in the_line(capsys)
    assert run_slant("evaluate", bad, reference, tmp_path / "out", "--protocol", "brancolor") == 2
    assert "no label protocol 'brancolor'" in the_line(capsys)
    assert run_slant("evaluate", bad, reference, tmp_path / "out", "--resamples", 0) == 2
    assert "resamples must be at least 1" in the_line(capsys)
    assert run_slant("evaluate", worse, reference, tmp_path / "out", "--compare", worse, "--allow-missing") == 2
    assert "was given twice, expected two different methods" in the_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_number_of_jobs_changes_nothing(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    reference, _, better = folders
    for jobs in (1, 2):
        assert run_slant("evaluate", better, reference, tmp_path / f"out{jobs}", "--jobs", jobs) == 0
    one, two = (content(tmp_path / f"out{jobs}") for jobs in (1, 2))
    for files in (one, two):
        del files["evaluation.json"]
    assert one == two


def test_the_figure_is_a_reproducible_png() -> None:
    names = [f"region {i}" for i in range(8)]
    random = np.random.default_rng(0)
    both = [
        MethodDice(
            method,
            {"all regions": tuple(random.uniform(0.6, 0.9, 5)), "cortex": ()},
            {name: tuple(random.uniform(0.4, 1, 5)) for name in names},
        )
        for method in ("one $x_1", "two")
    ]
    picture = draw_dice(tuple(both))
    assert picture.startswith(b"\x89PNG")
    assert picture == draw_dice(tuple(both))
    assert picture != draw_dice(tuple(both[:1]))
