"""Scans of every orientation and format come in as RAS+, and what is no T1w scan is refused by name."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slant.errors import GeometryError, InputError, SlantError
from slant.grid import Grid
from slant.io.checks import MAX_NONFINITE_SHARE
from slant.io.read import Scan, read_labels, read_scan, scan_name

SHAPE = (7, 8, 9)


def noise(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 1000, shape).astype(np.int16)


def save(path: Path, data: np.ndarray, affine: Any = None, codes: tuple[int, int] = (1, 1)) -> Path:
    affine = np.diag([-1.0, 1.1, 1.2, 1.0]) if affine is None else affine
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1])
    nib.save(image, path)
    return path


def blocks(shape: tuple[int, int, int] = (12, 14, 16)) -> np.ndarray:
    """A label map of 16 patches with ids as far apart as BrainCOLOR's, around them 0."""
    coarse = np.random.default_rng(3).permutation(np.arange(1, 17) * 12).reshape(2, 2, 4)
    data = np.zeros(shape, np.int16)
    data[2:10, 2:12, 2:14] = coarse.repeat(4, 0).repeat(5, 1).repeat(3, 2)
    return data


def head_ct() -> np.ndarray:
    """A sphere of brain in a shell of bone in air, in Hounsfield units, padded as scanners do."""
    rng = np.random.default_rng(1)
    radius = np.linalg.norm(np.indices((24, 26, 28)) - np.array([12, 13, 14]).reshape(3, 1, 1, 1), axis=0)
    data = np.select([radius < 9, radius < 10, radius > 17], [35.0, 900.0, -2000.0], -1000.0)
    return (data + rng.normal(0, 8, data.shape) * (data > -2000)).astype(np.int16)


# What comes in


def test_values_keep_their_place_in_the_world(tmp_path: Path, oblique_grid: Grid) -> None:
    data = noise()
    data[5, 1, 7] = 5000
    scan = read_scan(save(tmp_path / "a.nii.gz", data, oblique_grid.ras_from_voxel))
    brightest = np.unravel_index(scan.volume.data.argmax(), scan.volume.data.shape)
    place = scan.volume.grid.ras_from_voxel @ [*brightest, 1]
    np.testing.assert_allclose(place, oblique_grid.ras_from_voxel @ [5, 1, 7, 1], atol=1e-4)
    assert nib.aff2axcodes(scan.volume.grid.ras_from_voxel) == ("R", "A", "S")
    assert scan.volume.data.dtype == np.float32


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz"])
def test_formats_agree(tmp_path: Path, suffix: str) -> None:
    affine = np.diag([-1.0, 1.5, 2.0, 1.0])
    path = tmp_path / f"sub-01_T1w{suffix}"
    kind = nib.MGHImage if suffix == ".mgz" else nib.Nifti1Image
    nib.save(kind(noise(), affine), path)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.volume.data, noise()[::-1])
    np.testing.assert_allclose(scan.header.get_sform(), affine, atol=1e-5)
    assert scan.name == "sub-01"
    assert scan.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert scan.warnings == ()


@pytest.mark.parametrize("compressed_as", [".nii", ".NII.GZ"])
def test_content_decides_whether_it_is_compressed(tmp_path: Path, compressed_as: str) -> None:
    plain = save(tmp_path / "a.nii", noise()).read_bytes()
    path = tmp_path / f"b{compressed_as}"
    path.write_bytes(gzip.compress(plain) if compressed_as == ".nii" else plain)
    np.testing.assert_array_equal(read_scan(path).volume.data, noise()[::-1])


@pytest.mark.parametrize("dtype", ["u1", ">i2", "u2", "i4", "i8", "f4", ">f8"])
def test_number_types_are_read_as_float32(tmp_path: Path, dtype: str) -> None:
    data = (noise() % 250).astype(dtype)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    image = nib.Nifti1Image(data, affine, dtype=np.dtype(dtype))
    nib.save(image, tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii")
    np.testing.assert_array_equal(scan.volume.data, data.astype(np.float32))


def test_big_endian_header_is_read(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.dtype(">i2"))
    nib.save(nib.Nifti1Image(noise(), np.diag([1.0, 2.0, 3.0, 1.0]), header), tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii")
    assert scan.volume.grid.voxel_size_mm == (1, 2, 3)
    np.testing.assert_array_equal(scan.volume.data, noise())


def test_nifti2_is_read(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(noise(), np.eye(4)), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_scan(tmp_path / "a.nii.gz").volume.data, noise())


def test_scaling_is_applied(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", noise(), np.eye(4))
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([0.5, -3], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(content)
    np.testing.assert_array_equal(read_scan(path).volume.data, noise() * np.float32(0.5) - 3)


def test_single_volume_in_4d_is_taken(tmp_path: Path) -> None:
    scan = read_scan(save(tmp_path / "a.nii", noise((*SHAPE, 1)), np.eye(4)))
    np.testing.assert_array_equal(scan.volume.data, noise((*SHAPE, 1))[..., 0])


@pytest.mark.parametrize("shape", [(*SHAPE, 3), (*SHAPE, 1, 3)])
def test_volume_option_picks(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save(tmp_path / "a.nii", noise(shape), np.eye(4))
    scan = read_scan(path, volume=1)
    np.testing.assert_array_equal(scan.volume.data, noise(shape).reshape(*SHAPE, 3)[..., 1])
    assert scan.header.get_data_shape() == SHAPE


def test_scan_can_be_sent_to_another_process(tmp_path: Path) -> None:
    scan = read_scan(save(tmp_path / "a.nii", noise()))
    sent = pickle.loads(pickle.dumps(scan))  # noqa: S301
    assert sent.volume.grid.same_as(scan.volume.grid)
    assert sent.header == scan.header


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [
        ("sub-01_T1w.nii.gz", "sub-01"),
        ("sub-01_acq-x_T1w.mgz", "sub-01_acq-x"),
        ("T1w.nii", "T1w"),
        ("_T1w.nii", "_T1w"),
        ("my scan (2).v1.5.nii.gz", "my scan (2).v1.5"),
        ("Jürgen Ørsted 脳_T1w.nii", "Jürgen Ørsted 脳"),
        ("T1w_T1w_b.NII.GZ", "T1w_T1w_b"),
    ],
)
def test_names(tmp_path: Path, file_name: str, expected: str) -> None:
    path = tmp_path / file_name
    nib.save(nib.MGHImage(noise(), np.eye(4)) if path.suffix == ".mgz" else nib.Nifti1Image(noise(), np.eye(4)), path)
    assert read_scan(path).name == expected


# What is doubtful


def test_form_disagreement_is_reported_and_sform_used(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    image = nib.Nifti1Image(noise(), affine)
    image.set_sform(affine, 2)
    moved = affine.copy()
    moved[:3, 3] = 3, 4, 0
    image.set_qform(moved, 1)
    nib.save(image, tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii")
    assert scan.warnings == ("sform and qform disagree by up to 5.0 mm; the sform (code 2) is used",)
    np.testing.assert_array_equal(scan.volume.grid.ras_from_voxel, affine)


def test_unset_qform_is_no_disagreement(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", noise(), codes=(1, 0))
    assert read_scan(path).warnings == ()


def test_qform_is_used_where_the_sform_is_unset(tmp_path: Path, oblique_grid: Grid) -> None:
    path = save(tmp_path / "a.nii", noise(), oblique_grid.ras_from_voxel, codes=(0, 2))
    home = Grid(SHAPE, read_scan(path).header.get_best_affine())
    assert home.same_as(oblique_grid)


def test_damaged_qform_is_reported(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", noise())
    content = bytearray(path.read_bytes())
    content[256:268] = np.array([2, 2, 2], "<f4").tobytes()  # a quaternion longer than 1
    path.write_bytes(content)
    assert read_scan(path).warnings == ("the qform is damaged; the sform (code 1) is used",)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_few_nonfinite_voxels_are_repaired(tmp_path: Path, bad: float) -> None:
    data = noise((10, 11, 12)).astype(np.float32)
    data[1, 2, 3] = bad
    scan = read_scan(save(tmp_path / "a.nii", data, np.eye(4)))
    assert scan.warnings == ("1 NaN or infinite voxels were replaced by 0",)
    assert scan.volume.data[1, 2, 3] == 0
    assert np.isfinite(scan.volume.data).all()


def test_many_nonfinite_voxels_are_refused(tmp_path: Path) -> None:
    data = noise((10, 11, 12)).astype(np.float32)
    data.ravel()[: int(MAX_NONFINITE_SHARE * data.size) + 1] = np.nan
    with pytest.raises(InputError, match=r"2 NaN or infinite voxels \(0\.15%\), wanted at most 0\.1%"):
        read_scan(save(tmp_path / "a.nii", data))


def test_values_beyond_float32_count_as_infinite(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="infinite voxels"):
        read_scan(save(tmp_path / "a.nii", noise().astype(np.float64) * 1e300))


# What is refused


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no_such\.nii: no such file"):
        read_scan(tmp_path / "no_such.nii")


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "dicom.nii").mkdir()
    with pytest.raises(InputError, match=r"found a folder.*dcm2niix"):
        read_scan(tmp_path / "dicom.nii")


@pytest.mark.parametrize("file_name", ["scan.dcm", "scan", ".nii.gz", "scan.nii.gz.txt", "scan.hdr"])
def test_unsupported_extension(tmp_path: Path, file_name: str) -> None:
    with pytest.raises(InputError, match=r"wanted one of \.mgz, \.nii, \.nii\.gz"):
        read_scan(tmp_path / file_name)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz"])
@pytest.mark.parametrize("content", [b"", b"subject,age\n1,20\n" * 50, gzip.compress(b"hello"), bytes(1000)])
def test_not_an_image(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match="neither NIfTI nor MGZ"):
        read_scan(path)


def test_header_of_a_pair(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(noise(), np.eye(4)), tmp_path / "a.hdr")
    (tmp_path / "a.hdr").rename(tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"half of a \.hdr/\.img pair"):
        read_scan(tmp_path / "a.nii")


@pytest.mark.parametrize("kept", [0.1, 0.6, 0.99])
def test_truncated_gzip(tmp_path: Path, kept: float) -> None:
    path = save(tmp_path / "a.nii.gz", noise())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match="damaged or incomplete"):
        read_scan(path)


def test_wrong_gzip_checksum(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", noise())
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged or incomplete.*CRC"):
        read_scan(path)


@pytest.mark.parametrize("suffix", [".nii", ".mgz"])
def test_truncated_inside(tmp_path: Path, suffix: str) -> None:
    kind = nib.MGHImage if suffix == ".mgz" else nib.Nifti1Image
    content = kind(noise(), np.eye(4)).to_bytes()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content[:700])
    with pytest.raises(InputError, match=r"truncated: found 700 bytes, wanted 1\d+ for shape \(7, 8, 9\)"):
        read_scan(path)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.nii", noise())

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        read_scan(path)


@pytest.mark.parametrize("shape", [(7, 8), (7, 8, 1), (7, 1, 9), (504,)])
def test_flat_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"found a [12]D image of shape .*wanted a 3D scan"):
        read_scan(save(tmp_path / "a.nii", noise(shape)))


def test_several_volumes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", noise((*SHAPE, 3)))
    with pytest.raises(InputError, match=r"found 3 volumes.*--volume N, N from 0 to 2"):
        read_scan(path)


@pytest.mark.parametrize("volume", [-1, 3])
@pytest.mark.parametrize("shape", [(*SHAPE, 3), SHAPE])
def test_volume_that_is_not_there(tmp_path: Path, volume: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=f"there is no volume {volume}: the file holds"):
        read_scan(save(tmp_path / "a.nii", noise(shape)), volume=volume)


@pytest.mark.parametrize(
    ("dtype", "found"),
    [(np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]), "colour"), (np.dtype("complex64"), "complex64")],
)
def test_colour_and_complex(tmp_path: Path, dtype: np.dtype[Any], found: str) -> None:
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, dtype), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(InputError, match=f"found {found}.*one real number a voxel"):
        read_scan(tmp_path / "a.nii")


def test_no_orientation(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match=r"neither sform nor qform.*dcm2niix.*fslorient"):
        read_scan(save(tmp_path / "a.nii", noise(), codes=(0, 0)))


def test_mgz_without_orientation(tmp_path: Path) -> None:
    image = nib.MGHImage(noise(), np.eye(4))
    image.header["goodRASFlag"] = 0
    path = tmp_path / "a.mgz"
    path.write_bytes(image.header.binaryblock.ljust(284, b"\0") + noise().astype(">i2").tobytes(order="F"))
    with pytest.raises(GeometryError, match="left and right are unknown"):
        read_scan(path)


@pytest.mark.parametrize("damage", [0.0, np.nan])
def test_singular_affine(tmp_path: Path, damage: float) -> None:
    path = save(tmp_path / "a.nii", noise())
    content = bytearray(path.read_bytes())
    content[280:296] = np.full(4, damage, "<f4").tobytes()  # srow_x
    path.write_bytes(content)
    with pytest.raises(GeometryError, match=r"a\.nii: .*affine.*convert the scan again"):
        read_scan(path)


def test_large_voxels(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match=r"voxels of 1 x 1 x 6 mm are too coarse.*at most 5 mm"):
        read_scan(save(tmp_path / "a.nii", noise(), np.diag([1, 1, 6, 1])))


@pytest.mark.parametrize("value", [0, 7])
def test_constant_image(tmp_path: Path, value: int) -> None:
    with pytest.raises(InputError, match=f"every voxel is {value}"):
        read_scan(save(tmp_path / "a.nii", np.full(SHAPE, value, np.int16)))


@pytest.mark.parametrize("dtype", ["u1", "i2", "f8"])
def test_label_map_or_mask(tmp_path: Path, dtype: str) -> None:
    for data in (blocks(), blocks() > 0, np.where(blocks() == 0, 200, blocks())):
        with pytest.raises(InputError, match=r"looks like a label map or mask: about \d+ whole numbers"):
            read_scan(save(tmp_path / "a.nii", data.astype(dtype)))


def test_scan_of_few_grey_values_is_no_label_map(tmp_path: Path) -> None:
    data = np.where(blocks() > 0, noise((12, 14, 16)) % 32, 0).astype(np.uint8)
    assert read_scan(save(tmp_path / "a.nii", data)).volume.data.max() == 31


def test_ct(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="looks like a CT in Hounsfield units"):
        read_scan(save(tmp_path / "a.nii", head_ct()))


@pytest.mark.parametrize("change", ["no bone", "no air", "offset"])
def test_signed_scan_without_all_marks_of_a_ct_is_read(tmp_path: Path, change: str) -> None:
    data = head_ct().astype(np.int32)
    if change == "no bone":
        data[data > 300] = -500
    elif change == "no air":
        data[(data < -900) & (data > -1100)] += 500
    else:
        data -= 3000
    read_scan(save(tmp_path / "a.nii", data.astype(np.int16)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 347), damage=st.binary(min_size=1, max_size=8), mgz=st.booleans())
def test_damaged_header_never_ends_in_a_traceback(tmp_path: Path, start: int, damage: bytes, mgz: bool) -> None:
    kind = nib.MGHImage if mgz else nib.Nifti1Image
    content = bytearray(kind(noise(), np.diag([-1.0, 1.5, 2.0, 1.0])).to_bytes())
    content[start : start + len(damage)] = damage
    path = tmp_path / ("a.mgz" if mgz else "a.nii")
    path.write_bytes(content)
    try:
        assert isinstance(read_scan(path), Scan)
    except SlantError as error:
        assert str(error).startswith(str(path))  # noqa: PT017


# Labels that belong to a scan


def test_labels_follow_the_scan_to_its_axes(tmp_path: Path, oblique_grid: Grid) -> None:
    scan = read_scan(save(tmp_path / "a.nii", noise(), oblique_grid.ras_from_voxel))
    ids = (noise() % 208).astype(np.float64)
    labels = read_labels(save(tmp_path / "b.nii", ids, oblique_grid.ras_from_voxel), scan)
    np.testing.assert_array_equal(labels.data, scan.volume.data.astype(int) % 208)
    assert labels.grid.same_as(scan.volume.grid)
    assert labels.data.dtype == np.int32


def test_labels_elsewhere_are_refused(tmp_path: Path) -> None:
    scan = read_scan(save(tmp_path / "a.nii", noise(), np.eye(4)))
    moved = np.eye(4)
    moved[0, 3] = 2
    with pytest.raises(GeometryError, match=r"b\.nii: found labels on a grid.*in the same place"):
        read_labels(save(tmp_path / "b.nii", noise(), moved), scan)


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_labels_that_are_not_whole_are_refused(tmp_path: Path, value: float) -> None:
    scan = read_scan(save(tmp_path / "a.nii", noise(), np.eye(4)))
    with pytest.raises(InputError, match="not whole"):
        read_labels(save(tmp_path / "b.nii", np.where(noise() > 500, value, 1), np.eye(4)), scan)


# Real scans


@pytest.mark.slow
def test_real_scans_are_read(data_dir: Path) -> None:
    paths = sorted(data_dir.rglob("*_T1w.nii.gz"))
    scans = [read_scan(path) for path in paths]
    assert len(scans) >= 43
    reported = {scan.name: scan.warnings for scan in scans if scan.warnings}
    assert reported == {"sub-27": ("sform and qform disagree by up to 7.3 mm; the sform (code 2) is used",)}


@pytest.mark.slow
def test_real_label_maps_are_refused(data_dir: Path) -> None:
    paths = [*data_dir.rglob("*_dseg.nii.gz"), *(data_dir / "slant-reference" / "tiles").glob("*.nii.gz")]
    assert len(paths) >= 43
    for path in paths:
        with pytest.raises(InputError, match="label map"):
            read_scan(path)


def test_unnamed_extension_is_named() -> None:
    with pytest.raises(InputError, match=r"scan\.img: found the extension '\.img'"):
        scan_name(Path("scan.img"))
