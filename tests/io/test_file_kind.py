"""What is given instead of an image is recognized, and the message says what to do."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from toy import noise, save

from slant.errors import InputError
from slant.io.file_kind import check_file, gunzip, missing_content
from slant.io.read import read_label_map, read_scan, scan_name

KEY = "MD5E-s11534336--0123456789abcdef0123456789abcdef.nii.gz"
HTML = b"<!DOCTYPE html>\n<html><body>Please log in.</body></html>\n"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 11534336\n"


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("scan.nii", noise().tobytes())
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("scan.nii"))
    return file.getvalue()


def half(kind: type[nib.Nifti1Pair]) -> bytes:
    return bytes(kind(noise(), np.eye(4)).header.binaryblock)


CONTENTS: dict[str, tuple[bytes, str]] = {
    "annex pointer": (f"/annex/objects/{KEY}\n".encode(), r"git-annex .*`datalad get \S+` or `git annex get \S+`"),
    "annex link as text": (f"..\\..\\.git\\annex\\objects\\aB\\{KEY}\n".encode(), "git-annex .*datalad get"),
    "LFS pointer": (LFS, "Git LFS pointer.*`git lfs pull`"),
    "empty": (b"", "an empty file.*repeat it"),
    "zeros": (bytes(4096), "begins with 2048 bytes of zero.*copy or download it again"),
    "HTML": (HTML, "an HTML page .*login or error page of the server: download the scan again"),
    "XHTML": (b'<?xml version="1.0"?>\n<html xmlns="x">', "an HTML page"),
    "XML": (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "an XML file .*error message"),
    "JSON": (b'\xef\xbb\xbf\n{"Modality": "MR"}', 'a JSON file that begins with \'{"Modality": "MR"}\''),
    "text": (b"subject,age\n1,20\n" * 50, "a text file that begins with 'subject,age"),
    "MetaImage": (b"ObjectType = Image\nNDims = 3\n", "MetaImage.*3D Slicer"),
    "PAR": (b"# === DATA DESCRIPTION FILE ====\n", "Philips PAR/REC.*dcm2niix"),
    "gzip twice": (gzip.compress(gzip.compress(b"x")), "compressed twice with gzip.*gunzip"),
    "zip": (zipped(), "zip archive.*unpack it"),
    "tar": (tarred(), "tar archive.*unpack it"),
    "xz": (lzma.compress(noise().tobytes()), "compressed with xz.*unpack it"),
    "bzip2": (bz2.compress(noise().tobytes()), "compressed with bzip2.*unpack it"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(range(200)), "compressed with zstd.*unpack it"),
    "DICOM": (bytes(128) + b"DICM" + bytes(500), "one DICOM file.*give the folder"),
    "NRRD": (b"NRRD0004\ntype: short\n", "NRRD.*convert it to NIfTI"),
    "MINC 2": (b"\x89HDF\r\n\x1a\n" + bytes(500), "HDF5.*MINC 2.*mnc2nii"),
    "MINC 1": (b"CDF\x01" + bytes(500), "MINC 1.*mnc2nii"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(500), "a PNG picture.*no voxel size and no orientation"),
    "JPEG": (b"\xff\xd8\xff\xe0" + bytes(500), "a JPEG picture.*export the scan"),
    "NIfTI-1 pair": (half(nib.Nifti1Pair), r"half of a \.hdr/\.img pair.*\.nii\.gz"),
    "NIfTI-2 pair": (half(nib.Nifti2Pair), r"half of a \.hdr/\.img pair"),
    "Analyze": (bytes(nib.AnalyzeHeader().binaryblock), "Analyze 7.5 image.*which side is left.*dcm2niix"),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz"])
@pytest.mark.parametrize("name", CONTENTS)
def test_files_that_are_not_images(tmp_path: Path, name: str, suffix: str) -> None:
    content, message = CONTENTS[name]
    path = tmp_path / f"a{suffix}"
    compressed = suffix == ".nii.gz" and name != "gzip twice"
    path.write_bytes(gzip.compress(content) if compressed else content)
    for read in (read_scan, read_label_map):
        with pytest.raises(InputError, match=rf"(?s)a{suffix}: found .*, expected a NIfTI or MGZ image; ") as raised:
            read(path)
        assert raised.match(message)


def test_commands_quote_the_path(tmp_path: Path) -> None:
    path = tmp_path / "my scan.nii"
    path.write_text(f"/annex/objects/{KEY}\n")
    with pytest.raises(InputError) as raised:
        read_scan(path)
    assert f"`datalad get '{path}'`" in str(raised.value)


def test_other_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(InputError, match=r"a\.nii: found 1024 bytes that are neither NIfTI nor MGZ"):
        read_scan(tmp_path / "a.nii")


# Extensions


@pytest.mark.parametrize(("name", "content", "message"), [("scan.dcm", "DICOM", "one DICOM"), ("scan", "zip", "zip")])
def test_the_kind_is_told_before_the_extension(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_bytes(CONTENTS[content][0])
    with pytest.raises(InputError, match=rf"{name}: found .*{message}.*expected a NIfTI or MGZ image; "):
        read_scan(tmp_path / name)


def test_an_image_with_another_extension(tmp_path: Path) -> None:
    save(tmp_path / "a.nii", noise()).rename(tmp_path / "a.nifti")
    with pytest.raises(InputError, match=r"found the extension '\.nifti', expected one of \.mgh"):
        scan_name(tmp_path / "a.nifti")


# Links


def test_a_link_to_content_of_git_annex(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").symlink_to(f"../.git/annex/objects/aB/cD/{KEY}/{KEY}")
    (tmp_path / "b.nii.gz").symlink_to("a.nii.gz")
    for name in ("a.nii.gz", "b.nii.gz"):
        with pytest.raises(InputError, match=rf"{name}: found a file of git-annex .*`datalad get \S+{name}`"):
            read_scan(tmp_path / name)


def test_a_broken_link(tmp_path: Path) -> None:
    (tmp_path / "a.nii").symlink_to("../moved/a.nii")
    with pytest.raises(InputError, match=r"a\.nii: found a link to \.\./moved/a\.nii, which does not exist, expected"):
        read_scan(tmp_path / "a.nii")


def test_a_file_below_a_broken_link(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to("/moved")
    with pytest.raises(InputError, match=r"a\.nii: the folder \S+/data: found a link to /moved, which does not exist"):
        read_scan(tmp_path / "data" / "a.nii")


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.nii").symlink_to("b.nii")
    (tmp_path / "b.nii").symlink_to("a.nii")
    with pytest.raises(InputError, match=r"a\.nii: cannot be read: Too many levels of symbolic links"):
        read_scan(tmp_path / "a.nii")


def test_content_that_is_here_is_not_missing(tmp_path: Path) -> None:
    assert missing_content(save(tmp_path / "a.nii", noise())) is None
    (tmp_path / "b.nii").symlink_to("a.nii")
    assert missing_content(tmp_path / "b.nii") is None


# Paths


@pytest.mark.parametrize("name", ["no_such.nii", "a.nii/b.nii"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    save(tmp_path / "a.nii", noise())
    with pytest.raises(InputError, match=r"\.nii: no such file; check the spelling"):
        read_scan(tmp_path / name)


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "dicom.nii").mkdir()
    with pytest.raises(InputError, match=r"found a folder.*dcm2niix"):
        read_scan(tmp_path / "dicom.nii")


def test_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"a\.nii: found a pipe or device, expected .*write the image to a file"):
        read_scan(tmp_path / "a.nii")


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        check_file(tmp_path / ("a" * 300 + ".nii"))


# gzip


def test_members_and_padding_are_uncompressed() -> None:
    parts = [bytes([n]) * 300_000 for n in range(5)]
    raw = b"".join(gzip.compress(part) for part in parts)
    assert gunzip(raw) == (b"".join(parts), ())
    assert gunzip(raw + bytes(512)) == (b"".join(parts), ())


def test_bytes_after_the_end_are_ignored_with_a_warning() -> None:
    content, warnings = gunzip(gzip.compress(b"content") + b"\0\0trailing")
    assert content == b"content"
    (warning,) = warnings
    assert warning.startswith("the 8 bytes after the end of the compressed data")


@pytest.mark.parametrize("cut", [5, 15, 30, -10, -1])
def test_a_member_that_is_cut_off_is_an_error(cut: int) -> None:
    member = gzip.compress(bytes(range(200)))
    with pytest.raises(EOFError):
        gunzip(member + member[:cut])
