"""The geometry of a scan: damaged forms, units, contradictions and limits of the voxel size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from headers import SHAPE, nifti_header, oblique, write_nifti
from toy import noise, save

from slant.errors import GeometryError
from slant.grid import Grid
from slant.io.read import Scan, read_label_map, read_scan
from slant.io.write import write_image
from slant.volume import LabelMap

SFORM = ("srow_x", "srow_y", "srow_z")
QUATERNION = ("quatern_b", "quatern_c", "quatern_d")


def native(scan: Scan) -> Grid:
    """Grid of the header for results, which is on the axes of the file."""
    return Grid(SHAPE, scan.header.get_best_affine())


def fields(names: tuple[str, ...], value: float) -> dict[str, Any]:
    return dict.fromkeys(names, value)


# Forms


def test_form_disagreement_is_reported_and_sform_used(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    shifted = affine.copy()
    shifted[:3, 3] = 3, 4, 0
    header = nifti_header(shifted)
    header.set_sform(affine, 2)
    scan = read_scan(write_nifti(tmp_path / "a.nii", header))
    assert scan.warnings == ("sform and qform disagree by up to 5.0 mm; the sform (code 2) is used",)
    np.testing.assert_array_equal(scan.volume.grid.ras_from_voxel, affine)


@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 50])
def test_a_quaternion_longer_than_1_by_rounding_is_used(tmp_path: Path, kind: type, steps: int) -> None:
    """The length of this one is 1 plus the smallest step of a float64, which nibabel refuses."""
    header = nifti_header(np.eye(4), (0, 1), kind)
    for name, value in zip(QUATERNION, (0.43794629902856874, -0.8594892275583027, 0.2635930706191125), strict=True):
        header[name] = value * (1 + steps * np.finfo(header[name].dtype).eps)
    scan = read_scan(write_nifti(tmp_path / "a.nii", header))
    assert scan.warnings == ()
    assert np.isfinite(native(scan).ras_from_voxel).all()


def test_unset_qform_gives_no_warning(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", noise(), codes=(1, 0))
    assert read_scan(path).warnings == ()


def test_qform_is_used_where_the_sform_is_unset(tmp_path: Path, oblique_grid: Grid) -> None:
    scan = read_scan(save(tmp_path / "a.nii", noise(), oblique_grid.ras_from_voxel, codes=(0, 2)))
    assert native(scan).same_as(oblique_grid)
    assert scan.warnings == ()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (fields(SFORM, 0.0), "all of its values are 0"),
        (fields(SFORM, np.nan), "it has values that are not finite"),
        ({"srow_y": [0.1, 0.2, 0.3, 4]} | {"srow_z": [0.2, 0.4, 0.6, 4]}, "it is not invertible"),
        ({"sform_code": 9}, "its code is 9, expected 0 to 5"),
    ],
)
def test_the_qform_is_used_where_the_sform_is_damaged(tmp_path: Path, damage: dict[str, Any], reason: str) -> None:
    affine = oblique()
    scan = read_scan(write_nifti(tmp_path / "a.nii", nifti_header(affine, **damage)))
    assert scan.warnings == (f"the sform is damaged: {reason}; the qform (code 1) is used",)
    assert native(scan).same_as(Grid(SHAPE, affine))
    assert int(scan.header["sform_code"]) == 0
    assert not any(scan.header[name].any() for name in SFORM)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (fields(QUATERNION, 2.0), "its quaternion is longer than 1"),
        (fields(QUATERNION, np.nan), "it has values that are not finite"),
        ({"qoffset_y": np.inf}, "it has values that are not finite"),
        ({"pixdim": [1, 0.9, 0, 1.5, 0, 0, 0, 0]}, "a voxel size in pixdim is 0"),
        ({"pixdim": [1, 0.9, np.nan, 1.5, 0, 0, 0, 0]}, "it has values that are not finite"),
        ({"qform_code": 77}, "its code is 77, expected 0 to 5"),
    ],
)
def test_the_sform_is_used_where_the_qform_is_damaged(tmp_path: Path, damage: dict[str, Any], reason: str) -> None:
    affine = oblique()
    scan = read_scan(write_nifti(tmp_path / "a.nii", nifti_header(affine, **damage)))
    assert scan.warnings == (f"the qform is damaged: {reason}; the sform (code 1) is used",)
    assert native(scan).same_as(Grid(SHAPE, affine))
    np.testing.assert_allclose(scan.header["pixdim"][1:4], (0.9, 1.1, 1.5), rtol=1e-6)
    assert (int(scan.header["qform_code"]), float(scan.header["quatern_b"])) == (0, 0)


def test_a_quaternion_that_is_too_long_by_rounding_is_not_damaged(tmp_path: Path) -> None:
    affine = np.diag([-1.1, -1.2, 1.3, 1.0])  # half a turn: the quaternion is (0, 0, 0, 1)
    header = nifti_header(affine, (0, 1), nib.Nifti2Header, quatern_d=1 + 1e-7)
    scan = read_scan(write_nifti(tmp_path / "a.nii", header))
    assert native(scan).same_as(Grid(SHAPE, affine), atol_mm=0.01)
    assert scan.warnings == ()


def test_no_orientation(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match=r"neither sform nor qform.*dcm2niix.*fslorient"):
        read_scan(save(tmp_path / "a.nii", noise(), codes=(0, 0)))


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        ((1, 1), r"the sform is damaged: all of its values are 0; the qform is damaged: it has values"),
        ((1, 0), r"the sform is damaged: all of its values are 0; the qform is not set"),
        ((0, 1), r"the sform is not set; the qform is damaged: it has values that are not finite"),
    ],
)
def test_no_usable_form(tmp_path: Path, codes: tuple[int, int], reason: str) -> None:
    header = nifti_header(oblique(), codes, **fields(SFORM, 0.0), **fields(QUATERNION, np.nan))
    with pytest.raises(GeometryError, match=rf"a\.nii: the header has no usable affine \({reason}.*convert the scan"):
        read_scan(write_nifti(tmp_path / "a.nii", header))


def test_mgz_without_orientation(tmp_path: Path) -> None:
    image = nib.MGHImage(noise(), np.eye(4))
    image.header["goodRASFlag"] = 0
    path = tmp_path / "a.mgz"
    path.write_bytes(image.header.binaryblock.ljust(284, b"\0") + noise().astype(">i2").tobytes(order="F"))
    with pytest.raises(GeometryError, match="left and right are unknown"):
        read_scan(path)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_mgz_with_a_damaged_affine(tmp_path: Path, value: float) -> None:
    header = bytearray(nib.MGHImage(noise(), np.eye(4)).header.binaryblock.ljust(284, b"\0"))
    header[42:54] = np.full(3, value, ">f4").tobytes()  # direction of the first axis
    path = tmp_path / "a.mgz"
    path.write_bytes(bytes(header) + noise().astype(">i2").tobytes(order="F"))
    with pytest.raises(GeometryError, match=r"a\.mgz: the affine of the header is damaged: it .*fslcpgeom"):
        read_scan(path)


# Results


@pytest.mark.parametrize("damage", [fields(SFORM, np.nan), fields(QUATERNION, np.nan), {"pixdim": [np.nan] * 8}])
@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 1)])
def test_results_have_a_consistent_header(tmp_path: Path, damage: dict[str, Any], codes: tuple[int, int]) -> None:
    path = write_nifti(tmp_path / "a.nii", nifti_header(oblique(), codes, **damage))
    try:
        scan = read_scan(path)
    except GeometryError:
        assert codes == ((1, 0) if "srow_x" in damage else (0, 1))
        return
    labels = LabelMap(np.ones(scan.volume.grid.shape, np.int32), scan.volume.grid)
    write_image(tmp_path / "out.nii", labels, scan)
    written = nib.load(tmp_path / "out.nii").header
    for name in (*SFORM, *QUATERNION, "qoffset_x", "pixdim"):
        assert np.isfinite(written[name]).all()
    assert read_label_map(tmp_path / "out.nii")[0].grid.same_as(scan.volume.grid)


# Units


@pytest.mark.parametrize(("unit", "name", "per_mm"), [("meter", "metres", 0.001), ("micron", "micrometres", 1000.0)])
def test_lengths_in_other_units_are_converted(tmp_path: Path, unit: str, name: str, per_mm: float) -> None:
    header = nifti_header(np.diag([per_mm, per_mm, per_mm, 1]) @ oblique())
    header.set_xyzt_units(unit)
    scan = read_scan(write_nifti(tmp_path / "a.nii", header))
    same = read_scan(write_nifti(tmp_path / "b.nii", nifti_header(oblique())))
    assert scan.volume.grid.same_as(same.volume.grid)
    assert scan.warnings == (f"the header gives lengths in {name}; they were converted to mm",)
    np.testing.assert_allclose(scan.header.get_sform(), header.get_sform())  # results overlay on the scan
    labels = LabelMap(np.ones(scan.volume.grid.shape, np.int32), scan.volume.grid)
    write_image(tmp_path / "out.nii", labels, scan)
    assert nib.load(tmp_path / "out.nii").header.get_xyzt_units()[0] == unit
    assert read_label_map(tmp_path / "out.nii")[0].grid.same_as(scan.volume.grid)


def test_a_unit_that_no_scan_can_have_is_a_mistake(tmp_path: Path) -> None:
    header = nifti_header(oblique())
    header.set_xyzt_units("meter")
    scan = read_scan(write_nifti(tmp_path / "a.nii", header))
    np.testing.assert_allclose(sorted(scan.volume.grid.voxel_size_mm), (0.9, 1.1, 1.5), rtol=1e-5)
    text = "the header gives lengths in metres, but voxels of 0.9 x 1.1 x 1.5 can only be mm; mm are used"
    assert scan.warnings == (text,)


# Contradictions


@pytest.mark.parametrize(
    ("codes", "source"), [((1, 0), "pixdim"), ((1, 1), "pixdim and the qform")], ids=["pixdim", "qform"]
)
def test_different_voxel_sizes_are_reported(tmp_path: Path, codes: tuple[int, int], source: str) -> None:
    header = nifti_header(oblique((0.88, 0.88, 0.88)), codes)
    header.set_sform(oblique((1, 1, 1)), codes[0])
    scan = read_scan(write_nifti(tmp_path / "a.nii", header))
    assert scan.volume.grid.voxel_volume_mm3 == pytest.approx(1)
    assert scan.warnings[-1] == (
        "the header contradicts itself: voxels of 1 x 1 x 1 mm by the sform, of 0.88 x 0.88 x 0.88 mm by "
        f"{source}; the sform is used; check the voxel size: all volumes depend on it"
    )


def test_voxel_sizes_that_differ_by_rounding_are_not_reported(tmp_path: Path) -> None:
    header = nifti_header(oblique((0.9, 1.1, 1.5)), (1, 0), pixdim=[1, 0.903, 1.1, 1.499, 1, 1, 1, 1])
    assert read_scan(write_nifti(tmp_path / "a.nii", header)).warnings == ()


def test_missing_voxel_sizes_are_reported(tmp_path: Path) -> None:
    scan = read_scan(write_nifti(tmp_path / "a.nii", nifti_header(oblique(), (1, 0), pixdim=[0.0] * 8)))
    assert scan.warnings == (
        "pixdim has no voxel size; that of the sform, 0.9 x 1.1 x 1.5 mm, is used; check the voxel size: all volumes "
        "depend on it",
    )
    np.testing.assert_allclose(scan.header["pixdim"][:4], (1, 0.9, 1.1, 1.5), rtol=1e-6)


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0])], ids=["NumPy", "ITK"])
@pytest.mark.parametrize("suffix", [".nii", ".mgz"])
def test_the_identity_is_reported(tmp_path: Path, affine: np.ndarray, suffix: str) -> None:
    kind = nib.MGHImage if suffix == ".mgz" else nib.Nifti1Image
    nib.save(kind(noise(), affine), tmp_path / f"a{suffix}")
    (warning,) = read_scan(tmp_path / f"a{suffix}").warnings
    assert warning.startswith("the affine is the identity, as programs write it that do not know the geometry")


# Limits of the voxel size


def test_large_voxels(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match=r"voxels of 1 x 1 x 6 mm are too coarse.*at most 5 mm"):
        read_scan(save(tmp_path / "a.nii", noise(), np.diag([1, 1, 6, 1])))


@pytest.mark.parametrize("edge_mm", [5.0000001, 5.004, 0.04996])
def test_limits_allow_for_rounding(tmp_path: Path, edge_mm: float) -> None:
    scan = read_scan(write_nifti(tmp_path / "a.nii", nifti_header(oblique((1.5, 1.5, edge_mm)))))
    assert edge_mm == pytest.approx(scan.volume.grid.voxel_size_mm[2])


@pytest.mark.parametrize("edge_mm", [0.00088, 0.01])
def test_small_voxels(tmp_path: Path, edge_mm: float) -> None:
    with pytest.raises(GeometryError, match=r"a\.nii: voxels of 0\.\d+ x .* mm are too small.* in the unit that it"):
        read_scan(write_nifti(tmp_path / "a.nii", nifti_header(oblique((edge_mm,) * 3))))
