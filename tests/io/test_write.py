"""Images are written atomically, exactly on the grid of the scan, with the same bytes each time."""

from __future__ import annotations

import errno
import itertools
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from slant.errors import GeometryError, OutputError
from slant.grid import Grid, axis_aligned_grid
from slant.io.read import Scan, read_scan
from slant.io.write import write_image
from slant.volume import LabelMap, Volume

pytestmark = pytest.mark.usefixtures("stored_intensities")
SHAPE = (7, 8, 9)
ORIENTATIONS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 1000, SHAPE).astype(np.int16)


def scan_at(path: Path, affine: np.ndarray, codes: tuple[int, int] = (1, 1)) -> Scan:
    image = nib.Nifti1Image(noise(), affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1])
    nib.save(image, path)
    return read_scan(path)


def oblique(order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    """Affine of voxels 1 x 1.5 x 2 mm whose axes are permuted and flipped, then rotated by 15 degrees."""
    angle = np.deg2rad(15)
    rotation = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.eye(3)[:, order] @ np.diag(signs) @ np.diag([1, 1.5, 2])
    affine[:3, 3] = 11, -7, 5
    return affine


@pytest.fixture
def scan(tmp_path: Path, oblique_grid: Grid) -> Scan:
    return scan_at(tmp_path / "scan_T1w.nii.gz", oblique_grid.ras_from_voxel)


def same_geometry(written: Path, original: Path) -> bool:
    a, b = nib.load(written).header, nib.load(original).header
    fields = ["qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"]
    fields += [f"quatern_{axis}" for axis in "bcd"] + [f"qoffset_{axis}" for axis in "xyz"]
    same = all(np.array_equal(a[field], b[field]) for field in fields)
    return same and a.get_data_shape() == b.get_data_shape() and np.array_equal(a["pixdim"][:4], b["pixdim"][:4])


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_round_trip_in_every_orientation(tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    affine = oblique(order, signs)
    scan = scan_at(tmp_path / "in.nii", affine)
    assert nib.aff2axcodes(scan.volume.grid.ras_from_voxel) == ("R", "A", "S")
    bright = np.unravel_index(noise().argmax(), SHAPE)
    found = np.unravel_index(scan.volume.data.argmax(), scan.volume.data.shape)
    np.testing.assert_allclose(scan.volume.grid.ras_from_voxel @ [*found, 1], affine @ [*bright, 1], atol=1e-4)
    write_image(tmp_path / "out.nii.gz", scan.volume, scan)
    written = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), noise())
    np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "in.nii").affine)
    assert same_geometry(tmp_path / "out.nii.gz", tmp_path / "in.nii")


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 1), (4, 4), (1, 5)])
def test_form_codes_are_kept(tmp_path: Path, oblique_grid: Grid, codes: tuple[int, int]) -> None:
    scan = scan_at(tmp_path / "in.nii", oblique_grid.ras_from_voxel, codes)
    write_image(tmp_path / "out.nii", scan.volume, scan)
    header = nib.load(tmp_path / "out.nii").header
    assert (header["sform_code"], header["qform_code"]) == codes
    assert same_geometry(tmp_path / "out.nii", tmp_path / "in.nii")


def test_disagreeing_forms_are_both_kept(tmp_path: Path, oblique_grid: Grid) -> None:
    image = nib.Nifti1Image(noise(), oblique_grid.ras_from_voxel)
    image.set_qform(oblique((1, 0, 2), (1, -1, 1)), 3)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "in.nii")
    scan = read_scan(tmp_path / "in.nii")
    write_image(tmp_path / "out.nii", scan.volume, scan)
    assert scan.warnings
    assert same_geometry(tmp_path / "out.nii", tmp_path / "in.nii")


def test_nothing_else_of_the_header_is_kept(tmp_path: Path) -> None:
    image = nib.Nifti1Image(noise(), np.eye(4))
    image.header["descrip"] = b"Doe^Jane"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Doe^Jane"))
    image.header["cal_max"] = 3
    nib.save(image, tmp_path / "in.nii")
    scan = read_scan(tmp_path / "in.nii")
    write_image(tmp_path / "out.nii", scan.volume, scan)
    assert b"Doe" not in (tmp_path / "out.nii").read_bytes()
    assert nib.load(tmp_path / "out.nii").header["cal_max"] == 0


def test_4d_input_gives_3d_results(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.stack([noise(), noise() + 1], -1), oblique((2, 0, 1), (1, -1, 1))), tmp_path / "in.nii")
    scan = read_scan(tmp_path / "in.nii", volume=1)
    write_image(tmp_path / "out.nii", scan.volume, scan)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "out.nii").dataobj), noise() + 1)


@pytest.mark.parametrize(
    ("order", "signs"), [((0, 1, 2), (-1, 1, 1)), ((2, 0, 1), (1, 1, 1)), ((0, 2, 1), (-1, 1, -1))]
)
def test_results_of_mgz_are_nifti_in_the_same_position(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    nib.save(nib.MGHImage(noise(), oblique(order, signs)), tmp_path / "in.mgz")
    scan = read_scan(tmp_path / "in.mgz")
    write_image(tmp_path / "out.nii.gz", scan.volume, scan)
    written, original = nib.load(tmp_path / "out.nii.gz"), nib.load(tmp_path / "in.mgz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), noise())
    np.testing.assert_allclose(written.affine, original.affine, atol=1e-5)
    assert (written.header["sform_code"], written.header["qform_code"]) == (1, 1)
    assert written.header.get_xyzt_units()[0] == "mm"


def test_nifti2_stays_nifti2(tmp_path: Path, oblique_grid: Grid) -> None:
    nib.save(nib.Nifti2Image(noise(), oblique_grid.ras_from_voxel), tmp_path / "in.nii")
    scan = read_scan(tmp_path / "in.nii")
    write_image(tmp_path / "out.nii", scan.volume, scan)
    assert isinstance(nib.load(tmp_path / "out.nii"), nib.Nifti2Image)
    assert same_geometry(tmp_path / "out.nii", tmp_path / "in.nii")


def test_big_endian_input_gives_the_same_geometry(tmp_path: Path, oblique_grid: Grid) -> None:
    header = nib.Nifti1Header(endianness=">")
    nib.save(nib.Nifti1Image(noise(), oblique_grid.ras_from_voxel, header), tmp_path / "in.nii")
    scan = read_scan(tmp_path / "in.nii")
    write_image(tmp_path / "out.nii", scan.volume, scan)
    assert same_geometry(tmp_path / "out.nii", tmp_path / "in.nii")


def test_template_space_is_not_marked_as_mni152(tmp_path: Path) -> None:
    grid = axis_aligned_grid(SHAPE, 1.0, (-86.095, -126.51, -68.25))
    write_image(tmp_path / "out.nii.gz", Volume(noise(), grid), None)
    written = nib.load(tmp_path / "out.nii.gz")
    assert (written.header["sform_code"], written.header["qform_code"]) == (5, 5)
    assert written.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(written.affine, grid.ras_from_voxel, atol=1e-5)
    np.testing.assert_allclose(written.get_qform(), grid.ras_from_voxel, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(written.dataobj), noise())


@pytest.mark.parametrize(("highest", "dtype"), [(207, "u1"), (255, "u1"), (256, "u2"), (65535, "u2")])
def test_labels_take_the_smallest_type(tmp_path: Path, scan: Scan, highest: int, dtype: str) -> None:
    ids = np.zeros(SHAPE, np.int64)
    ids[1, 2, 3] = highest
    write_image(tmp_path / "out.nii.gz", LabelMap(ids, scan.volume.grid), scan)
    written = nib.load(tmp_path / "out.nii.gz")
    assert written.get_data_dtype() == np.dtype(dtype)
    assert written.dataobj.slope == 1
    assert written.dataobj.inter == 0
    assert np.asarray(written.dataobj).max() == highest


def test_intensities_are_unscaled_float32(tmp_path: Path, scan: Scan) -> None:
    values = np.random.default_rng(1).normal(0, 1e-3, SHAPE).astype(np.float32)
    write_image(tmp_path / "out.nii", Volume(values, scan.volume.grid), scan)
    written = nib.load(tmp_path / "out.nii")
    assert written.get_data_dtype() == np.float32
    assert (written.dataobj.slope, written.dataobj.inter) == (1, 0)
    np.testing.assert_array_equal(np.sort(np.asarray(written.dataobj), None), np.sort(values, None))


def test_same_input_same_bytes(tmp_path: Path, scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    for data, like in ((scan.volume, scan), (LabelMap(noise(), scan.volume.grid), None)):
        write_image(tmp_path / "first.nii.gz", data, like)
        with monkeypatch.context() as later:
            later.setattr(time, "time", lambda: 2e9)
            write_image(tmp_path / "other" / "second.nii.gz", data, like)
        assert (tmp_path / "first.nii.gz").read_bytes() == (tmp_path / "other" / "second.nii.gz").read_bytes()


def test_scan_is_unchanged_by_writing(tmp_path: Path, scan: Scan) -> None:
    before = scan.header.binaryblock
    write_image(tmp_path / "out.nii.gz", LabelMap(noise(), scan.volume.grid), scan)
    assert scan.header.binaryblock == before


@pytest.mark.parametrize("change", ["shifted", "smaller"])
def test_image_on_another_grid_is_rejected(tmp_path: Path, scan: Scan, change: str) -> None:
    matrix = scan.volume.grid.ras_from_voxel.copy()
    matrix[0, 3] += change == "shifted"
    shape = SHAPE if change == "shifted" else (7, 8, 8)
    with pytest.raises(GeometryError, match=r"does not belong to .*scan_T1w\.nii\.gz"):
        write_image(tmp_path / "out.nii", Volume(np.zeros(shape), Grid(shape, matrix)), scan)
    assert not (tmp_path / "out.nii").exists()


@pytest.mark.parametrize("bad", [-1, 65536])
def test_ids_that_do_not_fit_are_rejected(tmp_path: Path, scan: Scan, bad: int) -> None:
    with pytest.raises(OutputError, match=rf"{bad}.*expected 0 to 65535"):
        write_image(tmp_path / "out.nii", LabelMap(np.where(noise() > 500, bad, 1), scan.volume.grid), scan)


def test_other_extension_is_rejected(tmp_path: Path, scan: Scan) -> None:
    with pytest.raises(OutputError, match=r"expected a name that ends in \.nii\.gz or \.nii"):
        write_image(tmp_path / "out.mgz", scan.volume, scan)


def test_missing_folder(tmp_path: Path, scan: Scan) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*No such file or directory; check free space"):
        write_image(tmp_path / "nowhere" / "out.nii", scan.volume, scan)


def test_folder_that_is_a_file(tmp_path: Path, scan: Scan) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="Not a directory"):
        write_image(tmp_path / "file" / "out.nii", scan.volume, scan)


def test_unwritable_folder(tmp_path: Path, scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        write_image(tmp_path / "out.nii", scan.volume, scan)


def test_full_disk_leaves_the_old_file_and_no_partial_file(
    tmp_path: Path, scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results" / "out.nii.gz"
    path.parent.mkdir()
    path.write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match=r"cannot write .*out\.nii\.gz: No space left on device; check free space"):
        write_image(path, scan.volume, scan)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no limit of file sizes")
def test_interrupted_writing_leaves_no_partial_file(tmp_path: Path, scan: Scan) -> None:
    import resource

    before = sorted(tmp_path.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(OutputError, match="File too large"):
            write_image(tmp_path / "out.nii", scan.volume, scan)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(tmp_path.iterdir()) == before


def test_old_file_is_replaced(tmp_path: Path, scan: Scan) -> None:
    (tmp_path / "out.nii").write_text("old")
    write_image(tmp_path / "out.nii", scan.volume, scan)
    assert nib.load(tmp_path / "out.nii").shape == SHAPE
    (tmp_path / "ordinary").write_text("")
    assert (tmp_path / "out.nii").stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    (tmp_path / "ordinary").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.nii", "scan_T1w.nii.gz"]
