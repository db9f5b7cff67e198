"""Writes files atomically, and identifies them by their SHA-256."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slant.errors import OutputError

CHECK_DISK = "check free space and write permission"
"""Advice of most errors of writing."""


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


def file_sha256(path: Path) -> str:
    """SHA-256 of the bytes of a file, as 64 hexadecimal digits; an OSError is raised if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
