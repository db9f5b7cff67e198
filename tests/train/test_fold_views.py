"""Cross-cross-augmentation: the 2D networks that a step uses have not seen the labels of its scan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from phantom_runs import ALL, BRIEF, fused, phantom_field, same_run, stop_after
from phantoms import same_tensors
from torch import Tensor

from slant.nets.weights import read_model
from slant.train import loop
from slant.train.checkpoint import averaged_weights
from slant.train.context import RunContext, run_context
from slant.train.prepare import load_training
from slant.train.run import run_stages
from slant.train.settings import TrainSettings
from slant.train.slices import fold_views, slices_checkpoint
from slant.train.splits import subject_folds
from slant.train.stage_settings import SlicesSettings, TileSettings

PLANES = ("sagittal", "coronal", "axial")


@pytest.fixture(autouse=True)
def field() -> Iterator[None]:
    with phantom_field():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    """A fusion network that was trained without a stop."""
    settings = fused(tmp_path_factory.mktemp("finished"))
    with phantom_field():
        assert run_stages(settings, ALL, (), None)
    return settings


def view_tensors(weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each view of a fusion network."""
    return {
        plane: {
            name.removeprefix(f"views.{plane}."): tensor
            for name, tensor in weights.items()
            if name.startswith(f"views.{plane}.")
        }
        for plane in PLANES
    }


def trained_views(run: RunContext, fold: int | None = None) -> dict[str, dict[str, Tensor]]:
    """The averaged weights that the stage ``slices`` has written."""
    return {plane: averaged_weights(slices_checkpoint(run, plane, fold), 2) for plane in PLANES}


def same_views(a: dict[str, dict[str, Tensor]], b: dict[str, dict[str, Tensor]]) -> bool:
    return all(same_tensors(a[plane], b[plane]) for plane in PLANES)


def test_each_fold_has_views_that_are_trained_without_its_scans(finished: TrainSettings) -> None:
    run = run_context(finished)
    folds = subject_folds(finished, ["p0", "p1", "p2", "p3"], 2)
    assert folds == [["p0", "p2"], ["p1", "p3"]]
    for plane in PLANES:
        paths = [slices_checkpoint(run, plane, fold) for fold in (None, 0, 1)]
        assert [path.relative_to(finished.run).as_posix() for path in paths] == [
            f"slices-{plane}.pt",
            f"out-of-fold2/slices-{plane}-0.pt",
            f"out-of-fold2/slices-{plane}-1.pt",
        ]
        subjects = [set(torch.load(path, weights_only=True)["subjects"]) for path in paths]
        everyone = {"p0", "p1", "p2", "p3", "a0"}
        assert subjects == [everyone, everyone - set(folds[0]), everyone - set(folds[1])]
    views = fold_views(run, load_training(run))
    assert views is not None
    assert not same_views(views.unseen["p0"], views.unseen["p1"])
    assert same_views(views.unseen["p0"], views.unseen["p2"])


def test_the_views_of_a_step_have_not_seen_its_scan(finished, tmp_path: Path, monkeypatch) -> None:
    real, seen = loop.step_loss, []

    def recorded(net, scans, atlas, context, generator):
        weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        seen.append((context.run.network.kind, scans[0].name, view_tensors(weights)))
        return real(net, scans, atlas, context, generator)

    monkeypatch.setattr(loop, "step_loss", recorded)
    settings = fused(tmp_path)
    assert run_stages(settings, ALL, (), None)
    assert same_run(finished, settings)
    run = run_context(settings)
    fold_of = {name: fold for fold, names in enumerate((("p0", "p2"), ("p1", "p3"))) for name in names}
    expected = {fold: trained_views(run, fold) for fold in (None, 0, 1)}
    steps = [(name, views) for kind, name, views in seen if kind == "fusion"]
    assert len(steps) == 2 + 4 + 2 * 2  # pretrain, whole, two tiles
    for name, views in steps:
        assert same_views(views, expected[fold_of.get(name)]), name
    assert {fold_of.get(name) for name, _ in steps} == {None, 0, 1}
    assert all(fold_of.get(name) is None for name, _ in steps[:2])  # auxiliary scans


def test_averages_and_models_have_the_views_that_are_trained_on_all_scans(finished: TrainSettings) -> None:
    views = trained_views(run_context(finished))
    tiles = [finished.run / "toy" / f"{tile.name}.pt" for tile in finished.layout]
    for path in (finished.run / "pretrain.pt", finished.run / "whole.pt", *tiles):
        assert same_views(view_tensors(averaged_weights(path)), views)
    halves = {
        plane: {name: tensor.half().float() for name, tensor in tensors.items()} for plane, tensors in views.items()
    }
    for name, tile in (("whole", "1_1_1"), ("toy", "1_1_1"), ("toy", "2_1_1")):
        model = read_model(finished.run / f"model-{name}")
        assert same_views(view_tensors(model.network(tile).state_dict()), halves)
    assert model.manifest["training"]["steps"] == {"slices": 2, "pretrain": 2, "whole": 4, "tile": 2}


@pytest.mark.parametrize("steps", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (8, 19, 21, 23, 25, 27))])
def test_an_interrupted_fusion_resumes_to_the_same_bytes(finished, tmp_path: Path, monkeypatch, steps: int) -> None:
    """Steps 1 to 18 train the views, 19 and 20 the stage pretrain, 21 to 24 the stage whole, the others the tiles."""
    settings = fused(tmp_path)
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        assert not run_stages(settings, ALL, (), 1.0)
    assert run_stages(settings, ALL, (), None)
    assert same_run(finished, settings)


@pytest.mark.slow
def test_without_folds_all_steps_use_the_same_views(tmp_path: Path) -> None:
    settings = fused(tmp_path, slices=SlicesSettings(2, **BRIEF), tile=TileSettings(2, soft_sharing=0.2, **BRIEF))
    assert run_stages(settings, ALL, (), None)
    run = run_context(settings)
    assert fold_views(run, load_training(run)) is None
    assert not list(settings.run.glob("out-of-fold*"))
    for path in (settings.run / "whole.pt", settings.run / "toy" / "2_1_1.pt"):
        stored = torch.load(path, weights_only=True)
        assert all(same_views(view_tensors(stored[part]), trained_views(run)) for part in ("net", "average"))
