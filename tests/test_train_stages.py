"""Stages of a training: from pretraining to a model, what they leave behind and what stops them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from phantoms import (
    GENTLE,
    LAYOUT,
    SHAPE,
    close_tensors,
    dice,
    phantom_arrays,
    phantom_field,
    same_run,
    stop_after,
    tile_weights,
    toy_settings,
    train_whole,
)

from slant.errors import InputError, ModelError, TrainingError
from slant.fusion import VoteCounter
from slant.nets.predict import Predictor, tile_votes
from slant.nets.weights import read_model
from slant.report.curves import draw_curves
from slant.tiles import TileLayout
from slant.train import log, loop
from slant.train.checkpoint import averaged_weights
from slant.train.export import export
from slant.train.settings import NetworkChoice, PretrainSettings, StageSettings, TileSettings
from slant.train.stages import train_tiles
from slant.train.validate import mean_dice_of


@pytest.fixture(autouse=True)
def field() -> Iterator[None]:
    with phantom_field():
        yield


def test_a_run_from_pretraining_to_a_model_finds_the_blocks_of_somebody_else(tmp_path: Path) -> None:
    stage = {"learning_rate": 2e-2, "boxes": 10, "average": 0.8}
    settings = toy_settings(
        tmp_path,
        people=4,
        auxiliary=3,
        pretrain=PretrainSettings(12, **stage),
        whole=StageSettings(30, validate=15, auxiliary=0.2, **stage),
        tile=TileSettings(8, validate=4, learning_rate=5e-3, boxes=8, average=0.8),
        fold=0,
        augment=GENTLE,
    )
    assert train_whole(settings, "pretrain")
    assert train_whole(settings)
    assert train_tiles(settings)
    whole, tiled = export(settings)
    assert len(read_model(whole).layout) == 1
    model = read_model(tiled)
    assert model.manifest["training"]["people"] == ["p1", "p3"]
    assert model.manifest["training"]["auxiliary"] == ["a0", "a1", "a2"]
    assert model.manifest["training"]["steps"] == {"pretrain": 12, "whole": 30, "tile": 8}
    image, truth = phantom_arrays(2)
    found = np.zeros(SHAPE, np.uint8)
    predictor = Predictor(model.layout, model.prior, model.network)
    for tile, votes in tile_votes(predictor, image, torch.device("cpu"), 1):
        found[tile.trusted_box] = votes[tile.trusted_within]
    assert min(dice(found, truth)) > 0.7

    table = pd.read_csv(settings.run / "whole.tsv", sep="\t")
    assert table.step.tolist() == list(range(1, 31))
    assert table.dice_held_out.dropna().index.tolist() == [14, 29]
    assert table.dice_held_out.iloc[29] > 0.7
    assert np.isfinite(table.loss).all()
    assert table.learning_rate.max() == pytest.approx(2e-2, rel=0.1)
    tile = pd.read_csv(settings.run / "toy" / "1_1_1.tsv", sep="\t")
    assert len(tile.dice_held_out.dropna()) == 2
    events = {p.parent.name for p in (settings.run / "tensorboard").glob("*/events.out.tfevents.*")}
    assert events == {"pretrain", "whole"}
    assert list((settings.run / "toy" / "tensorboard" / "1_1_1").glob("events.out.tfevents.*"))
    assert draw_curves(settings.run) == settings.run / "curves.png"
    assert (settings.run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list(settings.run.rglob("*.part"))


def test_curves_of_nothing_are_none(tmp_path: Path) -> None:
    assert draw_curves(tmp_path) is None
    assert draw_curves(tmp_path / "absent") is None


@pytest.mark.parametrize("steps", [1, 2])
def test_a_stage_stopped_at_any_step_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch, steps: int) -> None:
    stage = StageSettings(3, learning_rate=1e-2, boxes=4, average=0.5, validate=2)
    runs = [toy_settings(tmp_path / str(i), people=2, whole=stage, fold=0) for i in range(2)]
    assert train_whole(runs[0])
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        assert not train_whole(runs[1], until=1.0)
    with pytest.raises(ModelError, match=f"has seen {steps} of 3 steps"):
        train_tiles(runs[1])
    assert train_whole(runs[1])
    assert same_run(*runs)
    assert pd.read_csv(runs[1].run / "whole.tsv", sep="\t").dice_held_out.notna().tolist() == [False, True, True]


def test_stages_in_the_wrong_order_say_what_to_do_first(tmp_path: Path) -> None:
    settings = toy_settings(tmp_path, people=2, auxiliary=1, pretrain=PretrainSettings(2, boxes=4))
    with pytest.raises(ModelError, match=r"no checkpoint .*pretrain\.pt; train the stage that makes it first"):
        train_whole(settings)
    with pytest.raises(ModelError, match=r"no checkpoint .*whole\.pt"):
        train_tiles(settings)
    with pytest.raises(ModelError, match=r"has neither whole.pt nor all tiles of 'toy'"):
        export(settings)
    (settings.work / "prepared" / "p1.npz").unlink()
    with pytest.raises(InputError, match=r"no prepared scan .*p1\.npz; run the preparation"):
        train_whole(settings, "pretrain")


def test_a_stage_starts_from_the_one_before(tmp_path: Path) -> None:
    settings = toy_settings(
        tmp_path,
        people=2,
        auxiliary=1,
        pretrain=PretrainSettings(2, boxes=4),
        whole=StageSettings(1, learning_rate=1e-12, weight_decay=0.0, boxes=4),
        tile=TileSettings(1, learning_rate=1e-12, weight_decay=0.0, boxes=4),
    )
    assert train_whole(settings, "pretrain")
    start = averaged_weights(settings.run / "pretrain.pt", 2)
    assert train_whole(settings)
    assert train_tiles(settings)
    assert close_tensors(start, averaged_weights(settings.run / "whole.pt"))
    assert all(close_tensors(start, weights) for weights in tile_weights(settings).values())
    given = replace(settings, pretrain=None, start=settings.run / "pretrain.pt", work=tmp_path / "other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "prepared").symlink_to(settings.work / "prepared")
    (given.run).mkdir()
    (given.run / "auxiliary").symlink_to(settings.run / "auxiliary")
    assert train_whole(given)
    assert close_tensors(start, averaged_weights(given.run / "whole.pt"))
    whole, _ = export(settings)
    (given.run / "whole.pt").unlink()
    assert train_whole(replace(given, start=whole))
    stored = {name: value.half().float() for name, value in start.items()}
    assert close_tensors(stored, averaged_weights(given.run / "whole.pt"))


def test_a_stage_on_crops_hands_one_network_to_all_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = StageSettings(5, learning_rate=1e-2, boxes=4, average=0.5, crop=True, validate=5)
    settings = toy_settings(tmp_path, people=2, whole=stage, fold=0, layout=LAYOUT)
    real, seen = loop.step_loss, []

    def watched(net, scans, atlas, how):
        seen.append((how[0].seen.start, how[0].seen.shape))
        return real(net, scans, atlas, how)

    monkeypatch.setattr(loop, "step_loss", watched)
    assert train_whole(settings)
    assert {shape for _, shape in seen} == {LAYOUT.size}
    assert len({start for start, _ in seen}) > 2
    for start, size in seen:
        assert all(a >= 0 and a + n <= whole for a, n, whole in zip(start, size, SHAPE, strict=True))
    (folder,) = export(settings)
    model = read_model(folder)
    assert model.layout == LAYOUT
    assert model.shared
    votes = VoteCounter(LAYOUT)
    image, truth = phantom_arrays(0)
    for tile, channels in tile_votes(Predictor(LAYOUT, model.prior, model.network), image, torch.device("cpu"), 1):
        votes.aggregate(channels, tile)
    judged = pd.read_csv(settings.run / "whole.tsv", sep="\t").dice_held_out.iloc[-1]
    assert mean_dice_of(votes.finalize().channels, truth) == pytest.approx(judged, abs=0.02)
    given = replace(
        settings, start=folder, work=tmp_path / "other", network=NetworkChoice(widths=(5, 8), detail=2, mixed=6)
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "prepared").symlink_to(settings.work / "prepared")
    assert train_whole(given)
    assert averaged_weights(given.run / "whole.pt")["encoders.1.0.0.weight"].shape[:2] == (8, 5)
    assert train_tiles(settings)
    with pytest.raises(ModelError, match=r"has 8 tiles with networks of their own, wanted one network"):
        train_whole(replace(given, start=export(settings)[1], work=tmp_path / "third"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": NetworkChoice(widths=(4, 8), detail=2, mixed=4)}, "of another shape: .*encoders.1"),
        ({"network": NetworkChoice("residual", (4, 6), 2, 4)}, "missing: .*unexpected: "),
        ({"folds": 2, "fold": 0, "same_run": True}, "another scans"),
    ],
)
def test_a_run_does_not_go_on_from_another_runs_checkpoint(tmp_path: Path, change, message: str) -> None:
    settings = toy_settings(tmp_path, people=2)
    assert train_whole(settings)
    other = replace(settings, **{k: v for k, v in change.items() if k != "same_run"})
    if "same_run" in change:
        settings.run.rename(other.run)
    before = (other.run / "whole.pt").read_bytes()
    with pytest.raises(TrainingError, match=message):
        train_whole(other)
    assert (other.run / "whole.pt").read_bytes() == before


def test_a_loss_that_is_no_number_keeps_the_last_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "SAVE_SECONDS", -1.0)
    settings = toy_settings(tmp_path, people=2)
    real, steps = loop.step_loss, []

    def spoilt(*of: object) -> torch.Tensor:
        steps.append(1)
        return real(*of) * (float("nan") if len(steps) == 3 else 1.0)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "step_loss", spoilt)
        with pytest.raises(TrainingError, match="the loss became nan at step 2; the last checkpoint is good"):
            train_whole(settings)
    kept = torch.load(settings.run / "whole.pt", weights_only=True)
    assert kept["step"] == 2
    assert all(torch.isfinite(value).all() for value in kept["net"].values())
    assert len(pd.read_csv(settings.run / "whole.tsv", sep="\t")) == 2
    plain = toy_settings(tmp_path / "plain", people=2)
    assert train_whole(settings)
    assert train_whole(plain)
    assert same_run(settings, plain)


@pytest.mark.parametrize("kind", ["compact", "residual"])
def test_tasks_beside_the_regions_travel_with_the_model(tmp_path: Path, kind: str) -> None:
    choice = NetworkChoice(kind, (4, 6), 2, 4, ("tissue", "brain"))
    settings = toy_settings(tmp_path, people=2, network=choice)
    assert train_whole(settings)
    model = read_model(export(settings)[0])
    assert model.kind == kind
    assert set(model.network("1_1_1").heads) == {"tissue", "brain"}
    predictor = Predictor(model.layout, model.prior, model.network)
    ((_, found),) = tile_votes(predictor, phantom_arrays(0)[0], torch.device("cpu"), 1)
    assert found.shape == SHAPE


@pytest.mark.slow  # 133 channels at 1 mm
def test_the_original_network_trains_and_exports(tmp_path: Path) -> None:
    choice = NetworkChoice("slant2018", (2, 2, 2, 2, 2))
    layout = TileLayout(SHAPE, (16, 20, 18), (2, 2, 2), "trim")
    stage = StageSettings(1, boxes=4)
    tile = TileSettings(1, boxes=4, start="scratch")
    settings = toy_settings(tmp_path, people=2, network=choice, layout=layout, whole=stage, tile=tile)
    assert train_tiles(settings)
    model = read_model(export(settings)[0])
    assert (model.kind, model.prior) == ("slant2018", None)
    assert (
        len(
            list(tile_votes(Predictor(model.layout, None, model.network), phantom_arrays(0)[0], torch.device("cpu"), 1))
        )
        == 8
    )
