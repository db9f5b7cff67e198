"""Training of tiles: any subset, order, number of devices and initial weights, and soft and hard sharing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

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
from phantoms import LAYOUT, NETWORK, PAIR, SHAPE, STAGE, toy_settings

from slant.errors import LayoutError, SettingsError, TrainingError
from slant.tiles import TileLayout
from slant.train import loop
from slant.train.checkpoint import averaged_weights, new_state
from slant.train.settings import TrainSettings
from slant.train.stage_settings import TileSettings
from slant.train.transfer import check_tiles, freeze, generations, neighbours, parent


@pytest.fixture(autouse=True)
def field() -> Iterator[None]:
    with phantom_field():
        yield


SHARED = TileSettings(4, learning_rate=1e-2, patches=4, ema_decay=0.5, soft_sharing=0.2, rounds=2)


@pytest.mark.parametrize("steps", [2, 7, *(pytest.param(steps, marks=pytest.mark.slow) for steps in (1, 4, 5, 6))])
def test_tiles_stopped_within_or_between_rounds_resume_to_the_same_bytes(
    shared_run, tmp_path, monkeypatch, steps
) -> None:
    settings = toy_settings(tmp_path, subjects=2, tile=SHARED)
    assert train_whole(settings)
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        assert not train_tiles(settings, deadline=1.0)
    assert train_tiles(settings)
    assert same_run(shared_run, settings)


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    """Two tiles trained in two rounds of soft sharing without a stop."""
    settings = toy_settings(tmp_path_factory.mktemp("shared"), subjects=2, tile=SHARED)
    with phantom_field():
        assert train_whole(settings)
        assert train_tiles(settings)
    return settings


def test_a_finished_run_is_not_changed(shared_run: TrainSettings) -> None:
    before = {p: p.read_bytes() for p in shared_run.run.rglob("*") if p.is_file()}
    assert train_whole(shared_run)
    assert train_tiles(shared_run)
    assert {p: p.read_bytes() for p in shared_run.run.rglob("*") if p.is_file()} == before


def test_soft_sharing_does_not_depend_on_the_order_of_the_calls(shared_run, tmp_path: Path) -> None:
    settings = toy_settings(tmp_path, subjects=2, tile=SHARED)
    assert train_whole(settings)
    for name, other in (("1_1_1", "2_1_1"), ("2_1_1", None)):
        if other is not None:
            with pytest.raises(TrainingError, match=rf"tile {name} in round 2 .* does not contain {other}\.round1\.pt"):
                train_tiles(settings, (name,))
        else:
            assert train_tiles(settings, (name,))
    assert train_tiles(settings, ("1_1_1",))
    assert same_run(shared_run, settings)


def distance(settings: TrainSettings) -> float:
    one, two = tile_weights(settings).values()
    return float(torch.stack([(one[k] - two[k]).square().sum() for k in one]).sum().sqrt())


def test_soft_sharing_brings_the_weights_of_neighbours_together(shared_run: TrainSettings, tmp_path: Path) -> None:
    far = toy_settings(tmp_path / "far", subjects=2, tile=replace(SHARED, soft_sharing=0.0, rounds=1))
    near = toy_settings(tmp_path / "near", subjects=2, tile=replace(SHARED, soft_sharing=0.8))
    for settings in (far, near):
        assert train_whole(settings)
        assert train_tiles(settings)
    assert distance(near) < 0.5 * distance(shared_run)
    assert distance(shared_run) < 0.95 * distance(far)


def test_tiles_do_not_depend_on_the_subset_they_are_trained_in(tmp_path: Path) -> None:
    runs = [toy_settings(tmp_path / str(i), subjects=2) for i in range(2)]
    for settings in runs:
        assert train_whole(settings)
    assert train_tiles(runs[0])
    assert train_tiles(runs[1], ("2_1_1",))
    assert not (runs[1].run / "toy" / "1_1_1.pt").exists()
    assert [path.name for path in export_models(runs[1])] == ["model-whole"]
    assert train_tiles(runs[1], ("1_1_1",))
    assert same_run(*runs)


@pytest.mark.slow  # two new processes
def test_two_devices_give_the_same_bytes_as_one(tmp_path: Path) -> None:
    runs = [toy_settings(tmp_path / str(i), subjects=2, tile=SHARED) for i in range(2)]
    torch.set_num_threads(2)
    for settings, devices in zip(runs, (("cpu",), ("cpu", "cpu")), strict=True):
        assert train_whole(settings)
        assert train_tiles(replace(settings, devices=devices))
    assert same_run(*runs)


def test_tiles_can_start_from_random_weights_without_another_stage(tmp_path: Path) -> None:
    tile = TileSettings(1, learning_rate=1e-12, weight_decay=0.0, patches=4, init="scratch", seed=3)
    settings = toy_settings(tmp_path, subjects=2, tile=tile)
    assert train_tiles(settings)
    weights = tile_weights(settings)
    assert close_tensors(weights["1_1_1"], weights["2_1_1"])
    assert [path.name for path in export_models(settings)] == ["model-toy"]


def test_tiles_can_start_from_their_neighbour(tmp_path: Path) -> None:
    layout = TileLayout(SHAPE, (16, 40, 36), (3, 1, 1), "core")
    tile = TileSettings(1, learning_rate=1e-12, weight_decay=0.0, patches=4, init="neighbour")
    settings = toy_settings(tmp_path, subjects=2, layout=layout, tile=tile)
    assert train_whole(settings)
    with pytest.raises(TrainingError, match="tile 1_1_1 is initialized from its neighbour 2_1_1, which is not trained"):
        train_tiles(settings, ("1_1_1",))
    trained = replace(settings, tile=replace(tile, learning_rate=1e-2))
    assert train_tiles(trained, ("2_1_1",))
    assert train_tiles(settings, ("1_1_1", "3_1_1"))
    weights, whole = tile_weights(settings), averaged_weights(settings.run / "whole.pt")
    assert not close_tensors(whole, weights["2_1_1"])
    assert close_tensors(weights["2_1_1"], weights["1_1_1"])
    assert close_tensors(weights["2_1_1"], weights["3_1_1"])


def test_the_central_tile_comes_first_and_parents_before_their_tiles() -> None:
    layout = TileLayout((172, 220, 156), (96, 128, 88), (3, 3, 3))
    names = [tile.name for tile in layout]
    groups = generations(layout, names)
    assert groups[0] == ["2_2_2"]
    assert [len(group) for group in groups] == [1, 6, 12, 8]
    done: set[str] = set()
    for group in groups:
        assert all(parent(layout, name) in done | {None} for name in group)
        assert all(parent(layout, name) in [*neighbours(layout, name), None] for name in group)
        done |= set(group)
    assert done == set(names)
    assert neighbours(layout, "1_1_1") == ["2_1_1", "1_2_1", "1_1_2"]
    assert len(neighbours(layout, "2_2_2")) == 6
    assert neighbours(PAIR, "2_1_1") == ["1_1_1"]


def test_unknown_tiles_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="no tile 9_9_9 to train; the tiles are 1_1_1, "):
        check_tiles(toy_settings(tmp_path, subjects=2, layout=LAYOUT).cascade, ("1_1_1", "9_9_9"))


def test_shared_layers_are_those_of_the_whole_brain_and_others_are_trained(tmp_path: Path) -> None:
    tile = TileSettings(3, learning_rate=1e-2, patches=4, ema_decay=0.5, shared_layers=("encoders.1", "lifts"))
    settings = toy_settings(tmp_path, subjects=2, tile=tile)
    assert train_whole(settings)
    assert train_tiles(settings)
    whole = averaged_weights(settings.run / "whole.pt")
    one, two = tile_weights(settings).values()
    for name, value in whole.items():
        same = [torch.equal(value, tensor[name]) for tensor in (one, two)]
        assert all(same) == name.startswith(tile.shared_layers), name
    with pytest.raises(
        SettingsError, match=r"no tensor begins with encoder9, expected prefixes of: decoders\.0, .*encoders\.0"
    ):
        train_tiles(replace(settings, tile=replace(tile, shared_layers=("encoder9",))))


def test_neither_soft_sharing_nor_the_average_moves_frozen_weights() -> None:
    state, frozen = new_state(NETWORK, STAGE, None), ("encoders", "head")
    start = {name: tensor.clone() for name, tensor in state.average.state_dict().items()}
    freeze(state.net, frozen)
    loop._move_towards(state, {name: tensor + 1 for name, tensor in start.items()}, 0.5)
    for name, tensor in state.net.state_dict().items():
        assert torch.equal(tensor, start[name]) == name.startswith(frozen), name
    state.net.head.bias.data += 1  # as the 2D networks of a step may differ
    loop._update_average(state, 0.5)
    for name, tensor in state.average.state_dict().items():
        assert torch.equal(tensor, start[name]) == name.startswith(frozen), name
