"""`slant quality fit` makes a reference from finished results, with which scans are then graded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from simulated_metrics import degraded, good
from toy import light_found, run_slant, the_line, toy_model, toy_model_folder, toy_scan, voted_result

from slant.config import SegmentSettings
from slant.io.names import ResultNames
from slant.io.results import Result, make_result, write_results
from slant.io.write import write_image
from slant.quality.grade import grade
from slant.quality.iqm import QualityMetrics
from slant.quality.reference import FILE, load_reference
from slant.volume import LabelMap

GOOD, HELD_OUT = ("a", "b", "c", "d", "e"), ("a", "b", "c")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model without a reference."""
    return Path(shutil.copytree(toy_model_folder(), tmp_path / "model"))


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """Results of good scans and of perturbed ones with simulated metrics, and reference label maps."""

    def measured(result: Result, _: object) -> QualityMetrics:
        bad = result.record.warnings == ("perturbed",)
        return degraded(ord(result.name), 1.0) if bad else good(ord(result.name))

    monkeypatch.setattr("slant.evaluation.fit_quality.measure_quality", measured)
    found = light_found()
    small = LabelMap(np.full(found.template_labels.data.shape, 4), found.template_labels.grid)
    found = replace(found, template_labels=small)
    result = make_result(toy_scan(), found, toy_model(), SegmentSettings(threads=1))
    wrong = np.where(np.indices(result.labels.data.shape)[2] % 2, result.labels.data, 0)
    bad = replace(
        result,
        labels=LabelMap(wrong, result.labels.grid),
        record=replace(result.record, warnings=("perturbed",)),
    )
    for name in GOOD:
        write_results(replace(result, name=name), tmp_path / "good" / name, {"overlay": b"a picture"})
    manual = tmp_path / "manual"
    manual.mkdir()
    for name in HELD_OUT:
        write_results(replace(bad, name=name), tmp_path / "bad", {"overlay": b"a picture"})
        write_image(manual / f"{name}_dseg.nii.gz", result.labels, toy_scan())
    return tmp_path / "good", tmp_path / "bad", manual


def fit(*arguments: object) -> int:
    return run_slant("quality", "fit", *arguments, "--jobs", 1)


def test_expected_dice_is_fitted_to_good_and_perturbed_scans(
    folders: tuple[Path, Path, Path], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, bad, manual = folders
    shutil.copy(manual / "a_dseg.nii.gz", manual / "x_dseg.nii.gz")
    (manual / "c_dseg.nii.gz").unlink()
    assert fit(model, results, "--references", manual, "--perturbed", bad) == 0
    said = capsys.readouterr()
    assert "no scan of good quality for the reference label maps x: skipped" in said.err
    assert "no reference label map for the perturbed scans c: skipped" in said.err
    assert said.out.startswith("reference: 5 scans of good quality\nexpected Dice of ")
    assert "calibration error 0." in said.out
    reference = load_reference(str(model))
    assert reference is not None
    assert reference.dice is not None
    assert max(reference.dice.base.values()) == pytest.approx(1)
    assert reference.dice.weights["vote_fraction"] < 0
    assert "expected_dice" in reference.limits


def test_without_reference_labels_there_is_a_grade_but_no_expected_dice(
    folders: tuple[Path, Path, Path], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_reference(str(model)) is None
    assert fit(model, folders[0], "--about", "five toys") == 0
    assert "no expected Dice: it needs --references" in capsys.readouterr().out
    reference = load_reference(str(model))
    assert reference is not None
    assert reference.about == "five toys"
    assert reference.dice is None
    before = (model / FILE).read_bytes()
    assert fit(model, folders[0]) == 2
    assert "quality.json already exists; use --force to replace it" in the_line(capsys)
    assert (model / FILE).read_bytes() == before
    assert fit(model, folders[0], "--force") == 0
    assert (model / FILE).read_bytes() != before


def test_the_votes_of_a_model_whose_tiles_do_not_vote_are_not_measured(
    folders: tuple[Path, Path, Path], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slant.tiles.TileLayout.__len__", lambda _: 1)
    assert fit(model, folders[0]) == 0
    reference = load_reference(str(model))
    assert reference is not None
    assert "vote_fraction" not in reference.limits
    assert not reference.vote_fractions


def test_scans_of_one_subject_are_one_subject(
    folders: tuple[Path, Path, Path], model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results, _, manual = folders
    monkeypatch.setattr("slant.evaluation.fit_quality.subject_of", lambda _: "sub-01")
    assert fit(model, results, "--references", manual) == 2
    assert "of 1 subject(s), expected at least 2" in the_line(capsys)


def test_what_does_not_fit_is_an_error(
    folders: tuple[Path, Path, Path], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, bad, manual = folders
    for arguments, message in (
        ((), "expected at least one with finished results"),
        ((results, "--perturbed", bad), "give them with --references"),
        ((results / "a",), "found results of 1 scans of good quality, expected at least 5"),
        ((results, "--references", manual / "a_dseg.nii.gz"), "1 of the scans of good quality have a reference"),
        ((model,), "holds no finished results"),
    ):
        assert fit(model, *arguments) == 2
        assert message in the_line(capsys)
    (model / "manifest.json").write_text((model / "manifest.json").read_text("utf-8").replace("none, random", "random"))
    assert fit(model, results) == 2
    error = capsys.readouterr().err
    assert f"{ResultNames('a').record} was made by the model toy with the hash" in error
    assert "segment the scan with this model" in error
    assert not (model / FILE).exists()


def test_results_with_atlases_are_no_reference(
    folders: tuple[Path, Path, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Path(shutil.copytree(folders[0], tmp_path / "results"))
    path = next(results.rglob("a_record.json"))
    record = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**record, "atlases": {"p1": 0.9, "p2": 0.8}}))
    assert fit(model, results) == 2
    assert f"{path} was made with --atlases" in capsys.readouterr().err
    assert not (model / FILE).exists()


@pytest.mark.slow
def test_scans_are_graded_with_the_reference(tmp_path: Path, model: Path) -> None:
    for name in GOOD:
        write_results(replace(voted_result(), name=name), tmp_path / name, {"overlay": b"a picture"})
    assert grade(voted_result(), str(model)) is None
    assert fit(model, *(tmp_path / name for name in GOOD)) == 0
    quality = grade(voted_result(), str(model))
    assert quality is not None
    assert quality.compared_with == "5 scans of good quality"
    assert all(check.grade == "pass" for check in quality.checks if check.value != "not measured")
