"""Writes files atomically, makes temporary folders, identifies files by their SHA-256, reads text that users wrote."""

from __future__ import annotations

import codecs
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
def temporary_folder() -> Iterator[Path]:
    """Folder for files that libraries write and read, in the folder for temporary files; removed at the end.

    Raises
    ------
    OutputError
        If it cannot be made, or if the body fails while the folder cannot be written, for example because the disk is
        full: libraries then raise errors of any type that do not say so.
    """
    folder = make_temporary_folder()
    try:
        yield folder
    except Exception as error:
        problem = _write_problem(folder)
        if problem is None:
            raise
        raise OutputError(_about_temporary_files(folder.parent, problem)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_temporary_folder() -> Path:
    """A new folder in the folder for temporary files; OutputError if it cannot be made."""
    try:
        return Path(tempfile.mkdtemp(prefix="slant-"))
    except OSError as error:
        where = os.environ.get("TMPDIR") or tempfile.tempdir or "/tmp"  # noqa: S108 (of a message)
        raise OutputError(_about_temporary_files(Path(where), error.strerror or str(error))) from error


def _write_problem(folder: Path) -> str | None:
    """Why files cannot be written to a folder; None if they can."""
    try:
        (folder / "probe").write_bytes(bytes(_PROBE_BYTES))
    except OSError as error:
        return error.strerror or str(error)
    return None


def _about_temporary_files(folder: Path, problem: str) -> str:
    free = ""
    with suppress(OSError):
        free = f", {shutil.disk_usage(folder).free / 2**20:.1f} MiB free"
    return (
        f"cannot write temporary files to {folder}: {problem}{free}; free some space, or set the environment variable "
        "TMPDIR to another folder"
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
