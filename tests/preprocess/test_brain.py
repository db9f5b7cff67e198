"""The brain is found from the zero background or by deepbet; masks with an implausible volume are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from slant.errors import InputError
from slant.grid import Grid
from slant.io.read import read_labels, read_scan
from slant.preprocess import brain
from slant.preprocess.brain import (
    brain_from_zero_background,
    extract_brain,
    fov_truncation_warning,
    is_skull_stripped,
    without_residual_tissue,
)
from slant.volume import LabelMap, Volume

GRID = Grid((44, 40, 31), np.diag([4.0, 5.0, 6.0, 1.0]))
NOISE = np.random.default_rng(0).normal(size=GRID.shape)


def _ellipsoid(
    half_axes_mm: tuple[float, float, float], translation_mm: tuple[float, float, float] = (0, 0, 0)
) -> np.ndarray:
    voxels = np.indices(GRID.shape) - (np.array(GRID.shape)[:, None, None, None] - 1) / 2
    mm = voxels * np.array(GRID.voxel_size_mm)[:, None, None, None] - np.array(translation_mm)[:, None, None, None]
    return ((mm / np.array(half_axes_mm)[:, None, None, None]) ** 2).sum(axis=0) < 1


BRAIN = _ellipsoid((65, 80, 60))  # 1.3 litres
DETACHED = _ellipsoid((15, 15, 15), (70, 70, 0))  # 1 % of it
TINY = _ellipsoid((5, 6, 7), (70, 70, 0))


@pytest.mark.parametrize(
    ("data", "stripped"),
    [
        (BRAIN * (100 + NOISE), True),
        (np.where(BRAIN | TINY, 100, 0), True),
        (np.where(BRAIN, 100, np.abs(NOISE)), False),
        (np.where(BRAIN, 100, 0.001), False),
        (np.where(BRAIN | DETACHED, 100, 0), False),
        (_ellipsoid((45, 55, 40)) * 100, False),
        (_ellipsoid((85, 95, 90)) * 100, False),
        (np.zeros(GRID.shape), False),
    ],
    ids=["brain", "tiny-component", "noise", "offset", "detached-component", "small", "head", "zero"],
)
def test_a_skull_stripped_scan_is_one_component_of_brain_size_on_zero_background(data, stripped):
    assert is_skull_stripped(Volume(data, GRID)) is stripped


def test_the_brain_is_the_largest_component_with_holes_filled():
    ventricles = _ellipsoid((20, 30, 15))
    mask = brain_from_zero_background(Volume((BRAIN & ~ventricles | DETACHED) * -7.0, GRID))
    assert mask.data.dtype == np.uint8
    assert mask.grid.same_as(GRID)
    np.testing.assert_array_equal(mask.data, BRAIN)


@pytest.mark.parametrize(
    ("data", "cm3"),
    [(_ellipsoid((45, 55, 40)), 417), (np.zeros(GRID.shape), 0), (np.ones(GRID.shape), 6547)],
    ids=["small", "empty", "full"],
)
def test_a_mask_without_the_volume_of_a_brain_is_refused(data, cm3):
    with pytest.raises(InputError, match=rf"no plausible brain was found: {cm3} cm3, expected 500 to 2400; is it a T1"):
        brain_from_zero_background(Volume(data, GRID))


class _Network:
    """Fake deepbet that returns a mask or fails as deepbet does."""

    def __init__(self, result: np.ndarray | Exception) -> None:
        self.result = result
        self.threads = 0

    def run_model(self, data: np.ndarray) -> np.ndarray:
        self.threads = torch.get_num_threads()
        data[:] = np.nan
        if isinstance(self.result, Exception):
            raise self.result
        return self.result * 0.6

    def postprocess(self, mask: np.ndarray) -> np.ndarray:
        return mask


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_deepbet_runs_on_one_thread_and_does_not_change_the_scan(monkeypatch, two_threads):
    network, scan = _Network(BRAIN), Volume(BRAIN * 100.0, GRID)
    monkeypatch.setattr(brain, "_deepbet", lambda: network)
    np.testing.assert_array_equal(extract_brain(scan).data, BRAIN)
    assert network.threads == 1
    assert torch.get_num_threads() == 2
    np.testing.assert_array_equal(scan.data, BRAIN * 100)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (AssertionError("Not enough foreground"), r"no brain was found in the scan \(Not enough foreground\); is it"),
        (ValueError("empty sequence"), r"no brain was found in the scan \(empty sequence\)"),
        (RuntimeError("size"), "no brain was found"),
        (_ellipsoid((45, 55, 40)), "no plausible brain was found: 417 cm3"),
    ],
    ids=["foreground", "components", "torch", "small"],
)
def test_a_scan_in_which_deepbet_finds_no_brain_is_an_input_error(monkeypatch, two_threads, result, message):
    monkeypatch.setattr(brain, "_deepbet", lambda: _Network(result))
    with pytest.raises(InputError, match=message):
        extract_brain(Volume(NOISE, GRID))
    assert torch.get_num_threads() == 2


FACES = [("left", 0, 0), ("right", 0, -1), ("back", 1, 0), ("front", 1, -1), ("bottom", 2, 0), ("top", 2, -1)]


@pytest.mark.parametrize(("face", "axis", "index"), FACES)
def test_a_brain_at_a_face_gives_a_warning_with_name_and_area(face, axis, index):
    voxel_mm = np.array([4.0, 5.0, 6.0])
    data = np.zeros(GRID.shape, dtype=np.uint8)
    region = [slice(10, 20)] * 3
    region[axis] = slice(index, None) if index else slice(0, 1)
    data[tuple(region)] = 1
    cm2 = 100 * np.prod(np.delete(voxel_mm, axis)) / 100
    warning = fov_truncation_warning(LabelMap(data, GRID))
    assert (
        warning == f"the field of view truncates the brain at the {face} ({cm2:.0f} cm2); regions there are incomplete"
    )


@pytest.mark.parametrize(
    ("index", "voxels", "warned"), [(-1, 20, False), (-1, 21, True), (0, 75, False), (0, 76, True)]
)
def test_the_inferior_face_has_a_larger_threshold(index, voxels, warned):
    data = np.zeros(GRID.shape, dtype=np.uint8)
    data[10:30, 10:30, index].flat[:voxels] = 1  # 20 mm2 each
    assert data.sum() == voxels
    assert (fov_truncation_warning(LabelMap(data, GRID)) is not None) is warned


RESIDUAL = _ellipsoid((20, 20, 20), (0, 20, -70)) & ~BRAIN  # 2 % of the brain


def _without_residual(monkeypatch, foreground: np.ndarray, extracted: np.ndarray) -> tuple[np.ndarray | None, str]:
    """The mask, None if it is the foreground, and the warning."""
    monkeypatch.setattr(brain, "extract_brain", lambda _: LabelMap(extracted.astype(np.uint8), GRID))
    given = LabelMap(foreground.astype(np.uint8), GRID)
    mask, warning = without_residual_tissue(Volume(foreground * 100.0, GRID), given)
    return None if mask is given else mask.data, warning


def test_residual_tissue_leaves_the_mask_of_a_skull_stripped_scan(monkeypatch):
    mask, warning = _without_residual(monkeypatch, BRAIN | RESIDUAL, BRAIN)
    assert mask is not None
    assert mask.dtype == np.uint8
    assert not (BRAIN & (mask == 0)).any()
    left_out = RESIDUAL & (mask == 0)
    assert left_out.sum() > 0.9 * RESIDUAL.sum()
    assert warning.startswith(f"{left_out.sum() * GRID.voxel_volume_mm3 / 1000:.1f} cm3 of the skull-stripped scan lie")
    assert warning.endswith("to keep them, use --skull-stripped")


@pytest.mark.parametrize("extracted", [_ellipsoid((61, 75, 55)), _ellipsoid((75, 90, 70))], ids=["smaller", "larger"])
def test_masks_that_differ_at_the_border_leave_the_foreground_as_it_is(monkeypatch, extracted):
    assert _without_residual(monkeypatch, BRAIN, extracted) == (None, "")


def test_too_much_tissue_outside_the_extracted_brain_counts_as_brain(monkeypatch):
    half = BRAIN & (np.indices(GRID.shape)[0] < GRID.shape[0] // 2)
    mask, warning = _without_residual(monkeypatch, BRAIN, half)
    assert mask is None
    assert "too many for residual non-brain tissue; they count as brain" in warning
    assert "--no-skull-stripped" in warning


def test_without_an_extracted_brain_there_is_no_residual_tissue(monkeypatch):
    def extract(_: Volume) -> LabelMap:
        raise InputError("no brain was found")

    monkeypatch.setattr(brain, "extract_brain", extract)
    foreground = LabelMap((BRAIN | RESIDUAL).astype(np.uint8), GRID)
    assert without_residual_tissue(Volume(foreground.data * 100.0, GRID), foreground) == (foreground, "")


@pytest.mark.slow
@pytest.mark.parametrize(("subject", "cm3"), [("sub-23", 6.4), ("sub-27", 51.3), ("sub-09", 0), ("sub-33", 0)])
def test_residual_tissue_in_front_of_the_brain_stem_is_found(data_dir: Path, subject, cm3):
    scan = read_scan(data_dir / "ds002748" / subject / "anat" / f"{subject}_T1w.nii.gz").volume
    foreground = brain_from_zero_background(scan)
    mask, warning = without_residual_tissue(scan, foreground)
    left_out = np.argwhere(foreground.data > mask.data)
    assert len(left_out) * scan.grid.voxel_volume_mm3 / 1000 == pytest.approx(cm3, rel=0.05)
    assert (mask is foreground) is (warning == "") is (cm3 == 0)
    if cm3:
        brain_mm = scan.grid.voxel_size_mm[2] * (np.argwhere(mask.data)[:, 2].mean() - left_out[:, 2].mean())
        assert brain_mm > 40  # below the middle of the brain


def test_several_faces_are_named_in_one_warning():
    warning = fov_truncation_warning(LabelMap(np.ones(GRID.shape, dtype=np.uint8), GRID))
    assert [face for face, *_ in FACES if f"{face} (" in str(warning)] == [face for face, *_ in FACES]
    assert fov_truncation_warning(LabelMap(BRAIN, GRID)) is None


@pytest.mark.slow
def test_deepbet_finds_the_brain_of_a_head(data_dir: Path):
    head = read_scan(data_dir / "single" / "chris_T1w.nii.gz").volume
    assert not is_skull_stripped(head)
    mask = extract_brain(head)
    assert 1.3e6 < mask.data.sum() * head.grid.voxel_volume_mm3 < 1.7e6
    assert fov_truncation_warning(mask) is None


def test_a_skull_stripped_scan_is_detected_and_its_mask_contains_all_labels(data_dir: Path):
    path = data_dir / "miccai2012-train" / "1000_T1w.nii.gz"
    scan = read_scan(path)
    assert is_skull_stripped(scan.volume)
    mask = brain_from_zero_background(scan.volume)
    labels = read_labels(path.with_name("1000_dseg.nii.gz"), scan)
    assert (mask.data[labels.data > 0] != 0).mean() > 0.999
