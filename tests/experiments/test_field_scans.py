"""Each kind of scan has the fault that it is there for, and nothing else is changed."""

from __future__ import annotations

import gzip
from pathlib import Path

import field_scans
import nibabel as nib
import numpy as np
import pytest
from field_inputs import Base, FieldInput, Made

BY_NAME = {one.name: one for one in field_scans.INPUTS}


def make(name: str, base: Base, folder: Path) -> Made:
    return BY_NAME[name].make(base, folder)


def made_data(name: str, base: Base, folder: Path) -> np.ndarray:
    return np.asarray(nib.load(folder / make(name, base, folder).scan).dataobj)


def test_z_scores_have_mean_0_and_sd_1_where_they_are_computed(base: Base, tmp_path: Path) -> None:
    brain, everywhere = (made_data(name, base, tmp_path) for name in ("z-scored-brain", "z-scored-all"))
    assert np.all(brain[~base.brain] == 0)
    assert brain[base.brain].min() < 0
    for values in (brain[base.brain], everywhere):
        assert values.mean() == pytest.approx(0, abs=1e-4)
        assert values.std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "slope", "intercept"),
    [("plus-1000", 1, 1000), ("minus-1024", 1, -1024), ("times-1e6", 1e6, 0), ("minus-1-to-1", 2, -1)],
)
def test_intensities_change_linearly(name: str, slope: float, intercept: float, base: Base, tmp_path: Path) -> None:
    scale = base.data.max() if name == "minus-1-to-1" else 1
    np.testing.assert_allclose(made_data(name, base, tmp_path), slope * base.data / scale + intercept, rtol=1e-5)


@pytest.mark.parametrize(("name", "factor"), [("absurd-39x", 39), ("absurd-392x", 392), ("negative-spikes", -20)])
def test_thirty_voxels_of_the_brain_are_absurd(name: str, factor: float, base: Base, tmp_path: Path) -> None:
    data = made_data(name, base, tmp_path)
    changed = data != base.data
    assert changed.sum() == 30
    assert np.all(base.brain[changed])
    assert np.all(data[changed] == factor * base.data.max())


def test_only_the_background_is_nan(base: Base, tmp_path: Path) -> None:
    data = made_data("background-nan", base, tmp_path)
    np.testing.assert_array_equal(np.isnan(data), ~base.brain)
    np.testing.assert_array_equal(data[base.brain], base.data[base.brain])


def scan_header(name: str, base: Base, folder: Path) -> nib.Nifti1Header:
    """The header as it is in the file, without the repairs of nibabel."""
    path = folder / make(name, base, folder).scan
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return nib.Nifti1Header(content[:348], check=False)


def test_headers_contradict_themselves(base: Base, tmp_path: Path) -> None:
    header = scan_header("sform-1-mm", base, tmp_path)
    assert np.linalg.norm(header.get_sform()[:3, :3], axis=0) == pytest.approx(1)
    assert header.get_zooms() == pytest.approx([0.88] * 3)
    np.testing.assert_array_equal(scan_header("identity-affine", base, tmp_path).get_best_affine(), np.eye(4))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [("sform-zero", "qform", "sform"), ("sform-nan", "qform", "sform"), ("qform-nan", "sform", "qform")],
)
def test_one_form_is_good(name: str, good: str, bad: str, base: Base, tmp_path: Path) -> None:
    header = scan_header(name, base, tmp_path)
    assert header[f"{good}_code"] == header[f"{bad}_code"] == 1
    np.testing.assert_allclose(getattr(header, f"get_{good}")(), base.affine, atol=1e-4)
    fields = ("srow_x", "srow_y", "srow_z") if bad == "sform" else ("quatern_b", "quatern_c", "quatern_d")
    values = np.hstack([header[field] for field in fields])
    assert np.all(values == 0) or np.all(np.isnan(values))


@pytest.mark.parametrize(("name", "unit", "mm"), [("metres", "meter", 1000), ("micrometres", "micron", 0.001)])
def test_units_are_named_in_the_header(name: str, unit: str, mm: float, base: Base, tmp_path: Path) -> None:
    header = scan_header(name, base, tmp_path)
    assert header.get_xyzt_units()[0] == unit
    np.testing.assert_allclose(header.get_sform()[:3] * mm, base.affine[:3], rtol=1e-5)


def test_an_offset_of_0_is_impossible(base: Base, tmp_path: Path) -> None:
    assert scan_header("no-offset", base, tmp_path)["vox_offset"] == 0


def test_slices_are_just_thicker_than_5_mm(base: Base, tmp_path: Path) -> None:
    sizes = np.linalg.norm(scan_header("oblique-5.0000001-mm", base, tmp_path).get_best_affine()[:3, :3], axis=0)
    assert 5 < sizes[2] < 5.00001
    assert sizes[:2] == pytest.approx(1.5)


def test_nifti2_holds_the_scan_on_other_axes(base: Base, tmp_path: Path) -> None:
    image = nib.load(tmp_path / make("nifti2-big-endian-psr", base, tmp_path).scan)
    assert isinstance(image, nib.Nifti2Image)
    assert image.header.endianness == ">"
    assert "".join(nib.aff2axcodes(image.affine)) == "PSR"
    data = np.asarray(nib.as_closest_canonical(image).dataobj)
    np.testing.assert_allclose(data, base.data * 255 / base.data.max(), atol=0.05)


def test_a_defaced_head_has_zero_air_and_its_whole_brain(base: Base, tmp_path: Path) -> None:
    data = made_data("defaced", base, tmp_path)
    np.testing.assert_array_equal(data[base.brain], base.data[base.brain])
    assert 0.2 < (data == 0).mean() < 0.95
    assert np.count_nonzero(data[:, 45:, :20]) < np.count_nonzero(base.data[:, 45:, :20])
    tight = made_data("defaced-tight", base, tmp_path)
    assert np.count_nonzero(tight) * 0.064 == pytest.approx(2200, rel=0.05)


@pytest.mark.parametrize("name", ["speckles", "noise-voxels", "far-voxel"])
def test_specks_are_outside_the_brain(name: str, base: Base, tmp_path: Path) -> None:
    data = made_data(name, base, tmp_path)
    assert np.all(data[base.brain] == base.data[base.brain])
    assert np.any(data != base.data)


@pytest.mark.parametrize("one", field_scans.INPUTS, ids=lambda one: one.name)
def test_every_input_is_a_readable_file_and_a_command(one: FieldInput, base: Base, tmp_path: Path) -> None:
    made = one.make(base, tmp_path)
    assert "slant segment $OPTIONS" in made.command
    assert (tmp_path / made.scan).stat().st_size > 10_000
    assert one.expected
