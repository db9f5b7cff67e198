"""A model with a groupwise template deforms its prior to the scan, and warns if the deformation fails."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from toy import patches, quick_stages, toy_found, toy_model, toy_model_folder, toy_prepared, toy_scan

from slant.config import SegmentSettings
from slant.errors import ModelError
from slant.io.models import load_model
from slant.nets import groupwise
from slant.nets.groupwise import Deformation, GroupwiseTemplate
from slant.nets.model import Model
from slant.nets.weights import GROUPWISE, MANIFEST, file_sha256
from slant.pipeline import label, prepare
from slant.segmentation import Prepared

ONE = SegmentSettings(threads=1)


@cache
def template() -> GroupwiseTemplate:
    """A groupwise template with the image of the toy template, in which every cell votes for its patch."""
    image = toy_model().inputs.template.image
    channels = patches().repeat(2, 0).repeat(2, 1).repeat(2, 2)[: image.data.shape[0]]
    votes = np.zeros((*image.data.shape, 133), np.uint8)
    np.put_along_axis(votes, channels[:, : image.data.shape[1], : image.data.shape[2], None], 120, axis=3)
    scaled = replace(image, data=image.data / image.data[image.data > 0].mean())
    return GroupwiseTemplate(scaled, votes)


def model() -> Model:
    return replace(toy_model(), inputs=replace(toy_model().inputs, groupwise=template()))


@cache
def prepared() -> Prepared:
    with quick_stages():
        return prepare(toy_scan().volume, model().inputs)


def test_a_prepared_scan_contains_the_deformation() -> None:
    found = prepared().deformation
    assert found is not None
    assert found.accepted
    assert found.displacement.dtype == np.float16
    assert found.displacement.shape == (3, 86, 110, 78)
    assert [timing.name for timing in prepared().timings][-1] == "deform"
    assert prepared().warnings == ()
    unpickled = pickle.loads(pickle.dumps(prepared()))  # noqa: S301
    assert unpickled.deformation.displacement.tobytes() == found.displacement.tobytes()
    assert toy_prepared().deformation is None


@pytest.mark.slow
def test_the_prior_follows_the_displacement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A displacement by one cell gives each cell the prior of its neighbour."""
    priors = []
    prior_at = GroupwiseTemplate.prior_at

    def recorded(self: GroupwiseTemplate, *args: np.ndarray) -> object:
        priors.append(prior_at(self, *args))
        return priors[-1]

    monkeypatch.setattr(GroupwiseTemplate, "prior_at", recorded)
    zero = Deformation(np.zeros((3, 86, 110, 78), np.float16), 0.9, 0.5)
    for shift in (0, 2):
        constant = replace(zero, displacement=zero.displacement + np.float16([shift, 0, 0])[:, None, None, None])
        label(replace(prepared(), deformation=constant), model(), ONE)
    original, shifted = (prior.steps.argmax(axis=-1) for prior in priors)
    both = (original[1:] > 0) & (shifted[:-1] > 0)
    assert both.sum() > 100_000
    np.testing.assert_array_equal(shifted[:-1][both], original[1:][both])


@pytest.mark.slow
def test_a_failed_deformation_gives_the_affine_prior_and_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = Deformation(np.full((3, 86, 110, 78), 9, np.float16), 0.41, 0.52)
    monkeypatch.setattr(groupwise, "deform", lambda *_: failed)
    with quick_stages():
        found = prepare(toy_scan().volume, model().inputs)
    (warning,) = found.warnings
    assert "could not be deformed to the groupwise template: similarity 0.41, expected at least 0.80" in warning
    labelled = label(found, model(), ONE)
    assert labelled.labels.data.tobytes() == toy_found().labels.data.tobytes()
    assert warning in labelled.warnings


def test_a_scan_prepared_for_another_model_is_refused() -> None:
    with pytest.raises(ModelError, match=r"registered to the groupwise template .*, expected no groupwise template"):
        label(prepared(), toy_model(), ONE)
    with pytest.raises(ModelError, match="registered to no groupwise template, expected the groupwise template"):
        label(toy_prepared(), model(), ONE)
    other = replace(model(), inputs=replace(model().inputs, groupwise=replace(template(), identity="0123456789abcdef")))
    with pytest.raises(ModelError, match="expected the groupwise template 0123456789ab; prepare it with"):
        label(prepared(), other, ONE)


# Model folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the toy model with a groupwise template."""
    shutil.copytree(toy_model_folder(), tmp_path / "model")
    votes = np.moveaxis(template().votes, -1, 0)
    write(tmp_path / "model", image=template().image.data.astype(np.float16), votes=votes)
    return tmp_path / "model"


def write(folder: Path, **arrays: np.ndarray) -> None:
    np.savez_compressed(folder / GROUPWISE, **arrays)
    update_manifest(folder)


def update_manifest(folder: Path) -> None:
    """Write the hash of the template into the manifest."""
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    manifest["files"][GROUPWISE] = file_sha256(folder / GROUPWISE)
    (folder / MANIFEST).write_text(json.dumps(manifest), "utf-8")


def test_the_groupwise_template_is_read_with_the_model(folder: Path) -> None:
    found = load_model(str(folder)).inputs.groupwise
    assert found is not None
    np.testing.assert_array_equal(found.votes, template().votes)
    np.testing.assert_allclose(found.image.data, template().image.data, atol=2e-3)
    assert found.image.grid.same_as(template().image.grid)


def test_a_missing_groupwise_template_is_named(folder: Path) -> None:
    (folder / GROUPWISE).unlink()
    with pytest.raises(ModelError, match=r"model has no groupwise\.npz|it has no groupwise\.npz"):
        load_model(str(folder))


def test_a_damaged_groupwise_template_is_named(folder: Path) -> None:
    (folder / GROUPWISE).write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"groupwise\.npz is damaged: its SHA-256"):
        load_model(str(folder))
    update_manifest(folder)
    with pytest.raises(ModelError, match=r"groupwise\.npz cannot be read"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("image", "votes"),
    [((86, 110, 70), (133, 86, 110, 70)), ((86, 110, 78), (7, 86, 110, 78)), ((86, 110, 78), (86, 110, 78, 133))],
)
def test_a_groupwise_template_of_another_grid_or_protocol_is_named(
    folder: Path, image: tuple[int, ...], votes: tuple[int, ...]
) -> None:
    write(folder, image=np.ones(image, np.float16), votes=np.ones(votes, np.uint8))
    with pytest.raises(ModelError, match=r"groupwise\.npz is the groupwise template of another grid or protocol"):
        load_model(str(folder))
