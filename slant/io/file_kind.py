"""What kind of file a path is, from the path and the first bytes, and what a user can do if it is not an image.

Every place that opens an image asks here before it says that a file is damaged or of the wrong type.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from slant.errors import InputError

IMAGE = "a NIfTI or MGZ image"
GZIP = b"\x1f\x8b"
"""First bytes of a file that is compressed with gzip."""

DICOM_OFFSET, DICOM = 128, b"DICM"
"""Bytes at this offset of a DICOM file."""

START_BYTES = 2048
"""Number of bytes from which a kind is recognized."""

_ANNEX = re.compile(r"[^\n]*/annex/objects/")  # pointer file, or the text of a link where there are no links
_LFS = re.compile(r"version https?://[^\n]+\n(?:[^\n]+\n)*?oid ")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_CHUNK_BYTES = 1 << 20
_ANALYZE_MAX_BYTES = 352  # 348, and padding

_UNPACK = "unpack it, and give the image in it"
_EXPORT = "it has no voxel size and no orientation; export the scan as DICOM or NIfTI"
_MINC = "convert it to NIfTI, for example with mnc2nii or mri_convert if it is MINC"
_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, GZIP, "a file that was compressed twice with gzip", "unpack it once with gunzip"),
    (0, b"PK\x03\x04", "a zip archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"\xfd7zXZ\x00", "a file that is compressed with xz", _UNPACK),
    (0, b"BZh", "a file that is compressed with bzip2", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a file that is compressed with zstd", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a rar archive", _UNPACK),
    (
        *(DICOM_OFFSET, DICOM, "one DICOM file"),
        "give the folder that holds all files of its series, or convert the series with dcm2niix",
    ),
    (0, b"NRRD", "an NRRD image", "convert it to NIfTI, for example with 3D Slicer"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (MINC 2 is HDF5)", _MINC),
    (0, b"CDF", "a netCDF file (MINC 1 is netCDF)", _MINC),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG picture", _EXPORT),
    (0, b"\xff\xd8\xff", "a JPEG picture", _EXPORT),
    (0, b"GIF8", "a GIF picture", _EXPORT),
    (0, b"II*\x00", "a TIFF picture", _EXPORT),
    (0, b"MM\x00*", "a TIFF picture", _EXPORT),
    (0, b"%PDF", "a PDF file", _EXPORT),
    (0, b"\x93NUMPY", "a NumPy array", _EXPORT),
    (0, b"MATLAB ", "a MATLAB file", _EXPORT),
)

_AGAIN = "download the scan again"
_TEXTS: tuple[tuple[str, str, str], ...] = (
    (
        r"<!doctype html|<html|(?s:<\?xml.*?<html)",
        "an HTML page",
        f"it is probably a login or error page of the server: {_AGAIN}, and log in if that is needed",
    ),
    (r"<(?:\?xml|[a-z])", "an XML file", f"if it is an error message of a server, {_AGAIN}"),
    (r"[{\[]", "a JSON file", f"give the image that belongs to it, or {_AGAIN}"),
    (
        r"objecttype|ndims|comment *=",
        "the header of a MetaImage",
        "convert the image to NIfTI, for example with 3D Slicer",
    ),
    (r"# === data description file", "the header of a Philips PAR/REC image", "convert it with dcm2niix"),
    (r"", "a text file", "give the image"),
)


@dataclass(frozen=True)
class FileKind:
    """A kind of file that is not an image that slant reads: its name, and what to do."""

    name: str
    advice: str


def kind_of(start: bytes, path: Path) -> FileKind | None:
    """Kind of a file that is not an image, or None if it is not recognized.

    Parameters
    ----------
    start : bytes
        The first `START_BYTES` bytes, uncompressed, or all if there are fewer.
    path : Path
        Path of the file, for commands in the advice.
    """
    if not start:
        return FileKind("an empty file", "the copy or download failed: repeat it")
    if not any(start):
        return FileKind(
            f"a file that begins with {len(start)} bytes of zero", "its content was lost, for example on a full disk: "
            "copy or download it again"
        )  # fmt: skip
    for offset, signature, name, advice in _SIGNATURES:
        if start.startswith(signature, offset):
            return FileKind(name, advice)
    return _analyze(start) if _CONTROL.search(start) else _text(start.decode("utf-8", "replace"), path)


def file_start(path: Path) -> bytes:
    """The first `START_BYTES` bytes of a file, uncompressed if it is compressed with gzip; an OSError if unreadable."""
    with path.open("rb") as stream:
        start = stream.read(START_BYTES)
    if not start.startswith(GZIP):
        return start
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(start, START_BYTES)
    except zlib.error:
        return start


def describe_file(path: Path, expected: str = IMAGE) -> str | None:
    """Message about an existing file that is of a kind that slant cannot read; None for other files."""
    try:
        kind = kind_of(file_start(path), path)
    except OSError:
        return None
    return None if kind is None else describe(kind, expected)


def describe(kind: FileKind, expected: str = IMAGE) -> str:
    """What was found, what was expected and what to do, without the path."""
    return f"found {kind.name}, expected {expected}; {kind.advice}"


def missing_content(path: Path, named: Path | None = None) -> FileKind | None:
    """Kind of a broken link, or of a file whose content git-annex (DataLad) or Git LFS keeps elsewhere; or None.

    Parameters
    ----------
    named : Path, optional
        File or folder that the commands in the advice get; by default ``path``.
    """
    named = named or path
    if path.is_symlink() and not path.exists():
        if _ANNEX.match(os.path.realpath(path).replace("\\", "/")):
            return _annexed(named)
        return FileKind(
            f"a link to {path.readlink()}, which does not exist", "copy the file there, or give the file itself"
        )
    try:
        small = path.is_file() and path.stat().st_size <= START_BYTES
        text = file_start(path).decode("utf-8", "replace") if small else ""
    except OSError:
        return None
    return _pointer(text, named)


def check_file(path: Path, expected: str = IMAGE) -> None:
    """Check that a path is a file, without opening it.

    Raises
    ------
    InputError
        If the path does not exist, or is a broken link, a directory, a pipe or a device; without the path.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(_why_missing(path, expected)) from None
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror or error}; check the permissions of the folder and what the path says"
        ) from error
    if stat.S_ISDIR(mode):
        raise InputError(f"found a folder, expected {expected}; use `slant segment` or dcm2niix for DICOM")
    if not stat.S_ISREG(mode):
        raise InputError(f"found a pipe or device, expected {expected}; write the image to a file first")


def gunzip(raw: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Uncompress all members of a gzip file, and a warning if other bytes follow, which are ignored as by gunzip.

    Raises
    ------
    EOFError
        If the file is incomplete.
    zlib.error
        If it is damaged.
    """
    view, position, parts = memoryview(raw), 0, []
    while raw.startswith(GZIP, position):
        member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        while not member.eof:
            chunk = view[position : position + _CHUNK_BYTES]
            if not chunk:
                raise EOFError("it ends before the end of the compressed data")
            parts.append(member.decompress(chunk))
            position += len(chunk) - len(member.unused_data)
        while raw.startswith(b"\0", position):  # padding
            position += 1
    rest = len(raw) - position
    warning = f"the {rest} bytes after the end of the compressed data are no part of the image and were ignored"
    return b"".join(parts), (warning,) if rest else ()


def _why_missing(path: Path, expected: str) -> str:
    broken = next((p for p in (path, *path.parents) if p.is_symlink()), None)
    kind = missing_content(broken) if broken else None
    if kind is None:
        return "no such file; check the spelling of the path"
    return ("" if broken == path else f"the folder {broken}: ") + describe(kind, expected)


def _text(text: str, path: Path) -> FileKind:
    pointer = _pointer(text, path)
    if pointer is not None:
        return pointer
    text = text.removeprefix("\ufeff").strip()
    name, advice = next((n, advice) for pattern, n, advice in _TEXTS if re.match(pattern, text, re.I))
    begin = " ".join(text[:40].split())
    return FileKind(f"{name} that begins with {begin!r}", advice)


def _pointer(text: str, path: Path) -> FileKind | None:
    if _ANNEX.match(text.replace("\\", "/")):
        return _annexed(path)
    if _LFS.match(text):
        return FileKind(
            "a Git LFS pointer, whose content is not here", "get it with `git lfs pull` in the folder of the repository"
        )
    return None


def _annexed(path: Path) -> FileKind:
    quoted = shlex.quote(str(path))
    return FileKind(
        "a file of git-annex (DataLad) whose content is not here",
        f"get it with `datalad get {quoted}` or `git annex get {quoted}`",
    )


def _analyze(start: bytes) -> FileKind | None:
    """Kind of the header of an Analyze 7.5, NIfTI-1 or NIfTI-2 image whose voxels are in a file of their own."""
    if len(start) < 348:
        return None
    if start[344:348] == b"ni1\0" or start[4:8] == b"ni2\0":
        return FileKind("the header half of a .hdr/.img pair", "convert the pair to one .nii.gz file")
    sizes = (struct.unpack_from("<i", start)[0], struct.unpack_from(">i", start)[0])
    if 348 not in sizes or len(start) > _ANALYZE_MAX_BYTES:
        return None
    return FileKind(
        "the header of an Analyze 7.5 image, which does not say which side is left",
        "convert the scan again from DICOM with dcm2niix",
    )
