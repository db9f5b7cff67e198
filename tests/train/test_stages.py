"""Stages of a training: from pretraining to the exported model, their files and their errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from phantom_runs import (
    close_tensors,
    export_models,
    phantom_field,
    same_run,
    stop_after,
    tile_weights,
    train_tiles,
    train_whole,
)
from phantoms import GENTLE, LAYOUT, SHAPE, dice, phantom_arrays, toy_settings

from slant.errors import InputError, ModelError, TrainingError
from slant.nets.predict import Predictor, tile_votes
from slant.nets.weights import read_model
from slant.report.curves import draw_curves
from slant.tiles import TileLayout
from slant.train import log, loop
from slant.train.checkpoint import averaged_weights
from slant.train.network import NetworkChoice
from slant.train.stage_settings import PretrainSettings, StageSettings, TileSettings
from slant.train.validate import mean_dice_of
from slant.vote import VoteCounter


@pytest.fixture(autouse=True)
def field() -> Iterator[None]:
    with phantom_field():
        yield


def test_a_run_from_pretraining_to_a_model_segments_another_phantom(tmp_path: Path) -> None:
    stage = {"learning_rate": 2e-2, "patches": 10, "ema_decay": 0.8}
    settings = toy_settings(
        tmp_path,
        subjects=4,
        auxiliary=3,
        pretrain=PretrainSettings(12, **stage),
        whole=StageSettings(30, validate_every=15, auxiliary_probability=0.2, **stage),
        tile=TileSettings(8, validate_every=4, learning_rate=5e-3, patches=8, ema_decay=0.8),
        fold=0,
        augment=GENTLE,
    )
    assert train_whole(settings, "pretrain")
    assert train_whole(settings)
    assert train_tiles(settings)
    whole, tiled = export_models(settings)
    assert len(read_model(whole).assemblies[0].layout) == 1
    model = read_model(tiled)
    assert model.manifest["training"]["subjects"] == ["p1", "p3"]
    assert model.manifest["training"]["auxiliary"] == ["a0", "a1", "a2"]
    assert model.manifest["training"]["steps"] == {"pretrain": 12, "whole": 30, "tile": 8}
    image, reference = phantom_arrays(2)
    predicted = np.zeros(SHAPE, np.uint8)
    predictor = Predictor(model.assemblies[0].layout, model.prior, model.network)
    for tile, (votes,) in tile_votes(predictor, image, torch.device("cpu"), 1):
        predicted[tile.box] += votes  # 0 outside its core
    assert min(dice(predicted, reference)) > 0.7

    table = pd.read_csv(settings.run / "whole.tsv", sep="\t")
    assert table.step.tolist() == list(range(1, 31))
    assert table.val_dice.dropna().index.tolist() == [14, 29]
    assert table.val_dice.iloc[29] > 0.7
    assert np.isfinite(table.loss).all()
    assert table.learning_rate.max() == pytest.approx(2e-2, rel=0.1)
    tile = pd.read_csv(settings.run / "toy" / "1_1_1.tsv", sep="\t")
    assert len(tile.val_dice.dropna()) == 2
    events = {p.parent.name for p in (settings.run / "tensorboard").glob("*/events.out.tfevents.*")}
    assert events == {"pretrain", "whole"}
    assert list((settings.run / "toy" / "tensorboard" / "1_1_1").glob("events.out.tfevents.*"))
    assert draw_curves(settings.run) == settings.run / "curves.png"
    assert (settings.run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list(settings.run.rglob("*.part"))


@pytest.mark.parametrize("steps", [1, 2])
def test_a_stage_stopped_at_any_step_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch, steps: int) -> None:
    stage = StageSettings(3, learning_rate=1e-2, patches=4, ema_decay=0.5, validate_every=2)
    runs = [toy_settings(tmp_path / str(i), subjects=2, whole=stage, fold=0) for i in range(2)]
    assert train_whole(runs[0])
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        assert not train_whole(runs[1], deadline=1.0)
    before = pd.read_csv(runs[1].run / "whole.tsv", sep="\t").hours.tolist()
    with pytest.raises(ModelError, match=f"has seen {steps} of 3 steps"):
        train_tiles(runs[1])
    assert train_whole(runs[1])
    assert same_run(*runs)
    table = pd.read_csv(runs[1].run / "whole.tsv", sep="\t")
    assert table.val_dice.notna().tolist() == [False, True, True]
    assert table.hours.tolist()[:steps] == before
    assert (np.diff(pd.read_csv(runs[0].run / "whole.tsv", sep="\t").hours, prepend=0) > 0).all()


def test_stages_in_the_wrong_order_name_the_missing_stage(tmp_path: Path) -> None:
    settings = toy_settings(tmp_path, subjects=2, auxiliary=1, pretrain=PretrainSettings(2, patches=4))
    with pytest.raises(
        ModelError, match=r"checkpoint .*pretrain\.pt does not exist; run the stage that writes it first"
    ):
        train_whole(settings)
    with pytest.raises(ModelError, match=r"checkpoint .*whole\.pt does not exist"):
        train_tiles(settings)
    with pytest.raises(ModelError, match=r"contains neither whole.pt nor the checkpoints of all tiles of 'toy'"):
        export_models(settings)
    (settings.work_dir / "prepared" / "p1.npz").unlink()
    with pytest.raises(InputError, match=r"prepared scan .*p1\.npz does not exist; run the stage prepare"):
        train_whole(settings, "pretrain")


def test_a_stage_is_initialized_from_the_one_before(tmp_path: Path) -> None:
    settings = toy_settings(
        tmp_path,
        subjects=2,
        auxiliary=1,
        pretrain=PretrainSettings(2, patches=4),
        whole=StageSettings(1, learning_rate=1e-12, weight_decay=0.0, patches=4),
        tile=TileSettings(1, learning_rate=1e-12, weight_decay=0.0, patches=4),
    )
    assert train_whole(settings, "pretrain")
    start = averaged_weights(settings.run / "pretrain.pt", 2)
    assert train_whole(settings)
    assert train_tiles(settings)
    assert close_tensors(start, averaged_weights(settings.run / "whole.pt"))
    assert all(close_tensors(start, weights) for weights in tile_weights(settings).values())
    other_run = replace(settings, pretrain=None, init_from=settings.run / "pretrain.pt", work_dir=tmp_path / "other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "prepared").symlink_to(settings.work_dir / "prepared")
    (other_run.run).mkdir()
    (other_run.run / "auxiliary").symlink_to(settings.run / "auxiliary")
    assert train_whole(other_run)
    assert close_tensors(start, averaged_weights(other_run.run / "whole.pt"))
    whole, _ = export_models(settings)
    (other_run.run / "whole.pt").unlink()
    assert train_whole(replace(other_run, init_from=whole))
    stored = {name: value.half().float() for name, value in start.items()}
    assert close_tensors(stored, averaged_weights(other_run.run / "whole.pt"))


def test_a_stage_on_crops_gives_one_network_for_all_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = StageSettings(5, learning_rate=1e-2, patches=4, ema_decay=0.5, crop=True, validate_every=5)
    settings = toy_settings(tmp_path, subjects=2, whole=stage, fold=0, layout=LAYOUT)
    real, seen = loop.step_loss, []

    def recorded(net, scans, atlas, context, generator):
        seen.append((context.seen.start, context.seen.shape))
        return real(net, scans, atlas, context, generator)

    monkeypatch.setattr(loop, "step_loss", recorded)
    assert train_whole(settings)
    assert {shape for _, shape in seen} == {LAYOUT.size}
    assert len({start for start, _ in seen}) > 2
    for start, size in seen:
        assert all(a >= 0 and a + n <= whole for a, n, whole in zip(start, size, SHAPE, strict=True))
    (folder,) = export_models(settings)
    model = read_model(folder)
    assert model.assemblies[0].layout == LAYOUT
    assert model.shared()
    votes = VoteCounter(LAYOUT)
    image, reference = phantom_arrays(0)
    for tile, channels in tile_votes(Predictor(LAYOUT, model.prior, model.network), image, torch.device("cpu"), 1):
        votes.aggregate(channels, tile)
    logged = pd.read_csv(settings.run / "whole.tsv", sep="\t").val_dice.iloc[-1]
    assert mean_dice_of(votes.finalize().winners, reference) == pytest.approx(logged, abs=0.02)
    other_run = replace(
        settings,
        init_from=folder,
        work_dir=tmp_path / "other",
        network=NetworkChoice(widths=(5, 8), image_channels=2, head_channels=6),
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "prepared").symlink_to(settings.work_dir / "prepared")
    assert train_whole(other_run)
    assert averaged_weights(other_run.run / "whole.pt")["encoders.1.0.0.weight"].shape[:2] == (8, 5)
    assert train_tiles(settings)
    with pytest.raises(
        ModelError, match=r"has a separate network for each of its 8 tiles, expected a model with one network"
    ):
        train_whole(replace(other_run, init_from=export_models(settings)[1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"network": NetworkChoice(widths=(4, 8), image_channels=2, head_channels=4)},
            "of another shape: .*encoders.1",
        ),
        ({"network": NetworkChoice("residual", (4, 6), 2, 4)}, "missing: .*unexpected: "),
        ({"folds": 2, "fold": 0, "same_run": True}, "another set of scans"),
    ],
)
def test_a_run_does_not_resume_from_the_checkpoint_of_another_run(tmp_path: Path, change, message: str) -> None:
    settings = toy_settings(tmp_path, subjects=2)
    assert train_whole(settings)
    other = replace(settings, **{k: v for k, v in change.items() if k != "same_run"})
    if "same_run" in change:
        settings.run.rename(other.run)
    before = (other.run / "whole.pt").read_bytes()
    with pytest.raises(TrainingError, match=message):
        train_whole(other)
    assert (other.run / "whole.pt").read_bytes() == before


def test_a_non_finite_loss_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "SAVE_SECONDS", -1.0)
    settings = toy_settings(tmp_path, subjects=2)
    real, steps = loop.step_loss, []

    def nan_at_third_step(*arguments: object) -> torch.Tensor:
        steps.append(1)
        return real(*arguments) * (float("nan") if len(steps) == 3 else 1.0)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "step_loss", nan_at_third_step)
        with pytest.raises(TrainingError, match=r"non-finite loss \(nan\) at step 2; resume from the last checkpoint"):
            train_whole(settings)
    kept = torch.load(settings.run / "whole.pt", weights_only=True)
    assert kept["step"] == 2
    assert all(torch.isfinite(value).all() for value in kept["net"].values())
    assert len(pd.read_csv(settings.run / "whole.tsv", sep="\t")) == 2
    plain = toy_settings(tmp_path / "plain", subjects=2)
    assert train_whole(settings)
    assert train_whole(plain)
    assert same_run(settings, plain)


@pytest.mark.parametrize("kind", ["compact", "residual"])
def test_additional_tasks_are_stored_in_the_model(tmp_path: Path, kind: str) -> None:
    choice = NetworkChoice(kind, (4, 6), 2, 4, ("tissue", "brain"))
    settings = toy_settings(tmp_path, subjects=2, network=choice)
    assert train_whole(settings)
    model = read_model(export_models(settings)[0])
    assert model.assemblies[0].kind == kind
    assert set(model.network("1_1_1").heads) == {"tissue", "brain"}
    predictor = Predictor(model.assemblies[0].layout, model.prior, model.network)
    ((_, (predicted,)),) = tile_votes(predictor, phantom_arrays(0)[0], torch.device("cpu"), 1)
    assert predicted.shape == SHAPE


@pytest.mark.slow  # 133 channels at 1 mm
def test_the_original_network_trains_and_exports(tmp_path: Path) -> None:
    choice = NetworkChoice("slant2018", (2, 2, 2, 2, 2))
    layout = TileLayout(SHAPE, (16, 20, 18), (2, 2, 2), "core")
    stage = StageSettings(1, patches=4)
    tile = TileSettings(1, patches=4, init="scratch")
    settings = toy_settings(tmp_path, subjects=2, network=choice, layout=layout, whole=stage, tile=tile)
    assert train_tiles(settings)
    model = read_model(export_models(settings)[0])
    assert (model.assemblies[0].kind, model.prior) == ("slant2018", None)
    predictor = Predictor(model.assemblies[0].layout, None, model.network)
    assert len(list(tile_votes(predictor, phantom_arrays(0)[0], torch.device("cpu"), 1))) == 8
