"""Scans of every orientation and format are read as RAS+; label maps lie on the grid of their scan."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from toy import noise, save

from slant.errors import GeometryError, InputError
from slant.grid import Grid
from slant.io.read import read_labels, read_scan, scan_name

pytestmark = pytest.mark.usefixtures("stored_intensities")
SHAPE = (7, 8, 9)


# Scans that are read


def test_values_keep_their_position_in_space(tmp_path: Path, oblique_grid: Grid) -> None:
    data = noise()
    data[5, 1, 7] = 5000
    scan = read_scan(save(tmp_path / "a.nii.gz", data, oblique_grid.ras_from_voxel))
    brightest = np.unravel_index(scan.volume.data.argmax(), scan.volume.data.shape)
    ras_mm = scan.volume.grid.ras_from_voxel @ [*brightest, 1]
    np.testing.assert_allclose(ras_mm, oblique_grid.ras_from_voxel @ [5, 1, 7, 1], atol=1e-4)
    assert nib.aff2axcodes(scan.volume.grid.ras_from_voxel) == ("R", "A", "S")
    assert scan.volume.data.dtype == np.float32


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz", ".mgh"])
def test_formats_give_the_same_scan(tmp_path: Path, suffix: str) -> None:
    affine = np.diag([-1.0, 1.5, 2.0, 1.0])
    path = tmp_path / f"sub-01_T1w{suffix}"
    kind = nib.MGHImage if suffix.startswith(".mg") else nib.Nifti1Image
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
def test_volume_option_selects_a_volume(tmp_path: Path, shape: tuple[int, ...]) -> None:
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
        ("sub-01_T1w.mgh", "sub-01"),
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
    kind = nib.MGHImage if path.suffix.startswith(".mg") else nib.Nifti1Image
    nib.save(kind(noise(), np.eye(4)), path)
    assert read_scan(path).name == expected


# Extensions


@pytest.mark.parametrize("file_name", ["scan.dcm", "scan", ".nii.gz", "scan.nii.gz.txt", "scan.hdr"])
def test_unsupported_extension(tmp_path: Path, file_name: str) -> None:
    with pytest.raises(InputError, match=r"expected one of \.mgh, \.mgz, \.nii, \.nii\.gz"):
        read_scan(tmp_path / file_name)


def test_error_has_the_unknown_extension() -> None:
    with pytest.raises(InputError, match=r"scan\.img: found the extension '\.img'"):
        scan_name(Path("scan.img"))


# Labels of a scan


def test_labels_are_reoriented_like_the_scan(tmp_path: Path, oblique_grid: Grid) -> None:
    scan = read_scan(save(tmp_path / "a.nii", noise(), oblique_grid.ras_from_voxel))
    ids = (noise() % 208).astype(np.float64)
    labels = read_labels(save(tmp_path / "b.nii", ids, oblique_grid.ras_from_voxel), scan)
    np.testing.assert_array_equal(labels.data, scan.volume.data.astype(int) % 208)
    assert labels.grid.same_as(scan.volume.grid)
    assert labels.data.dtype == np.int32


def test_labels_on_another_grid_are_rejected(tmp_path: Path) -> None:
    scan = read_scan(save(tmp_path / "a.nii", noise(), np.eye(4)))
    shifted = np.eye(4)
    shifted[0, 3] = 2
    with pytest.raises(GeometryError, match=r"b\.nii: found labels on a grid.*with the same affine"):
        read_labels(save(tmp_path / "b.nii", noise(), shifted), scan)


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_labels_that_are_not_integers_are_rejected(tmp_path: Path, value: float) -> None:
    scan = read_scan(save(tmp_path / "a.nii", noise(), np.eye(4)))
    with pytest.raises(InputError, match="not integers"):
        read_labels(save(tmp_path / "b.nii", np.where(noise() > 500, value, 1), np.eye(4)), scan)


def test_label_ids_beyond_32_bits(tmp_path: Path) -> None:
    scan = read_scan(save(tmp_path / "a.nii", noise()))
    with pytest.raises(InputError, match=r"b\.nii: found the value -4294967296, expected label IDs below 2\^31"):
        read_labels(save(tmp_path / "b.nii", np.where(noise() > 500, -(2.0**32), 1)), scan)


# Real scans


@pytest.mark.slow
def test_real_scans_are_read(data_dir: Path) -> None:
    paths = sorted(data_dir.rglob("*_T1w.nii.gz"))
    scans = [read_scan(path) for path in paths]
    assert len(scans) >= 43
    reported = {scan.name: scan.warnings for scan in scans if scan.warnings}
    assert reported == {"sub-27": ("sform and qform disagree by up to 7.3 mm; the sform (code 2) is used",)}
