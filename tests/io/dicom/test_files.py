"""Which files of a folder are DICOM: compressed ones too, and what is said about the others."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from dicoms import t1, write_series

from slant.errors import InputError
from slant.io.dicom.convert import read_dicom
from slant.io.dicom.files import dicom_bytes, files_below, has_preamble, missing_warnings

KEY = "MD5E-s158--0123456789abcdef0123456789abcdef.dcm"
POINTER = f"/annex/objects/{KEY}\n"


def compress(path: Path) -> Path:
    target = path.with_name(f"{path.name}.gz")
    target.write_bytes(gzip.compress(path.read_bytes(), 1))
    path.unlink()
    return target


def link(path: Path) -> None:
    path.symlink_to(f"../.git/annex/objects/aB/cD/{KEY}/{KEY}")


@pytest.mark.parametrize("every", [1, 2], ids=["all", "mixed"])
def test_compressed_files_are_the_same_scan(tmp_path: Path, every: int) -> None:
    images = t1()
    plain = read_dicom(write_series(tmp_path / "plain", images))
    folder = write_series(tmp_path / "compressed", images)
    for path in sorted(folder.iterdir())[::every]:
        compress(path)
    scan = read_dicom(folder)
    np.testing.assert_array_equal(scan.volume.data, plain.volume.data)
    assert scan.volume.grid.same_as(plain.volume.grid)
    assert (scan.sha256, scan.warnings) == (plain.sha256, ())


def test_a_compressed_file_that_is_cut_off(tmp_path: Path) -> None:
    path = compress(sorted(write_series(tmp_path / "p1", t1()).iterdir())[3])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"003\.dcm\.gz: the DICOM file is damaged or incomplete.*copy it again"):
        read_dicom(tmp_path / "p1")
    with pytest.raises(InputError, match=r"003\.dcm\.gz is damaged or incomplete.*copy or export it again"):
        dicom_bytes(path)


def test_files_without_content_are_a_warning_without_their_paths(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "p1", t1())
    assert missing_warnings(folder) == ()
    (folder / "044.dcm").write_text(POINTER)
    link(folder / "DOE_JANE.dcm")
    (warning,) = read_dicom(folder).warnings
    assert warning.startswith("2 files of the folder, which may belong to the series, cannot be read")
    assert "`git annex get`" in warning
    assert "DOE" not in warning


@pytest.mark.parametrize("make", [link, lambda path: path.write_text(POINTER)], ids=["links", "pointers"])
def test_a_folder_without_content(tmp_path: Path, make: object) -> None:
    for number in range(3):
        make(tmp_path / f"{number}.dcm")  # type: ignore[operator]
    with pytest.raises(InputError, match=rf"3 files and no DICOM images.*; 0\.dcm is .*`datalad get {tmp_path}`"):
        read_dicom(tmp_path)


def test_the_kind_of_other_files_is_told(tmp_path: Path) -> None:
    (tmp_path / "series.zip").write_bytes(b"PK\x03\x04" + bytes(range(100)))
    with pytest.raises(InputError, match=r"1 file and no DICOM images.*series\.zip is a zip archive: unpack it"):
        read_dicom(tmp_path)


def test_files_of_other_kinds_are_no_dicom(tmp_path: Path) -> None:
    link(tmp_path / "a")
    (tmp_path / "b").write_bytes(b"\x08\x00\x05\x00")
    (tmp_path / "c.gz").write_bytes(gzip.compress(bytes(128) + b"DICM"))
    (tmp_path / "d").write_text("notes")
    assert [has_preamble(path) for path in files_below(tmp_path)] == [None, False, True, None]
