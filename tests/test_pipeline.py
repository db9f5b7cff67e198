"""The pipeline in memory puts labels at the right voxels, whatever the number of threads."""

from __future__ import annotations

import pickle
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy import (
    SIMILARITY,
    content,
    native_from_template,
    patches_1mm,
    quick_networks,
    quick_stages,
    toy_folder,
    toy_found,
    toy_model,
    toy_prepared,
    toy_scan,
)

import slant
from slant.config import SegmentSettings
from slant.errors import DeviceError, InputError, RegistrationError
from slant.pipeline import label, prepare
from slant.preprocess.register import MIN_SIMILARITY
from slant.resample import pick_labels
from slant.segmentation import Prepared, Segmentation
from slant.volume import LabelMap, Volume

ONE, TWO = SegmentSettings(threads=1), SegmentSettings(threads=2)


def patch_ids_in_native() -> np.ndarray:
    """The id of the patch at every voxel of the toy scan, from the known affine."""
    ids = toy_model().protocol.ids_from_channels(patches_1mm())
    template = LabelMap(ids, toy_model().inputs.template.grid)
    return pick_labels(template, toy_scan().volume.grid, np.linalg.inv(native_from_template())).data


def fraction_of_brain_with_right_patch(found: Segmentation) -> float:
    inside = found.labels.data != 0
    return float((found.labels.data == patch_ids_in_native())[inside].mean())


def same(one: Segmentation, other: Segmentation) -> bool:
    return (
        one.labels.data.tobytes() == other.labels.data.tobytes()
        and one.template_labels.data.tobytes() == other.template_labels.data.tobytes()
        and one.confidence.data.tobytes() == other.confidence.data.tobytes()
        and repr(one.volumes) == repr(other.volumes)
    )


# Preparation


def test_the_prepared_image_is_on_the_template_grid_in_network_units() -> None:
    image, template = toy_prepared().image, toy_model().inputs.template
    assert image.grid.same_as(template.grid)
    inside = image.data > 0
    assert image.data[inside].mean() == pytest.approx(1, abs=0.05)
    assert image.data.min() == 0
    brain = pick_labels(template.brain, template.grid).data != 0
    assert 2 * (inside & brain).sum() / (inside.sum() + brain.sum()) > 0.97


def test_a_prepared_scan_has_brain_mask_grid_and_affine() -> None:
    prepared = toy_prepared()
    assert prepared.native_grid.same_as(toy_scan().volume.grid)
    assert prepared.brain.grid.same_as(prepared.native_grid)
    assert prepared.similarity == SIMILARITY
    np.testing.assert_array_equal(prepared.native_from_template, native_from_template())
    assert prepared.warnings == ()
    assert [timing.name for timing in prepared.timings] == [
        "robust intensities",
        "brain",
        "register",
        "bias",
        "intensity",
    ]


def cropped() -> Volume:
    """The toy head without its anterior 40 percent, as in a short field of view."""
    volume = toy_scan().volume
    data = volume.data[:, : int(0.6 * volume.data.shape[1])]
    return Volume(data, replace(volume.grid, shape=data.shape))


def test_a_truncated_brain_gives_warnings_with_the_missing_regions() -> None:
    with quick_stages(), quick_networks():
        found = slant.segment(cropped(), toy_model(), ONE)
    truncated, missing = found.warnings
    assert truncated.startswith("the field of view truncates the brain at the front")
    assert missing.startswith("no voxels were labelled as ")
    empty = [row.name for row in found.volumes if row.level == "region" and row.volume_mm3 == 0]
    assert int(missing.split()[5]) == len(empty) > 5
    assert all(name in missing for name in empty)
    assert found.labels.grid.same_as(cropped().grid)


def test_a_scan_without_a_brain_is_refused() -> None:
    volume = toy_scan().volume
    sparse = Volume(np.where(np.indices(volume.data.shape).sum(axis=0) % 9 == 0, volume.data, 0), volume.grid)
    with pytest.raises(InputError, match=r"no plausible brain was found: .* cm3"):
        prepare(sparse, toy_model().inputs, SegmentSettings(skull_stripped=True))


@pytest.mark.slow
def test_a_failed_registration_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = np.diag([-1.0, -1.0, -1.0, 1.0])
    monkeypatch.setattr("slant.preprocess.register._initial_transform", lambda *_: wrong)
    monkeypatch.setattr("slant.preprocess.register._ants_affine", lambda *_: wrong)
    with pytest.raises(RegistrationError, match=rf"\(similarity -?0\.\d\d, minimum {MIN_SIMILARITY:.2f}\)"):
        prepare(toy_scan().volume, toy_model().inputs)


# Labelling


def test_labels_are_at_the_right_voxels() -> None:
    found = toy_found()
    assert found.labels.grid.same_as(toy_scan().volume.grid)
    assert fraction_of_brain_with_right_patch(found) > 0.85
    assert found.labels.ids == tuple(toy_model().protocol.ids)
    assert found.labels.data.dtype == found.template_labels.data.dtype == np.uint8
    assert found.warnings == ()


def test_confidence_is_low_where_tiles_disagree() -> None:
    disputed = toy_found().confidence.data < 0.7
    assert 0.001 < disputed.mean() < 0.2


def test_volumes_are_those_of_the_labels() -> None:
    found = toy_found()
    counts = np.bincount(found.labels.data.ravel(), minlength=256)
    for row in found.volumes[:132]:
        assert row.index is not None
        assert row.volume_mm3 == pytest.approx(counts[row.index] * found.labels.grid.voxel_volume_mm3)


def test_timings_of_prepare_and_label_are_listed() -> None:
    prepared = toy_prepared().timings
    names = [timing.name for timing in toy_found().timings[len(prepared) :]]
    assert toy_found().timings[: len(prepared)] == prepared
    assert names == ["networks and vote", "resample labels", "volumes"]


def test_a_pickled_prepared_scan_gives_the_same_labels_on_two_threads() -> None:
    unpickled: Prepared = pickle.loads(pickle.dumps(toy_prepared()))  # noqa: S301
    assert same(label(unpickled, toy_model(), TWO), toy_found())


def test_resampled_labels_are_exact_if_the_affine_is_the_identity() -> None:
    grid = toy_prepared().image.grid
    brain = LabelMap(toy_prepared().image.data > 0, grid)
    in_native = replace(toy_prepared(), native_grid=grid, native_from_template=np.eye(4), brain=brain)
    with quick_networks():
        found = label(in_native, toy_model(), ONE)
    np.testing.assert_array_equal(found.labels.data, found.template_labels.data)
    assert len(found.labels.ids) == 133
    assert (found.confidence.data == 1).all()


def test_interpolation_by_vote_or_nearest_voxel() -> None:
    with quick_networks():
        voted, nearest = (
            label(toy_prepared(), toy_model(), replace(ONE, interpolation=i)) for i in ("multilabel", "nearest")
        )  # type: ignore[arg-type]
    np.testing.assert_array_equal(nearest.labels.data, nearest_in_native(nearest.template_labels))
    differing = voted.labels.data != nearest.labels.data
    assert 0 < differing.mean() < 0.05


def nearest_in_native(labels: LabelMap) -> np.ndarray:
    return pick_labels(labels, toy_prepared().native_grid, np.linalg.inv(toy_prepared().native_from_template)).data


def test_an_unavailable_device_is_refused() -> None:
    with pytest.raises(DeviceError, match="CUDA devices are visible"):
        label(toy_prepared(), toy_model(), SegmentSettings(device="cuda:99"))


def test_labelling_does_not_change_the_prepared_scan() -> None:
    before = toy_prepared().image.data.copy()
    with pytest.raises(ValueError, match="read-only"):
        toy_found().labels.data[0, 0, 0] = 1
    with quick_networks():
        label(toy_prepared(), toy_model(), ONE)
    np.testing.assert_array_equal(toy_prepared().image.data, before)


# The whole pipeline


@pytest.mark.slow
def test_the_whole_pipeline_is_accurate_and_deterministic_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, model = toy_scan().volume, toy_model()
    before = content(toy_folder())
    (tmp_path / "temporary").mkdir()
    (tmp_path / "cwd").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    one = slant.segment(scan, model, ONE)
    monkeypatch.chdir(tmp_path / "cwd")
    two = slant.segment(scan, model, TWO)
    assert same(one, two)
    assert one.prepared.native_from_template.tobytes() == two.prepared.native_from_template.tobytes()
    assert content(tmp_path) == {}
    assert content(toy_folder()) == before
    assert one.prepared.similarity > 0.9
    corners = np.array([[x, y, z, 1] for x in (-60, 60) for y in (-100, 60) for z in (-40, 70)]).T
    error_mm = np.linalg.norm(((one.prepared.native_from_template - native_from_template()) @ corners)[:3], axis=0)
    assert error_mm.max() < 3
    assert fraction_of_brain_with_right_patch(one) > 0.7
