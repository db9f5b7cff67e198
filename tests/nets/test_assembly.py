"""Assemblies in manifests: written and read again, and refused by name if they cannot run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slant.errors import ModelError
from slant.nets.assembly import Assembly, check_cascade, manifest_entries, own_tiles, read_assemblies
from slant.nets.prior import Prior
from slant.nets.registry import build_network
from slant.nets.unet import ResidualSettings
from slant.nets.voxel_head import UNetSettings
from slant.nets.weights import MANIFEST, PRIOR, read_model, write_model
from slant.tiles import TileLayout

SETTINGS, RESIDUAL = (kind(5, (4, 6), image_channels=2, head_channels=4) for kind in (UNetSettings, ResidualSettings))
FINE, COARSE = TileLayout((32, 40, 36), (20, 40, 36), (2, 1, 1)), TileLayout((16, 20, 18), (16, 16, 16), (1, 2, 2))
FIRST = Assembly("first", COARSE, "compact", replace(SETTINGS, stem=1), resolution_mm=2)
SECOND = Assembly("second", FINE, "residual", replace(RESIDUAL, earlier_channels=2), 1, "first", "shared")
ALONE = Assembly("", FINE, "compact", SETTINGS)

Edit = Callable[[list[dict[str, Any]]], object]


def states(assembly: Assembly) -> list[tuple[str, dict[str, torch.Tensor]]]:
    return [(tile.name, build_network(assembly.kind, assembly.settings).state_dict()) for tile in assembly.networks]


def write(folder: Path, *assemblies: Assembly) -> Path:
    steps = np.zeros((8, 10, 9, 5), np.uint8)
    networks = [states(assembly) for assembly in assemblies]
    write_model(folder, networks, Prior(steps, FINE.shape), manifest_entries(assemblies))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("model"), FIRST, SECOND)


@pytest.fixture
def edited(model: Path, tmp_path: Path) -> Callable[[Edit], Path]:
    """The model with a change in the list of assemblies of its manifest."""

    def change(edit: Edit) -> Path:
        for path in model.iterdir():
            (tmp_path / path.name).symlink_to(path)
        manifest = json.loads((model / MANIFEST).read_text("utf-8"))
        edit(manifest["assemblies"])
        (tmp_path / MANIFEST).unlink()
        (tmp_path / MANIFEST).write_text(json.dumps(manifest), "utf-8")
        return tmp_path

    return change


def test_a_cascade_is_stored_with_one_file_for_each_assembly(model: Path) -> None:
    read = read_model(model)
    assert read.assemblies == (FIRST, SECOND)
    assert sorted(read.manifest["files"]) == ["first.safetensors", PRIOR, "second.safetensors"]
    assert type(read.network("1_2_2")).__name__ == "CompactUNet"
    assert type(read.network("1_1_1", 1)).__name__ == "ResidualUNet"
    assert (read.network("1_1_1").stride, read.network("1_1_1", 1).stride) == (1, 2)


@pytest.mark.parametrize("mirror", [None, "alternate", "shared"])
def test_the_manifest_of_one_assembly_has_its_entries_instead_of_a_list(tmp_path: Path, mirror) -> None:
    alone = replace(ALONE, mirror=mirror)
    read = read_model(write(tmp_path, alone))
    assert read.assemblies == (alone,)
    assert set(read.manifest) == {"layout", "network", "mirror", "files"}
    assert read.manifest["mirror"] == {None: False, "alternate": True}.get(mirror, mirror)


def test_manifests_of_older_versions_have_one_assembly_at_1_mm() -> None:
    older = {"layout": {"shape": [4, 4, 4], "size": [4, 4, 4], "counts": [1, 1, 1]}, "network": ALONE.plain["network"]}
    (assembly,) = read_assemblies(older)
    assert (assembly.name, assembly.resolution_mm, assembly.mirror, assembly.vote) == ("", 1, None, True)


def test_the_order_of_a_manifest_is_the_order_of_the_cascade() -> None:
    third = replace(SECOND, name="third", earlier="second")
    entries = json.loads(json.dumps(manifest_entries((FIRST, SECOND, third))))
    assert read_assemblies(entries) == (FIRST, SECOND, third)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a: a.pop(0), "'second' takes the result of 'first', which is missing; the order is second"),
        (lambda a: a.reverse(), "'second' takes the result of 'first', which comes only after it; .* second, first"),
        (lambda a: a[1].update(earlier="second"), "'second' takes the result of 'second', which comes only after it"),
        (lambda a: a[1].update(name="first"), "two assemblies are called 'first'"),
        (lambda a: [e.update(vote=False) for e in a], "none of the assemblies votes: first, second"),
        (lambda a: a[1].update(vote=False), "'second' is the last one and does not vote"),
        (lambda a: a[0].update(resolution_mm=1), r"'first' and 'second' cover different templates: .*\(16, 20, 18\)"),
        (lambda a: a[0]["network"]["settings"].update(outputs=6), "'first' and 'second' have 6 and 5 outputs"),
        (
            lambda a: a[1]["network"]["settings"].pop("earlier_channels"),
            "'second' has earlier = 'first', expected none",
        ),
        (lambda a: a[1].update(earlier=None), "'second' has earlier = None, expected the name of an earlier assembly"),
        (lambda a: a[1].update(name=""), "assembly 2 of 2 has no name"),
        (lambda a: a[0].pop("name"), "assembly 1 of 2 has no name"),
        (lambda a: a.clear(), "the model has no assembly"),
        (lambda a: a[1].pop("layout"), "the assembly 'second' in the manifest cannot be used"),
        (lambda a: a[1]["layout"].update(size=[4, 4, 4]), "the assembly 'second' .* in no tile"),
        (lambda a: a[0].update(mirror="left"), "'first' has mirror = 'left', expected 'alternate', 'shared' or none"),
        (lambda a: a[0].update(resolution_mm=0), "'first' has a resolution of 0 mm"),
        (lambda a: a[0].update(colour=1), "'first' in the manifest cannot be used.*colour"),
        (lambda a: a[1].update(mirror=None), r"does not fit its manifest for the assembly 'second'; .*'2_1_1/"),
    ],
)
def test_a_cascade_that_cannot_run_is_refused_by_name(edited: Callable[[Edit], Path], edit: Edit, message: str) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        read_model(edited(edit))
    assert "cannot be used" in str(raised.value) or "does not fit" in str(raised.value)


def test_the_weights_of_an_assembly_must_exist(model: Path, edited: Callable[[Edit], Path]) -> None:
    folder = edited(lambda _: None)
    (folder / "first.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no first\.safetensors"):
        read_model(folder)


def test_networks_of_one_assembly_may_be_shared_by_its_tiles(tmp_path: Path) -> None:
    ((_, state), *_), others = states(FIRST), states(replace(SECOND, mirror=None))
    shared = [(tile.name, state) for tile in COARSE]
    cascade = (FIRST, replace(SECOND, mirror=None))
    write_model(
        tmp_path, [shared, others], Prior(np.zeros((8, 10, 9, 5), np.uint8), FINE.shape), manifest_entries(cascade)
    )
    read = read_model(tmp_path)
    assert (read.shared(0), read.shared(1)) == (True, False)


def test_mirror_images_share_the_networks_up_to_the_middle() -> None:
    three = TileLayout((32, 40, 36), (16, 40, 36), (3, 1, 1))
    assert [tile.name for tile in own_tiles(three, "shared")] == ["1_1_1", "2_1_1"]
    assert [tile.name for tile in own_tiles(three, "alternate")] == ["1_1_1", "2_1_1", "3_1_1"]
    assert len(own_tiles(TileLayout((172, 220, 156), (68, 80, 56), (5, 5, 5)), "shared")) == 75
    uneven = TileLayout((33, 40, 36), (17, 40, 36), (4, 1, 1))  # starts at 0, 5, 11, 16
    assert {uneven.shape[0] - tile.stop[0] for tile in uneven} == {0, 5, 11, 16}
    odd = TileLayout((32, 40, 36), (17, 40, 36), (3, 1, 1))  # starts at 0, 8, 15
    with pytest.raises(ModelError, match="mirror = 'shared', but no tile is the mirror image of 2_1_1"):
        replace(SECOND, layout=odd)


def test_any_number_of_assemblies_can_follow_each_other() -> None:
    third, fourth = (replace(SECOND, name=name, earlier="first") for name in ("third", "fourth"))
    check_cascade((FIRST, SECOND, third, replace(fourth, earlier="third")))
    check_cascade((replace(FIRST, vote=False), SECOND))
    check_cascade((ALONE,))
