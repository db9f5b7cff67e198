"""Training of cascades: from the first step to the labels of a model, resumed, in any subset of tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from phantom_runs import labelled, model_of, phantom_field, same_run, stop_after
from phantoms import COARSE, FINE, FIRST, GENTLE, SECOND, SHAPE, cascade_settings, dice, phantom_arrays

from slant.errors import LayoutError, SettingsError, TrainingError
from slant.nets.weights import read_model
from slant.tiles import TileLayout
from slant.train.checkpoint import averaged_weights
from slant.train.context import run_context
from slant.train.network import NetworkChoice
from slant.train.prepare import load_training
from slant.train.run import run_stages
from slant.train.settings import TrainSettings
from slant.train.splits import subject_folds
from slant.train.stage_settings import StageSettings, TileSettings

TRAINED = ("whole", "tiles")


@pytest.fixture(autouse=True)
def field() -> Iterator[None]:
    with phantom_field():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    """A cascade of two assemblies that was trained without a stop."""
    settings = cascade_settings(tmp_path_factory.mktemp("finished"))
    with phantom_field():
        assert run_stages(settings, (*TRAINED, "export"), (), None)
    return settings


def votes_of(settings: TrainSettings, assembly: str = "first") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((settings.run / assembly / "votes").iterdir())}


@pytest.mark.slow
def test_a_cascade_learns_to_label_another_phantom(tmp_path: Path) -> None:
    stage = {"learning_rate": 2e-2, "patches": 10, "ema_decay": 0.8}
    whole = StageSettings(60, validate_every=30, crop=True, **stage)
    tile = TileSettings(6, learning_rate=5e-3, patches=8, ema_decay=0.8, validate_every=3)
    assemblies = (replace(assembly, whole=whole, tile=tile) for assembly in (FIRST, SECOND))
    settings = cascade_settings(tmp_path, *assemblies, subjects=4, fold=0, augment=GENTLE)
    assert run_stages(settings, (*TRAINED, "export"), (), None)
    image, reference = phantom_arrays(2)
    found = {path.name: dice(labelled(path, image), reference) for path in settings.run.glob("model-*")}
    assert set(found) == {"model-whole", "model-toy-first", "model-toy"}
    assert min(found["model-whole"]) > 0.6
    assert min(found["model-toy-first"]) > 0.6
    assert min(found["model-toy"]) > 0.65
    assert sum(found["model-toy"]) > sum(found["model-toy-first"])  # the second assembly amends the first
    model = read_model(settings.run / "model-toy")
    assert [assembly.name for assembly in model.assemblies] == ["first", "second"]
    steps = {"first whole": 60, "first tile": 6, "second whole": 60, "second tile": 6}
    assert model.manifest["training"]["steps"] == steps
    assert (model.shared(0), model.shared(1)) == (False, False)
    assert all(map(read_model(settings.run / "model-whole").shared, (0, 1)))
    for name in ("first", "second"):
        assert pd.read_csv(settings.run / name / "whole.tsv", sep="\t").val_dice.iloc[-1] > 0.6


def test_the_labels_of_a_trained_cascade_do_not_depend_on_the_number_of_threads(finished: TrainSettings) -> None:
    image, _ = phantom_arrays(7)
    folder = finished.run / "model-toy"
    np.testing.assert_array_equal(labelled(folder, image, 1), labelled(folder, image, 3))


@pytest.mark.parametrize("steps", [2, 9, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 5, 7, 8, 10, 12))])
def test_an_interrupted_cascade_resumes_to_the_same_bytes(finished, tmp_path, monkeypatch, steps: int) -> None:
    """Steps 1 to 3 and 8 to 10 train the whole-brain networks, the others the tiles."""
    settings = cascade_settings(tmp_path)
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        assert not run_stages(settings, TRAINED, (), 1.0)
    assert run_stages(settings, TRAINED, (), None)
    assert same_run(finished, settings)
    assert votes_of(finished) == votes_of(settings)


@pytest.mark.slow
def test_tiles_can_be_trained_in_any_number_of_calls(finished: TrainSettings, tmp_path: Path) -> None:
    settings = cascade_settings(tmp_path)
    for tiles in (("first/1_2_1",), ("first/1_1_1",), ("second/2_1_1",), ("1_1_1",)):
        assert run_stages(settings, TRAINED, tiles, None)
        if tiles == ("first/1_2_1",):
            assert not (settings.run / "second").exists()
            with pytest.raises(TrainingError, match=r"'first', but .*1_1_1\.pt does not exist; run the stage tiles of"):
                run_stages(settings, TRAINED, ("second/1_1_1",), None)
    assert same_run(finished, settings)


@pytest.mark.parametrize("tiles", [("first/2_1_1",), ("third/1_1_1",), ("9_9_9",), ("second/1_2_1", "1_1_1")])
def test_unknown_tiles_are_refused_before_any_work(tmp_path: Path, tiles: tuple[str, ...]) -> None:
    known = "the tiles are first/1_1_1, first/1_2_1, second/1_1_1, second/2_1_1$"
    with pytest.raises(LayoutError, match=rf"no tile {tiles[0]} to train; {known}"):
        run_stages(cascade_settings(tmp_path), TRAINED, tiles, None)


def test_votes_are_kept_until_the_weights_change(finished: TrainSettings, tmp_path: Path) -> None:
    settings = cascade_settings(tmp_path)
    assert run_stages(settings, TRAINED, (), None)
    before = votes_of(settings)
    assert sorted(before) == ["p0.npz", "p1.npz", "p2.npz"]
    written = {path: path.stat().st_mtime_ns for path in settings.run.rglob("votes/*")}
    second = run_context(settings).at("second")
    first_scan = load_training(second).manual[0]
    assert first_scan.earlier.shape == COARSE.shape
    assert first_scan.earlier.totals.max() == 2 * 127, "two tiles that divide their ballots"
    assert {path: path.stat().st_mtime_ns for path in written} == written
    path = settings.run / "first" / "toy" / "1_1_1.pt"
    stored = torch.load(path, weights_only=True)
    stored["average"]["head.bias"] = stored["average"]["head.bias"] + 1
    torch.save(stored, path)
    load_training(second)
    assert all(path.stat().st_mtime_ns > before for path, before in written.items())
    assert before == votes_of(finished)
    other_tiles = replace(FIRST, layout=replace(COARSE, vote_margin=1))
    changed = load_training(run_context(replace(settings, assemblies=(other_tiles, SECOND))).at("second"))
    assert not np.array_equal(changed.manual[0].earlier.totals, first_scan.earlier.totals)


def test_nothing_about_two_assemblies_is_special(tmp_path: Path) -> None:
    third = replace(FIRST, name="third", earlier="second", network=replace(FIRST.network, earlier_channels=3))
    settings = cascade_settings(tmp_path, replace(FIRST, vote=False), SECOND, third)
    assert run_stages(settings, (*TRAINED, "export"), (), None)
    assert {path.name for path in settings.run.glob("model-*")} == {"model-whole", "model-toy", "model-toy-second"}
    assert votes_of(settings, "second")
    image, reference = phantom_arrays(7)
    for name, count in (("toy", 3), ("toy-second", 2)):
        assert len(model_of(settings.run / f"model-{name}").assemblies) == count
        assert labelled(settings.run / f"model-{name}", image).shape == reference.shape


def test_a_cascade_of_one_assembly_is_the_model_of_its_own_tables(tmp_path: Path) -> None:
    """The same weights and labels, whether the assembly is in the list or in tables of its own."""
    alone = replace(SECOND, name="only", earlier=None, network=replace(SECOND.network, earlier_channels=0))
    listed = cascade_settings(tmp_path / "list", alone)
    tables = cascade_settings(tmp_path / "tables", alone)
    own = {"layout": alone.layout, "whole": alone.whole, "tile": alone.tile, "network": alone.network}
    tables = replace(tables, assemblies=(), **own)
    for settings in (listed, tables):
        assert run_stages(settings, (*TRAINED, "export"), (), None)
    assert read_model(tables.run / "model-toy").manifest["layout"] == FINE.plain
    image, _ = phantom_arrays(7)
    for name in ("model-toy", "model-whole"):
        np.testing.assert_array_equal(labelled(listed.run / name, image), labelled(tables.run / name, image))
    for path in (listed.run / "only").rglob("*.pt"):
        other = averaged_weights(tables.run / path.relative_to(listed.run / "only"))
        assert all(torch.equal(tensor, other[key]) for key, tensor in averaged_weights(path).items())


# Mirror images


def test_tiles_beyond_the_middle_use_the_networks_of_their_mirror_images(tmp_path: Path) -> None:
    flips = replace(GENTLE, flip_probability=0.5)
    second = replace(SECOND, mirror="shared", layout=TileLayout(SHAPE, (16, 40, 36), (3, 1, 1)))
    settings = cascade_settings(tmp_path, FIRST, second, augment=flips)
    with pytest.raises(LayoutError, match=r"no tile second/3_1_1 .* right of the middle use the networks of their"):
        run_stages(settings, TRAINED, ("second/3_1_1",), None)
    assert run_stages(settings, (*TRAINED, "export"), (), None)
    assert sorted(path.name for path in (settings.run / "second" / "toy").glob("*.pt")) == ["1_1_1.pt", "2_1_1.pt"]
    image, reference = phantom_arrays(7)
    assert labelled(settings.run / "model-toy", image).shape == reference.shape


# Settings


@pytest.mark.parametrize(
    ("assemblies", "message"),
    [
        ((SECOND,), r"\[\[assemblies\]\]: .*'second' takes the result of 'first', which is missing"),
        ((SECOND, FIRST), "'first', which comes only after it; the order is second, first"),
        ((FIRST, replace(SECOND, name="first")), "two assemblies are called 'first'"),
        ((replace(FIRST, vote=False), replace(SECOND, vote=False)), "none of the assemblies votes: first, second"),
        ((replace(FIRST, resolution_mm=1), SECOND), "'first' and 'second' cover different templates"),
        ((FIRST, replace(SECOND, network=NetworkChoice())), "'second' has earlier = 'first', expected none"),
        ((FIRST, replace(SECOND, earlier=None)), "'second' has earlier = None, expected the name of an earlier"),
    ],
)
def test_cascades_that_cannot_run_are_refused_by_name(tmp_path: Path, assemblies, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        run_stages(cascade_settings(tmp_path, *assemblies), TRAINED, (), None)


@pytest.mark.parametrize(
    ("assembly", "message"),
    [
        (replace(FIRST, name=""), "name must be a word .* found ''"),
        (replace(FIRST, name="a b"), "name must be a word .* found 'a b'"),
        (replace(FIRST, name="groupwise"), "name 'groupwise' is reserved"),
        (replace(SECOND, mirror="shared"), "mirror requires training with left-right flips"),
    ],
)
def test_assemblies_that_cannot_be_trained_are_refused(tmp_path: Path, assembly, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        cascade_settings(tmp_path, assembly)


def test_an_asymmetric_layout_cannot_share_its_networks(tmp_path: Path) -> None:
    odd = replace(SECOND, mirror="shared", layout=TileLayout(SHAPE, (18, 40, 36), (5, 1, 1)))
    assert [tile.start[0] for tile in odd.layout] == [0, 4, 7, 11, 14]
    settings = cascade_settings(tmp_path, FIRST, odd, augment=replace(GENTLE, flip_probability=0.5))
    with pytest.raises(SettingsError, match="'second' has mirror = 'shared', but no tile is the mirror image of 2_1_1"):
        run_stages(settings, TRAINED, (), None)


def test_out_of_fold_results_come_from_networks_that_have_not_seen_the_scan(tmp_path: Path) -> None:
    """Each fold of the training subjects has a network of its own; held-out scans get the result of the tiles."""
    settings = cascade_settings(tmp_path)
    first, second = settings.cascade
    settings = replace(settings, assemblies=(first, replace(second, earlier_folds=2)))
    assert run_stages(settings, TRAINED, (), None)
    run = run_context(settings)
    names = [scan.name for scan in load_training(run).manual]
    for fold, left_out in enumerate(subject_folds(settings, names, 2)):
        stored = torch.load(run.out_of_fold(2, fold), weights_only=True)
        assert sorted([*stored["subjects"], *left_out]) == names
        assert stored["step"] == first.whole.steps
    inside = {scan.name: scan.earlier for scan in load_training(run.at("second")).manual}
    tiles = replace(settings, assemblies=(first, second))
    seen = {scan.name: scan.earlier for scan in load_training(run_context(tiles).at("second")).manual}
    assert list(inside) == list(seen) == names
    assert any(not np.array_equal(inside[name].channels, seen[name].channels) for name in names)


def test_more_folds_than_subjects_are_refused(tmp_path: Path) -> None:
    settings = cascade_settings(tmp_path)
    first, second = settings.cascade
    settings = replace(settings, assemblies=(first, replace(second, earlier_folds=9)))
    with pytest.raises(SettingsError, match=r"earlier_folds = 9 needs at least 9 training subjects"):
        run_stages(settings, TRAINED, (), None)
