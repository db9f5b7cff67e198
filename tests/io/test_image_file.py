"""Image files are complete, and their voxels are found where the header says or must mean."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from headers import SHAPE, nifti_bytes, nifti_header, oblique, write_nifti
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from toy import noise, save

from slant.errors import InputError, SlantError
from slant.io.read import Scan, read_label_map, read_scan

KINDS = [nib.Nifti1Header, nib.Nifti2Header]


def warnings_of(path: Path) -> tuple[str, ...]:
    """Warnings about a scan whose voxels are those of the noise."""
    np.testing.assert_array_equal(read_label_map(path)[0].data[::-1], noise())
    return read_scan(path).warnings


# gzip


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
    with pytest.raises(InputError, match=r"damaged or incomplete.*data check"):
        read_scan(path)


def test_bytes_after_the_end_are_a_warning(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", noise())
    path.write_bytes(path.read_bytes() + b"END OF FILE\n")
    (warning,) = warnings_of(path)
    assert warning.startswith("the 12 bytes after the end of the compressed data")


def test_several_members(tmp_path: Path) -> None:
    content = save(tmp_path / "a.nii", noise()).read_bytes()
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"".join(gzip.compress(content[i : i + 100]) for i in range(0, len(content), 100)))
    assert warnings_of(path) == ()


# Where the voxels begin


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gap", [0, 16, 48, 1000])
def test_possible_offsets(tmp_path: Path, kind: type[nib.Nifti1Header], gap: int) -> None:
    start = kind.sizeof_hdr + 4 + gap
    assert warnings_of(write_nifti(tmp_path / "a.nii", nifti_header(oblique(), kind=kind), start=start)) == ()


@pytest.mark.parametrize(
    ("kind", "offset"),
    [(kind, offset) for kind in KINDS for offset in (0, 4, -352, 348, 10_000)]
    + [(nib.Nifti1Header, np.nan), (nib.Nifti1Header, np.inf)],  # an integer in NIfTI-2
)
def test_impossible_offsets_are_corrected(tmp_path: Path, kind: type[nib.Nifti1Header], offset: float) -> None:
    header = nifti_header(oblique(), kind=kind)
    (warning,) = warnings_of(write_nifti(tmp_path / "a.nii", header, offset=offset))
    start = kind.sizeof_hdr + 4
    text = f"vox_offset is {offset:g}, which is impossible in this file; the voxels are read from byte {start}"
    assert warning == text


def test_voxels_right_after_the_header(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", nifti_header(oblique()), start=348, offset=0)
    (warning,) = warnings_of(path)
    assert warning.endswith("read from byte 348")


@pytest.mark.parametrize("trailing", [0, 7])
@pytest.mark.parametrize("order", ["<", ">"])
def test_voxels_after_extensions(tmp_path: Path, order: str, trailing: int) -> None:
    header = nifti_header(oblique()).as_byteswapped(order)
    content = bytearray(nifti_bytes(header, noise(), start=352 + 48, offset=0))
    content[348] = 1
    for position, size in ((352, 32), (384, 16)):
        content[position : position + 4] = np.array(size, f"{order}i4").tobytes()
    (tmp_path / "a.nii").write_bytes(bytes(content) + bytes(trailing))
    (warning,) = warnings_of(tmp_path / "a.nii")
    assert warning.endswith("read from byte 400")


@pytest.mark.parametrize("size", [3, 17, 2**30])
def test_damaged_extensions(tmp_path: Path, size: int) -> None:
    content = bytearray(nifti_bytes(nifti_header(oblique()), noise(), start=368))
    content[348], content[352:356] = 1, np.array(size, "<i4").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    assert warnings_of(tmp_path / "a.nii") == ()


@pytest.mark.parametrize("offset", [0, 352, 10_000, np.nan])
def test_an_offset_does_not_hide_that_a_file_is_truncated(tmp_path: Path, offset: float) -> None:
    path = write_nifti(tmp_path / "a.nii", nifti_header(oblique()), offset=offset)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"truncated: found 1359 bytes, expected 1\d+ for shape \(7, 8, 9\)"):
        read_scan(path)


@pytest.mark.parametrize("suffix", [".nii", ".mgz"])
def test_truncated_voxels(tmp_path: Path, suffix: str) -> None:
    kind = nib.MGHImage if suffix == ".mgz" else nib.Nifti1Image
    content = kind(noise(), np.eye(4)).to_bytes()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content[:700])
    with pytest.raises(InputError, match=r"truncated: found 700 bytes, expected 1\d+ for shape \(7, 8, 9\)"):
        read_scan(path)


# Damage


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.nii", noise())

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        read_scan(path)


@pytest.mark.parametrize("fields", [{"pixdim": [0, 0.9, 1.1, 1.5, 0, 0, 0, 0]}, {"bitpix": 0}, {"sizeof_hdr": 0}])
def test_what_is_not_used_is_not_reported(
    tmp_path: Path, fields: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    assert warnings_of(write_nifti(tmp_path / "a.nii", nifti_header(oblique(), (1, 0), **fields))) == ()
    assert capfd.readouterr() == ("", "")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 347), damage=st.binary(min_size=1, max_size=8), mgz=st.booleans())
@example(start=297, damage=b"\x00\x81\x7f", mgz=False)  # a signalling NaN in the sform
@example(start=80, damage=b"\x00\x00\x81\x7f", mgz=False)  # and in the voxel size
def test_damaged_header_never_gives_a_traceback(tmp_path: Path, start: int, damage: bytes, mgz: bool) -> None:
    kind = nib.MGHImage if mgz else nib.Nifti1Image
    content = bytearray(kind(noise(SHAPE), np.diag([-1.0, 1.5, 2.0, 1.0])).to_bytes())
    content[start : start + len(damage)] = damage
    path = tmp_path / ("a.mgz" if mgz else "a.nii")
    path.write_bytes(content)
    try:
        assert isinstance(read_scan(path), Scan)
    except SlantError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
