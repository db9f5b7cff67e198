"""The files of a DICOM folder, some of which may be compressed with gzip, or have no content here."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from slant.errors import InputError
from slant.io.file_kind import DICOM, DICOM_OFFSET, GZIP, file_start, gunzip, kind_of, missing_content

_NO_PREAMBLE = (b"\x02\x00", b"\x08\x00")  # first bytes of old files without preamble


def files_below(folder: Path) -> tuple[Path, ...]:
    """All files and broken links in a folder and its subfolders, in order."""
    return tuple(path for path in sorted(folder.rglob("*")) if path.is_file() or _is_broken(path))


def has_preamble(path: Path) -> bool | None:
    """Whether a file is DICOM: True with its preamble, False if it may be DICOM without, None if it is not.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    if _is_broken(path):
        return None
    try:
        start = file_start(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if start.startswith(DICOM, DICOM_OFFSET):
        return True
    return False if start.startswith(_NO_PREAMBLE) else None


def open_dicom(path: Path) -> BinaryIO:
    """Open a DICOM file for reading, also if it is compressed with gzip.

    Raises
    ------
    OSError, EOFError, zlib.error
        If it cannot be read, or is damaged or incomplete.
    """
    stream = path.open("rb")
    if stream.read(len(GZIP)) != GZIP:
        stream.seek(0)
        return stream
    with stream:
        stream.seek(0)
        return io.BytesIO(gunzip(stream.read())[0])


def dicom_bytes(path: Path) -> bytes:
    """Contents of a DICOM file, uncompressed if it is compressed with gzip.

    Raises
    ------
    InputError
        If it cannot be read, or is damaged or incomplete.
    """
    try:
        with open_dicom(path) as stream:
            return stream.read()
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged or incomplete ({error}); copy or export it again") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def missing_warnings(folder: Path) -> tuple[str, ...]:
    """A warning about broken links, and pointers of git-annex or Git LFS; without paths, which may name patients."""
    count = sum(missing_content(path) is not None for path in files_below(folder))
    if not count:
        return ()
    return (
        f"{count} file{'s' * (count > 1)} of the folder, which may belong to the series, cannot be read: broken links, "
        "or pointers to content that is not here; get it with `datalad get`, `git annex get` or `git lfs pull`",
    )


def no_dicom_message(folder: Path, files: Sequence[Path]) -> str:
    """Message about a folder without DICOM files, and what one of its files is, if that is recognized."""
    text = (
        f"{folder}: found a folder with {len(files)} file{'s' * (len(files) != 1)} and no DICOM images, expected an "
        "image file or the folder of a DICOM series; `slant cohort` takes a folder of NIfTI files"
    )
    for path in files:
        kind = missing_content(path, folder) or kind_of(file_start(path), path)
        if kind is not None:
            return f"{text}; {path.relative_to(folder)} is {kind.name}: {kind.advice}"
    return text


def _is_broken(path: Path) -> bool:
    return path.is_symlink() and not path.exists()
