"""Scans of every orientation and format are read as RAS+; files that are not images are rejected with their name."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from toy import noise, save

from slant.errors import GeometryError, InputError, SlantError
from slant.grid import Grid
from slant.io.read import Scan, read_labels, read_scan, scan_name

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


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz"])
def test_formats_give_the_same_scan(tmp_path: Path, suffix: str) -> None:
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


# Files that are rejected


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no_such\.nii: no such file"):
        read_scan(tmp_path / "no_such.nii")


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "dicom.nii").mkdir()
    with pytest.raises(InputError, match=r"found a folder.*dcm2niix"):
        read_scan(tmp_path / "dicom.nii")


@pytest.mark.parametrize("file_name", ["scan.dcm", "scan", ".nii.gz", "scan.nii.gz.txt", "scan.hdr"])
def test_unsupported_extension(tmp_path: Path, file_name: str) -> None:
    with pytest.raises(InputError, match=r"expected one of \.mgz, \.nii, \.nii\.gz"):
        read_scan(tmp_path / file_name)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz"])
@pytest.mark.parametrize("content", [b"", b"subject,age\n1,20\n" * 50, gzip.compress(b"hello", mtime=0), bytes(1000)])
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
def test_truncated_voxels(tmp_path: Path, suffix: str) -> None:
    kind = nib.MGHImage if suffix == ".mgz" else nib.Nifti1Image
    content = kind(noise(), np.eye(4)).to_bytes()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content[:700])
    with pytest.raises(InputError, match=r"truncated: found 700 bytes, expected 1\d+ for shape \(7, 8, 9\)"):
        read_scan(path)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.nii", noise())

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        read_scan(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 347), damage=st.binary(min_size=1, max_size=8), mgz=st.booleans())
@example(start=297, damage=b"\x00\x81\x7f", mgz=False)  # a signalling NaN in the sform
@example(start=80, damage=b"\x00\x00\x81\x7f", mgz=False)  # and in the voxel size
def test_damaged_header_never_gives_a_traceback(tmp_path: Path, start: int, damage: bytes, mgz: bool) -> None:
    kind = nib.MGHImage if mgz else nib.Nifti1Image
    content = bytearray(kind(noise(), np.diag([-1.0, 1.5, 2.0, 1.0])).to_bytes())
    content[start : start + len(damage)] = damage
    path = tmp_path / ("a.mgz" if mgz else "a.nii")
    path.write_bytes(content)
    try:
        assert isinstance(read_scan(path), Scan)
    except SlantError as error:
        assert str(error).startswith(str(path))  # noqa: PT017


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
