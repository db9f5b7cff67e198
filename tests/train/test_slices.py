"""The stage `slices`: the 2D network from which a 3D network starts, and settings that are refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from phantom_runs import ALL, ANISOTROPIC, BRIEF, FUSION, from_slices, phantom_field, same_run, stop_after
from phantoms import GENTLE, SHAPE, cascade_settings, same_tensors
from torch import Tensor

from slant.errors import ModelError, SettingsError
from slant.nets.network import Network
from slant.nets.unet import box_coordinate_channels
from slant.nets.weights import read_model
from slant.train.checkpoint import averaged_weights
from slant.train.context import run_context
from slant.train.network import NetworkChoice
from slant.train.run import run_stages
from slant.train.settings import TrainSettings
from slant.train.slices import initial_weights_from_slices, slicewise_run
from slant.train.stage_settings import PretrainSettings, SlicesSettings, TileSettings
from slant.train.transfer import initial_weights


@pytest.fixture(autouse=True)
def field() -> Iterator[None]:
    with phantom_field():
        yield


def features_and_logits(net: Network, image: Tensor) -> tuple[Tensor, Tensor]:
    features = net.backbone(image, box_coordinate_channels(SHAPE, (0, 0, 0), SHAPE))
    features = net.decoder_head(features, image).permute(0, 2, 3, 4, 1)
    return features, net.logits(features)


# From one 2D network


def test_a_network_starts_with_the_function_of_its_2d_parent_and_learns_on(tmp_path: Path) -> None:
    settings = from_slices(tmp_path)
    assert run_stages(settings, ALL, (), None)
    run = run_context(settings)
    stored = torch.load(settings.run / "slices-coronal.pt", weights_only=True)
    assert stored["network"] == slicewise_run(run, "coronal").network.plain
    assert (stored["network"]["kind"], stored["step"], stored["subjects"]) == ("slicewise", 3, ["p0", "p1"])
    parent, child = slicewise_run(run, "coronal").network.build(), run.network.build()
    parent.load_state_dict(stored["average"])
    child.load_state_dict(initial_weights(run, "whole"))
    image = torch.rand(1, 1, *SHAPE)
    (features, before), (child_features, after) = (features_and_logits(net, image) for net in (parent, child))
    assert features.std() > 0.1
    torch.testing.assert_close(child_features, features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-4)
    found = averaged_weights(settings.run / "whole.pt", 3)
    start = initial_weights(run, "whole")
    assert not [name for name in found if name.endswith("weight") and torch.equal(found[name], start[name])]
    model = read_model(settings.run / "model-toy")
    assert model.assemblies[0].kind == "anisotropic"
    assert model.manifest["training"]["steps"] == {"slices": 3, "whole": 3, "tile": 2}


def test_only_the_first_stage_on_the_brain_starts_from_the_slices(tmp_path: Path) -> None:
    pretrain = PretrainSettings(1, learning_rate=1e-12, weight_decay=0.0, patches=4, seed=5)
    settings = from_slices(tmp_path, auxiliary=1, pretrain=pretrain)
    assert run_stages(settings, ("slices", "pretrain"), (), None)
    run = run_context(settings)
    start, end = initial_weights_from_slices(run), averaged_weights(settings.run / "pretrain.pt", 1)
    assert all(torch.allclose(end[name], start[name], atol=1e-6) for name in start)
    assert same_tensors(initial_weights(run, "pretrain"), start)
    assert same_tensors(initial_weights(run, "whole"), end)


@pytest.mark.parametrize("steps", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_an_interrupted_run_from_slices_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch, steps: int) -> None:
    """Steps 1 to 3 train the 2D network."""
    runs = [from_slices(tmp_path / str(i)) for i in range(2)]
    assert run_stages(runs[0], ALL, (), None)
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        assert not run_stages(runs[1], ("slices", "whole", "tiles"), (), 1.0)
    if steps == 2:
        with pytest.raises(ModelError, match=r"slices-coronal\.pt has seen 2 of 3 steps; run its stage again"):
            run_stages(runs[1], ("whole",), (), None)
    assert run_stages(runs[1], ("slices", "whole", "tiles"), (), None)
    assert same_run(*runs)


def test_the_stage_slices_must_come_first(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"slices-coronal\.pt does not exist; run the stage that writes it first"):
        run_stages(from_slices(tmp_path), ("whole",), (), None)


def test_a_second_round_starts_from_the_first_and_not_from_slices(tmp_path: Path) -> None:
    from slant.train.second_round import second_round

    for settings in (from_slices(tmp_path), cascade_of(tmp_path / "cascade")):
        first = run_context(settings)
        again = second_round(first, tmp_path)
        assert [assembly.slices for assembly in again.cascade] == [None] * len(settings.cascade)


def test_an_assembly_of_a_cascade_starts_from_slices_that_see_the_earlier_result(tmp_path: Path) -> None:
    settings = cascade_settings(tmp_path)
    first, second = settings.assemblies
    network = replace(ANISOTROPIC, plane="axial", earlier_channels=2)
    second = replace(second, network=network, slices=SlicesSettings(2, **BRIEF))
    settings = replace(settings, assemblies=(first, second))
    assert run_stages(settings, ALL, (), None)
    stored = torch.load(settings.run / "second" / "slices-axial.pt", weights_only=True)
    assert (stored["network"]["settings"]["earlier_channels"], stored["step"]) == (2, 2)
    assert not (settings.run / "first" / "slices-axial.pt").exists()
    steps = read_model(settings.run / "model-toy").manifest["training"]["steps"]
    assert steps == {"first whole": 3, "first tile": 2, "second slices": 2, "second whole": 3, "second tile": 2}


# Refused before any work


def cascade_of(folder: Path) -> TrainSettings:
    """A cascade whose first assembly starts from slices, and whose second needs networks that have not seen a scan."""
    settings = cascade_settings(folder, subjects=3)
    first, second = settings.assemblies
    slices = SlicesSettings(2, **BRIEF)
    first = replace(first, network=replace(ANISOTROPIC, stem=1), slices=slices)
    return replace(settings, assemblies=(first, replace(second, earlier_folds=2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"network": NetworkChoice("residual")},
            r"\[slices\] trains the 2D networks .* 'residual' has none; remove .* kinds anisotropic, fusion$",
        ),
        ({"network": NetworkChoice("slicewise")}, "the kind 'slicewise' has none"),
        (
            {"network": FUSION, "slices": None},
            r"'fusion' needs trained 2D networks; add \[slices\] with steps, or .* with --init-from",
        ),
        (
            {"init_from": Path("other.pt")},
            r"found \[slices\] and init_from = other\.pt, expected one .* remove \[slices\] or init_from",
        ),
        (
            {"slices": SlicesSettings(2, folds=3)},
            r"\[slices\] folds = 3 is for networks that keep .* 'anisotropic' trains theirs further.* set folds = 0",
        ),
        (
            {"network": FUSION, "slices": SlicesSettings(2, folds=2), "augment": replace(GENTLE, mixup_alpha=0.4)},
            r"\[slices\] folds = 2 needs steps on one scan, but \[augment\] mixup_alpha = 0\.4 mixes two",
        ),
        (
            {"network": FUSION, "slices": SlicesSettings(2, folds=2), "unlabelled": Path("scans")},
            r"\[slices\] folds = 2 is not possible in a second round, .* remove unlabelled \(--unlabelled\)",
        ),
        (
            {"network": FUSION, "tile": TileSettings(2, init="scratch")},
            r"\[tile\] init = 'scratch' would discard the trained 2D networks .* use 'whole' or 'neighbour'",
        ),
        (
            {"network": FUSION, "slices": SlicesSettings(2, folds=9)},
            r"\[slices\] folds = 9 needs at least 9 training subjects, found 2; use fewer folds",
        ),
    ],
)
def test_impossible_starts_are_refused_with_what_to_do(tmp_path: Path, changes, message: str) -> None:
    settings = from_slices(tmp_path, **changes)
    with pytest.raises(SettingsError, match=message):
        run_stages(settings, ALL, (), None)
    assert not list(tmp_path.rglob("*.pt"))


def test_results_for_a_later_assembly_cannot_come_from_slices_that_have_seen_the_scan(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError,
        match=r"'second': earlier_folds = 2 needs .* 'first' start from 2D .* remove \[assemblies\.slices of first\]",
    ):
        run_stages(cascade_of(tmp_path), ALL, (), None)


@pytest.mark.parametrize("folds", [1, -1])
def test_impossible_folds_are_refused(folds: int) -> None:
    with pytest.raises(SettingsError, match=rf"\[slices\] folds must be 0 or at least 2, found {folds}"):
        SlicesSettings(2, folds=folds)
