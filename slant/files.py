"""Writes files atomically, makes temporary folders, identifies files by their SHA-256, reads text that users wrote."""

from __future__ import annotations

import codecs
import errno
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slant.errors import OutputError

CHECK_DISK = "check free space and write permission"
"""Advice of most errors of writing."""

_PROBE_BYTES = 1 << 16
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # never errors of reading
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@contextmanager
def replacing(path: Path, *, unique: bool = True) -> Iterator[Path]:
    """Temporary path next to a file, which replaces the file when the body ends, and is removed if it fails.

    Parameters
    ----------
    unique : bool, optional
        Whether every call has a name of its own, so that several processes may write the file. Otherwise the name is
        always ``NAME.part``: a process that is killed leaves at most one such file, which the next call overwrites.

    Raises
    ------
    OSError
        If the file cannot be replaced.
    """
    partial = path.with_name(f".slant-{os.getpid()}-{secrets.token_hex(4)}.part" if unique else f"{path.name}.part")
    try:
        yield partial
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file under a temporary name and rename it, so that it is never seen incomplete.

    Parameters
    ----------
    content : bytes or str
        Text is stored as UTF-8; bytes of file names that are not valid text are escaped.

    Raises
    ------
    OSError
        If it cannot be written; an existing file is then unchanged.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_file(path: Path, content: bytes | str, advice: str = CHECK_DISK) -> None:
    """Write a file atomically, see `write_atomic`; ``advice`` (what to do) is the end of the error message.

    Raises
    ------
    OutputError
        If it cannot be written; an existing file is then unchanged.
    """
    with output_errors(path, advice):
        write_atomic(path, content)


@contextmanager
def output_errors(path: Path, advice: str = CHECK_DISK) -> Iterator[None]:
    """Turn an OSError of the body into an OutputError that names the file."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; {advice}") from error


@contextmanager
def temporary_folder(largest_file_bytes: int = _PROBE_BYTES) -> Iterator[Path]:
    """Folder for files that libraries write and read, in the folder for temporary files; removed at the end.

    Parameters
    ----------
    largest_file_bytes : int, optional
        Size of the largest file that a library may remove again if the disk is full, before it fails.

    Raises
    ------
    OutputError
        If it cannot be made, or cannot be written when the body ends, for example because the disk is full. Libraries
        then raise errors of any type that do not say so, or none at all and leave files incomplete.
    """
    folder = make_temporary_folder()
    try:
        yield folder
    except Exception as error:
        problem = _disk_error(error) or _write_problem(folder, largest_file_bytes)
        if problem is None:
            raise
        raise OutputError(_about_temporary_files(folder.parent, problem)) from error
    else:
        problem = _write_problem(folder, _PROBE_BYTES)
        if problem is not None:
            raise OutputError(_about_temporary_files(folder.parent, problem))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_temporary_folder() -> Path:
    """A new folder in the folder for temporary files; OutputError if it cannot be made."""
    try:
        return Path(tempfile.mkdtemp(prefix="slant-"))
    except OSError as error:
        where = tempfile.tempdir or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 (of a message)
        raise OutputError(_about_temporary_files(Path(where), error.strerror or str(error))) from error


def _disk_error(error: BaseException | None) -> str | None:
    """Why a disk could not be written, if that is the error or a cause of it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
            return error.strerror
        error = error.__cause__ or error.__context__
    return None


def _write_problem(folder: Path, n_bytes: int) -> str | None:
    """Why a file of this size cannot be written to a folder; None if it can."""
    chunk, probe = bytes(_PROBE_BYTES), folder / "probe"
    try:
        with probe.open("wb") as file:
            for _ in range(-(-n_bytes // len(chunk))):
                file.write(chunk)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return None


def _about_temporary_files(folder: Path, problem: str) -> str:
    free = ""
    with suppress(OSError):
        free = f", {shutil.disk_usage(folder).free / 2**20:.1f} MiB free"
    return (
        f"cannot write temporary files to {folder}: {problem}{free}; free some space, or set the environment variable "
        "TMPDIR to another folder (or --work-dir, if it is used)"
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of the bytes of a file, as 64 hexadecimal digits; an OSError is raised if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path) -> str:
    """Text of a file that a user wrote: UTF-8, or UTF-16 with a byte-order mark; the mark is removed.

    Raises
    ------
    OSError
        If the file cannot be read.
    UnicodeDecodeError
        If it is not such text.
    """
    data = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    return data.decode(encoding)
