"""The second round of a training: pseudo-labels, and the networks that start from those of the first round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from phantom_runs import phantom_field
from phantoms import phantom_arrays, toy_settings, write_prepared

from slant.errors import InputError
from slant.grid import axis_aligned_grid
from slant.io.quality import RegionQuality
from slant.io.resources import load_protocol
from slant.nets.weights import read_model
from slant.train import second_round
from slant.train.checkpoint import averaged_weights
from slant.train.data import expected_dice_file
from slant.train.prepare import voxel_weights
from slant.train.run import run_stages
from slant.train.settings import TrainSettings
from slant.volume import LabelMap, Volume

STAGES = ("whole", "tiles", "export")
GRID = axis_aligned_grid((4, 4, 4), 1.0, (0, 0, 0))
PROTOCOL = load_protocol()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainSettings:
    """A run with two scans to label; the model labels every voxel with the number of scans it has seen."""
    toy = replace(toy_settings(tmp_path, subjects=2), unlabelled=tmp_path / "new")
    (tmp_path / "new").mkdir()
    for i, name in enumerate(("u0", "u1")):
        (tmp_path / "new" / f"{name}_T1w.nii.gz").write_bytes(name.encode())
        write_prepared(toy.work_dir / "prepared", tmp_path / "work/all-round2/auxiliary", name, phantom_arrays(50 + i))
    seen: list[str] = []

    def segment_scan(scan: SimpleNamespace, *_: object) -> SimpleNamespace:
        seen.append(scan.volume)
        labels = LabelMap(np.full(GRID.shape, PROTOCOL.ids[len(seen)], np.uint8), GRID)
        confidence = Volume(np.full(GRID.shape, 0.75, np.float32), GRID)
        grade = "fail" if scan.volume == "failed" else "pass"
        regions = {int(PROTOCOL.ids[1]): RegionQuality(expected_dice=0.5)}
        quality = SimpleNamespace(grade=grade, reasons=("head size 9: too small",), regions=regions)
        return SimpleNamespace(labels=labels, confidence=confidence, quality=quality)

    def read_scan(path: Path) -> SimpleNamespace:
        if path.name == "bad_T1w.nii.gz":
            raise InputError(f"{path} is bad")
        return SimpleNamespace(volume=path.read_text())

    def load(name: str) -> SimpleNamespace:
        return SimpleNamespace(identity=read_model(Path(name)).identity)

    monkeypatch.setattr(second_round, "segment_scan", segment_scan)
    monkeypatch.setattr(second_round, "read_scan", read_scan)
    monkeypatch.setattr(
        second_round, "load_model", lambda name: SimpleNamespace(identity=read_model(Path(name)).identity)
    )
    monkeypatch.setattr(second_round, "write_image", lambda path, labels, _: path.write_bytes(labels.data.tobytes()))
    return toy


def pseudo_labels(settings: TrainSettings) -> Path:
    (folder,) = settings.run.glob("pseudo-labels-*")
    return folder


def test_a_second_round_trains_on_pseudo_labels_and_starts_with_the_networks_of_the_first(
    settings: TrainSettings,
) -> None:
    with phantom_field():
        assert run_stages(settings, STAGES, (), None)
    folder, second = pseudo_labels(settings), settings.work_dir / "all-round2"
    assert sorted(p.name for p in folder.iterdir()) == [
        f"{n}_{k}" for n in ("u0", "u1") for k in ("T1w.nii.gz", "dseg.nii.gz", "expected_dice.tsv")
    ]
    assert (folder / "u0_T1w.nii.gz").read_text() == "u0"
    manifests = [read_model(run / "model-toy").manifest["training"] for run in (settings.run, second)]
    assert [manifest["auxiliary"] for manifest in manifests] == [[], ["u0", "u1"]]
    assert [manifest["init_from"] for manifest in manifests] == [None, "all/whole.pt"]
    whole = torch.load(second / "whole.pt", weights_only=True)
    assert whole["step"] == settings.cascade[0].whole.steps
    first = averaged_weights(settings.run / "whole.pt")
    changes = [float((first[name] - tensor).abs().max()) for name, tensor in whole["average"].items()]
    assert 0 < max(changes) < 0.1  # 3 steps at a learning rate of 0.01 from the first round's weights, not from others


def test_a_second_round_resumes_without_labelling_again(settings: TrainSettings) -> None:
    with phantom_field():
        run_stages(settings, STAGES, (), None)
        folder = pseudo_labels(settings)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        (folder / "u1_T1w.nii.gz").unlink()
        run_stages(settings, STAGES, (), None)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_scan_that_cannot_be_segmented_is_left_out_by_name(settings: TrainSettings, capsys) -> None:
    assert settings.unlabelled is not None
    (settings.unlabelled / "bad_T1w.nii.gz").touch()
    with phantom_field():
        assert run_stages(settings, STAGES, (), None)
    assert "bad_T1w.nii.gz is left out of the second round" in capsys.readouterr().err
    assert not list(pseudo_labels(settings).glob("bad*"))


def test_a_scan_whose_labels_are_graded_fail_is_left_out_with_the_reason(settings: TrainSettings, capsys) -> None:
    assert settings.unlabelled is not None
    (settings.unlabelled / "u2_T1w.nii.gz").write_text("failed")
    with phantom_field():
        assert run_stages(settings, STAGES, (), None)
    assert "u2_T1w.nii.gz is left out of the second round: its labels are graded fail: head" in capsys.readouterr().err
    assert not list(pseudo_labels(settings).glob("u2*"))


def test_the_weight_of_a_region_is_its_expected_dice_or_else_its_mean_vote_fraction(settings: TrainSettings) -> None:
    with phantom_field():
        run_stages(settings, STAGES, (), None)
    weights = [voxel_weights(expected_dice_file(pseudo_labels(settings), name), PROTOCOL) for name in ("u0", "u1")]
    assert weights[0][:3].tolist() == [1, 0.5, 1]
    assert weights[1][:3].tolist() == [1, 1, 0.75]  # the model has no expected Dice for this region


def test_no_scan_that_can_be_segmented_is_an_error(settings: TrainSettings) -> None:
    assert settings.unlabelled is not None
    for path in settings.unlabelled.iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"found no \*_T1w\.nii\.gz, expected scans to label"):
        run_stages(settings, STAGES, (), None)
    (settings.unlabelled / "bad_T1w.nii.gz").touch()
    with phantom_field(), pytest.raises(InputError, match=r"none of the 1 scans .* could be segmented"):
        run_stages(settings, STAGES, (), None)


def test_the_second_round_waits_for_the_model_of_the_first(settings: TrainSettings, capsys) -> None:
    with phantom_field():
        assert run_stages(settings, ("whole",), (), None)
    assert "the second round begins when" in capsys.readouterr().out
    assert not list(settings.run.glob("pseudo-labels-*"))


def test_the_time_limit_also_ends_the_labelling(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    with phantom_field():
        run_stages(replace(settings, unlabelled=None), STAGES, (), None)
        monkeypatch.setattr(second_round.time, "monotonic", lambda: 1e9)
        assert settings.unlabelled is not None
        assert second_round.pseudo_label(settings, settings.unlabelled, 0.0) is None
    assert not list(pseudo_labels(settings).iterdir())


def test_settings_of_the_second_round(settings: TrainSettings, tmp_path: Path) -> None:
    from slant.train.context import run_context

    again = second_round.second_round(run_context(settings), tmp_path / "pseudo")
    assert (again.round, again.unlabelled, again.auxiliary_dir) == (2, None, tmp_path / "pseudo")
    assert (again.work_dir, again.split, again.run) == (
        settings.work_dir,
        settings.split,
        settings.work_dir / "all-round2",
    )
    assert again.whole is not None
    assert again.whole.auxiliary_probability == second_round.PSEUDO_PROBABILITY
    assert again.tile == settings.tile
