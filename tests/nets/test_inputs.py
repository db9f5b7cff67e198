"""Inputs of networks of all kinds, and their model folders on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_networks import LAYOUT, ORIGINAL, TINY, tiny
from toy import quick_stages, toy_model, toy_scan

from slant.errors import ModelError, SettingsError
from slant.io.models import load_inputs
from slant.nets.inputs import InputScaling
from slant.nets.predict import Predictor, label_tile
from slant.nets.prior import Prior
from slant.nets.registry import settings_of
from slant.nets.slant2018 import Slant2018
from slant.nets.weights import MANIFEST, PRIOR, read_model, shard, write_model, write_shards
from slant.pipeline import prepare

# Inputs


def test_a_tile_is_rescaled_by_its_own_range_and_a_constant_tile_to_the_lower_end() -> None:
    scaled = ORIGINAL.of_tile(np.float32([[[-2, 0, 2]]]))
    np.testing.assert_allclose(scaled, [[[0, 127.5, 255]]])
    assert ORIGINAL.of_tile(np.full((2, 2, 2), 7, np.float32)).tolist() == np.zeros((2, 2, 2)).tolist()
    assert ORIGINAL.order == (2, 0, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"axes": "xyy"}, "found 'xyy'"), ({"tile_rescale": (5.0, 5.0)}, r"ascending numbers, found \[5.0, 5.0\]")],
)
def test_invalid_scalings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        InputScaling(**values)


def test_without_brain_masking_the_image_contains_the_whole_head() -> None:
    unmasked = InputScaling(0.0, 1.0, None, mask_brain=False)
    masked = InputScaling(0.0, 1.0, None)
    with quick_stages():
        head, brain = (prepare(toy_scan().volume, load_inputs(scaling)).image.data for scaling in (unmasked, masked))
    inside = brain != 0
    assert np.corrcoef(head[inside], brain[inside])[0, 1] > 0.98  # one trilinear, the other by splines
    assert 0.1 < inside.mean() < 0.5
    around = head[~inside]
    assert np.abs(around).min() > 0  # the air around a head never has the mean intensity of the brain
    assert np.median(around) == around.min() <= head[inside].min()


# Model folders


def manifest_for(kind: str) -> dict[str, Any]:
    layout = {"shape": [20, 28, 24], "size": [16, 24, 16], "counts": [2, 2, 2], "overlap": "vote"}
    settings = settings_of(kind, TINY[kind]).as_dict()
    return {"name": "tiny", "layout": layout, "network": {"kind": kind, "settings": settings}}


@pytest.mark.parametrize("kind", sorted(set(TINY) - {"slant2018"}))
def test_a_model_with_a_prior_is_read_back_and_labels_as_before(kind: str, tmp_path: Path) -> None:
    prior = Prior(np.random.default_rng(0).integers(1, 255, (5, 7, 6, 5), dtype=np.uint8), LAYOUT.shape)
    network, image = tiny(kind).requires_grad_(False), np.random.default_rng(1).random(LAYOUT.shape, dtype=np.float32)
    for value in network.state_dict().values():
        value.copy_(value.half())  # the precision of the file
    write_model(tmp_path, [((tile.name, network.state_dict()) for tile in LAYOUT)], prior, manifest_for(kind))
    model = read_model(tmp_path)
    found = model.network("1_1_1")
    assert found.settings == network.settings == settings_of(kind, TINY[kind])
    for name, value in network.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    labels = [
        label_tile(Predictor(LAYOUT, prior, lambda _, n=n: n), LAYOUT.tiles[0], image, torch.device("cpu"))
        for n in (network, found)
    ]
    np.testing.assert_array_equal(*labels)
    assert len(np.unique(labels[0])) > 1


def test_a_model_that_needs_a_prior_is_refused_without_one(tmp_path: Path) -> None:
    networks = {tile.name: tiny("residual").state_dict() for tile in LAYOUT}
    write_model(tmp_path, [networks.items()], None, manifest_for("residual"))
    with pytest.raises(ModelError, match=rf"no {PRIOR}"):
        read_model(tmp_path)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_large_networks_have_one_file_per_tile_and_no_prior(tmp_path: Path, precision: Any) -> None:
    networks = ((tile.name, tiny("slant2018", i).state_dict()) for i, tile in enumerate(LAYOUT))
    write_shards(tmp_path, networks, manifest_for("slant2018"), precision)
    model = read_model(tmp_path)
    assert (model.prior, model.assemblies[0].kind) == (None, "slant2018")
    assert sorted(model.manifest["files"]) == sorted(shard(tile.name) for tile in LAYOUT)
    for i, tile in enumerate(LAYOUT):
        found, exact = model.network(tile.name), precision == "float32"
        assert isinstance(found, Slant2018)
        for name, value in tiny("slant2018", i).state_dict().items():
            torch.testing.assert_close(
                found.state_dict()[name], value, rtol=0 if exact else 1e-3, atol=1e-6 * (not exact)
            )


def test_wrong_damaged_and_missing_tiles_are_named(tmp_path: Path) -> None:
    networks = [(tile.name, tiny("slant2018").state_dict()) for tile in LAYOUT]
    networks[0][1]["ec9.0.bias"] = networks[0][1].pop("ec0.0.bias")
    write_shards(tmp_path, networks, manifest_for("slant2018"))
    with pytest.raises(
        ModelError, match=r"missing tensors: \['1_1_1/ec0.0.bias'\]; unexpected: \['1_1_1/ec9.0.bias'\]"
    ):
        read_model(tmp_path)
    (tmp_path / shard("2_2_2")).write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"2_2_2\.safetensors is damaged"):
        read_model(tmp_path)
    (tmp_path / shard("1_2_2")).unlink()
    with pytest.raises(ModelError, match=r"no 1_2_2\.safetensors"):
        read_model(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("kind", "compct"), ("settings", {"outputs": 5, "width": 3})])
def test_a_manifest_of_an_unknown_network_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    manifest = manifest_for("slant2018")
    manifest["network"][key] = value
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "files": {}}), "utf-8")
    with pytest.raises(ModelError, match=r"cannot be used.*(did you mean|unknown key)"):
        read_model(tmp_path)


def test_the_compact_toy_model_has_default_inputs() -> None:
    model = toy_model()
    assert model.assemblies[0].kind == "compact"
    assert model.networks.prior is not None
    assert model.inputs.scaling == InputScaling()
