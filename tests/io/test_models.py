"""A model is found by name or folder, and rejected if it does not fit the protocol or the template."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import LAYOUT, SETTINGS, toy_model, toy_model_folder

from slant.errors import ModelError, ProtocolError, SlantError
from slant.io import models
from slant.io.models import describe_models, embedded_models, load_inputs, load_model, manifest_of, model_folder
from slant.io.resources import load_protocol
from slant.nets.assembly import Assembly
from slant.nets.inputs import InputScaling
from slant.nets.prior import Prior
from slant.nets.unet import CompactUNet
from slant.nets.weights import write_model
from slant.tiles import TileLayout

CARD = "Toy model of two subjects.\n"


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with two models, one of them with a card, and a folder that is not a model."""
    for name in ("one", "two"):
        shutil.copytree(toy_model_folder(), tmp_path / "weights" / name)
    (tmp_path / "weights" / "one" / "CARD.md").write_text(CARD, "utf-8")
    (tmp_path / "weights" / "__pycache__").mkdir()
    monkeypatch.setattr(models, "EMBEDDED", tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """The toy model with a change in its manifest."""

    def change(edit: Callable[[dict[str, Any]], object]) -> Path:
        folder = shutil.copytree(toy_model_folder(), tmp_path / "model")
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        edit(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
        return folder

    return change


def test_embedded_models_are_those_with_a_manifest(embedded: Path) -> None:
    assert embedded_models() == ("one", "two")
    assert model_folder("two") == embedded / "two"


def test_description_names_tiles_licence_and_card(embedded: Path) -> None:
    one, two = "one: 8 tiles, licence of the weights: CC0", "two: 8 tiles, licence of the weights: CC0"
    assert describe_models() == f"{one}\n\n{CARD}\n{two}"


def test_a_model_is_found_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_folder("mine") == Path("mine")
    assert model_folder(str(tmp_path / "mine")) == tmp_path / "mine"


@pytest.mark.parametrize("name", ["slant28", "no/such/folder"])
def test_an_unknown_model_is_rejected(embedded: Path, name: str) -> None:
    with pytest.raises(ModelError, match=f"unknown model '{name}': expected one of one, two or a folder with"):
        load_model(name)


def test_a_loaded_model_has_all_settings_of_training() -> None:
    model = toy_model()
    assert (model.name, model.licence, model.assemblies[0].layout) == ("toy", "CC0", LAYOUT)
    assert model.identity == hashlib.sha256((toy_model_folder() / "manifest.json").read_bytes()).hexdigest()
    assert model.protocol is load_protocol("braincolor")
    assert model.inputs.scaling == InputScaling()
    assert model.inputs.template.grid.shape == LAYOUT.shape
    assert model.cascade(np.ones(LAYOUT.shape, np.float32)).predictors[0].layout == LAYOUT


def test_a_model_is_loaded_without_torchs_compiler() -> None:
    """The compiler takes two seconds to import; random initialization of weights on the meta device would import it."""
    load = f"from slant.io.models import load_model; load_model({str(toy_model_folder())!r})"
    code = f"import sys; {load}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "slant.nets.unet" in loaded
    assert "torch._dynamo" not in loaded


def test_scaling_comes_from_the_manifest(changed: Callable[..., Path]) -> None:
    scaling = load_model(str(changed(lambda m: m["input"].update(offset=1.0, min_value=0.5)))).inputs.scaling
    assert scaling == InputScaling(1.0, 1 / 3, 0.5)
    image, brain = np.float32([[[-9, 2, 2]]]), np.array([[[True, True, False]]])
    np.testing.assert_allclose(scaling(image, brain), [[[0.5, 1, 0]]])


def test_mirroring_comes_from_the_manifest(changed: Callable[..., Path]) -> None:
    image = np.ones(LAYOUT.shape, np.float32)
    assert load_model(str(toy_model_folder())).cascade(image).predictors[0].mirroring is None
    mirroring = load_model(str(changed(lambda m: m.update(mirror=True)))).cascade(image).predictors[0].mirroring
    assert mirroring is not None
    assert mirroring.mirror == "alternate"
    assert mirroring.mirror_x == pytest.approx(2 * 86.095, abs=1e-3)
    np.testing.assert_array_equal(mirroring.partners, load_protocol().mirrored_channels)


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (lambda m: m["protocol"].update(name="aparc"), ProtocolError, "no label protocol 'aparc'"),
        (lambda m: m["protocol"]["ids"].remove(4), ModelError, r"trained for other ids.*differing: \[4\]"),
        (lambda m: m["protocol"]["ids"].append(999), ModelError, r"differing: \[999\]"),
        (lambda m: m["protocol"]["ids"].reverse(), ModelError, "differing: only their order"),
        (lambda m: m["network"]["settings"].update(outputs=7), ModelError, "7 outputs for 133 channels"),
        (lambda m: m["layout"].update(size=[172, 220, 9]), ModelError, "manifest .* cannot be used.*in no tile"),
        (lambda m: m["layout"].update(counts=[1, 1, 9]), ModelError, r"missing tensors: \['1_1_9/"),
        (lambda m: m["files"].update({"prior.npz": "0" * 64}), ModelError, r"prior\.npz is damaged"),
        (lambda m: m.pop("files"), ModelError, "manifest .* cannot be used"),
        (lambda m: m.pop("protocol"), ModelError, "manifest .* cannot be used"),
        (lambda m: m.pop("input"), ModelError, "manifest .* cannot be used"),
        (lambda m: m["input"].update(gain=2.0), ModelError, "manifest .* cannot be used"),
        (lambda m: m.update(template="mni152"), ModelError, "template 'mni152'"),
    ],
)
def test_models_that_do_not_fit_are_rejected(
    changed: Callable[..., Path], edit: Callable[[dict[str, Any]], object], error: type[SlantError], message: str
) -> None:
    folder = changed(edit)
    with pytest.raises(error, match=message):
        load_model(str(folder))


def test_tiles_of_another_grid_are_rejected(tmp_path: Path) -> None:
    layout = TileLayout((20, 28, 24), (20, 28, 24), (1, 1, 1))
    assembly = Assembly("", layout, "compact", SETTINGS)
    prior = Prior(np.zeros((5, 7, 6, 133), np.uint8), layout.shape)
    networks = [("1_1_1", CompactUNet(SETTINGS).state_dict())]
    write_model(tmp_path, [networks], prior, manifest_of("small", [assembly], load_protocol(), {}, "CC0"))
    with pytest.raises(ModelError, match=r"cover \(20, 28, 24\) voxels, the template has \(172, 220, 156\)"):
        load_model(str(tmp_path))


def test_manifest_is_json_and_complete() -> None:
    assembly = Assembly("", LAYOUT, "compact", SETTINGS)
    manifest = manifest_of("mine", [assembly], load_protocol(), {"subjects": 15}, "CC BY-NC 3.0")
    assert json.loads(json.dumps(manifest)) == manifest
    assert manifest["protocol"]["ids"] == load_protocol().ids.tolist()
    assert manifest["network"] == {"kind": "compact", "settings": SETTINGS.as_dict()}
    assert manifest["input"] == InputScaling().as_dict()
    assert (manifest["name"], manifest["licence"], manifest["template"]) == ("mine", "CC BY-NC 3.0", "mni305")


def test_inputs_share_one_template() -> None:
    assert load_inputs().template is load_inputs(InputScaling(0.0)).template
