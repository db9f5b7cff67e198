"""Whatever a header says twice, leaves out or has damaged, the scan is the same as long as one form is good."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from headers import SHAPE, nifti_header, write_nifti
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from toy import noise

from slant.grid import Grid
from slant.io.geometry import SIZES_AGREE
from slant.io.read import Scan, read_label_map, read_scan
from slant.io.write import write_image
from slant.volume import LabelMap

pytestmark = pytest.mark.usefixtures("stored_intensities")

UNITS = {"unknown": 1.0, "mm": 1.0, "meter": 0.001, "micron": 1000.0}
QFORM_MM = 0.1
"""Rounding of the quaternion in float32 near half a turn."""

SFORM_DAMAGE: tuple[dict[str, Any], ...] = (
    dict.fromkeys(("srow_x", "srow_y", "srow_z"), 0.0),
    dict.fromkeys(("srow_x", "srow_y", "srow_z"), np.nan),
    {"srow_y": np.inf},
    {"srow_z": [0.0, 0.0, 0.0, 5.0]},
    {"sform_code": 12},
)
QFORM_DAMAGE: tuple[dict[str, Any], ...] = (
    dict.fromkeys(("quatern_b", "quatern_c", "quatern_d"), np.nan),
    dict.fromkeys(("quatern_b", "quatern_c", "quatern_d"), 3.0),
    {"qoffset_x": np.nan},
    {"pixdim": [1.0, 0.0, 1.0, 1.0, 0, 0, 0, 0]},
    {"pixdim": [np.nan] * 8},
    {"qform_code": 12},
)
FORMS: tuple[tuple[tuple[int, int], dict[str, Any]], ...] = (
    *(((1, 1), {}), ((2, 0), {}), ((0, 1), {})),
    *(((1, 1), damage) for damage in SFORM_DAMAGE + QFORM_DAMAGE),
)
ORIENTATIONS = [
    np.eye(3)[:, order] @ np.diag(signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1.0, -1.0), repeat=3)
]


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Affines in mm of scans in any orientation and with any voxel size, without shear."""
    matrix = np.eye(4)
    angles = [draw(st.floats(-40, 40)) for _ in range(3)]
    sizes = [draw(st.floats(0.3, 4.9)) for _ in range(3)]
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix[:3, :3] = turn @ draw(st.sampled_from(ORIENTATIONS)) @ np.diag(sizes)
    matrix[:3, 3] = [draw(st.floats(-200, 200)) for _ in range(3)]
    return matrix


def write(path: Path, affine: np.ndarray, draw: st.DataObject) -> Path:
    """The noise with any header that has this affine in at least one usable form."""
    codes, damage = draw.draw(st.sampled_from(FORMS), label="forms")
    unit = draw.draw(st.sampled_from(sorted(UNITS)), label="unit")
    kind = draw.draw(st.sampled_from([nib.Nifti1Header, nib.Nifti2Header]), label="kind")
    gap = draw.draw(st.integers(0, 20), label="gap")
    impossible = draw.draw(st.sampled_from([None, None, 0, 17, 100_000]), label="vox_offset") if not gap else None
    header = nifti_header(np.diag([*[UNITS[unit]] * 3, 1]) @ affine, codes, kind)
    header.set_xyzt_units(unit)
    for name, value in damage.items():
        header[name] = value
    header = header.as_byteswapped(draw.draw(st.sampled_from("<>"), label="order"))
    return write_nifti(path, header, start=kind.sizeof_hdr + 4 + 16 * gap, offset=impossible)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(affine=affines(), draw=st.data(), suffix=st.sampled_from([".nii", ".nii.gz"]))
def test_every_usable_header_gives_the_same_scan(
    tmp_path: Path, affine: np.ndarray, draw: st.DataObject, suffix: str
) -> None:
    expected = read_scan(write_nifti(tmp_path / "expected.nii", nifti_header(affine)))
    path = write(tmp_path / f"a{suffix}", affine, draw)
    scan = read_scan(path)
    assert scan.volume.grid.same_as(expected.volume.grid, QFORM_MM)
    np.testing.assert_array_equal(scan.volume.data, expected.volume.data)
    labels, _ = read_label_map(path)
    assert labels.grid.same_as(scan.volume.grid)
    np.testing.assert_array_equal(labels.data, scan.volume.data)
    assert not any("contradicts" in text or "disagree" in text for text in scan.warnings)
    check_results(tmp_path / "out.nii.gz", scan)


def check_results(path: Path, scan: Scan) -> None:
    """Results lie on the scan, and all that their header says agrees."""
    ids = scan.volume.data.astype(np.int32)
    write_image(path, LabelMap(ids, scan.volume.grid), scan)
    labels, _ = read_label_map(path)
    assert labels.grid.same_as(scan.volume.grid)
    np.testing.assert_array_equal(labels.data, ids)
    header = nib.load(path).header
    sizes = np.linalg.norm(header.get_best_affine()[:3, :3], axis=0)
    np.testing.assert_allclose(header["pixdim"][1:4], sizes, rtol=1e-4)
    assert all(np.isfinite(header[name]).all() for name in ("pixdim", "srow_x", "quatern_b", "qoffset_x"))
    assert np.array_equal(np.asarray(nib.load(path).dataobj).shape, SHAPE)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(affine=affines(), draw=st.data())
def test_different_voxel_sizes_are_reported_and_rounding_is_not(
    tmp_path: Path, affine: np.ndarray, draw: st.DataObject
) -> None:
    codes = draw.draw(st.sampled_from([(1, 0), (1, 1)]), label="codes")
    axis, change = draw.draw(st.integers(0, 2), label="axis"), draw.draw(st.floats(-0.5, 0.5), label="change")
    header = nifti_header(affine, codes)
    header["pixdim"][1 + axis] *= 1 + change
    scan = read_scan(write_nifti(tmp_path / "a.nii", header))
    reported = any("the header contradicts itself" in text for text in scan.warnings)
    assert scan.volume.grid.same_as(Grid(*reoriented(affine)), 1e-3)
    if abs(abs(change) - SIZES_AGREE) > 1e-5:
        assert reported == (abs(change) > SIZES_AGREE)


def reoriented(affine: np.ndarray) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of the noise on the axes closest to RAS+."""
    image = nib.as_closest_canonical(nib.Nifti1Image(noise(SHAPE), affine))
    return image.shape, image.affine
