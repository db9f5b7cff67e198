"""Write results atomically: into a hidden staging folder, then moved when complete, the record last."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from slant.errors import OutputError


class FileNames(Protocol):
    """File names of the results of a run."""

    @property
    def all(self) -> tuple[str, ...]:
        """Names of all files in the order in which they are put in place, the record last."""

    @property
    def record(self) -> str:
        """Name of the file that says how the results were made; its presence means finished."""


def check_output(
    folder: Path, names: FileNames, *, force: bool, what: str = "this scan", optional: tuple[str, ...] = ()
) -> None:
    """Check, before any work is done, that results can be written.

    Parameters
    ----------
    force : bool
        Whether existing results may be replaced.
    what : str, optional
        What the results are of, for the error message.
    optional : tuple of str, optional
        Names of optional files of the run.

    Raises
    ------
    OutputError
        If the folder cannot be created or written, or has one of the files and ``force`` is False.
    """
    with _output_errors(folder):
        nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        # raises an OSError for a name that is too long
        existing = [name for name in (*names.all, *optional) if (nearest / name).exists()]
        if existing and nearest == folder and not force:
            files = f"{existing[0]}{' and more' if len(existing) > 1 else ''}"
            raise OutputError(
                f"{folder} already holds results of {what} ({files}); "
                "use --force to replace them when the new ones are complete, or another folder"
            )
        tempfile.TemporaryFile(dir=nearest).close()


@contextmanager
def _output_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write results in {folder}: {error.strerror or error}; check free space and write permission, or "
            "choose another folder or a shorter name; existing results are unchanged"
        ) from error


@contextmanager
def staged(
    folder: Path, names: FileNames, optional: tuple[str, ...] = (), unfinished: Path | None = None
) -> Iterator[Path]:
    """Staging folder for results, which are moved to their folder only if all of them could be written.

    Existing files stay until then. The old record is removed first and the new one is moved last, so that a record
    never describes other files than those next to it. Folders that were created for results are removed if the run
    fails.

    Parameters
    ----------
    names : FileNames
        Files that must exist in the staging folder when the body ends.
    optional : tuple of str, optional
        Files that may exist; those of an earlier run that are not written again are removed with its record.
    unfinished : Path, optional
        Staging folder, on the same file system; by default a new hidden folder in ``folder``.

    Raises
    ------
    OutputError
        If a file cannot be written or moved.
    """
    with _output_errors(folder), ExitStack() as cleaning:
        created = [path for path in (folder, *folder.parents) if not path.exists()]
        cleaning.callback(_remove_empty, created)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = unfinished or Path(tempfile.mkdtemp(prefix=".slant-", dir=folder))
        temporary.mkdir(exist_ok=True)
        cleaning.callback(shutil.rmtree, temporary, ignore_errors=True)
        yield temporary
        written = (*(name for name in optional if (temporary / name).exists()), *names.all)
        for name in written:
            if (temporary / name).stat().st_size == 0:
                raise OSError(errno.EIO, f"{name} was written empty")
        for name in {*written, *optional}:
            if (folder / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{name} is a folder")
        (folder / names.record).unlink(missing_ok=True)
        for name in optional:
            if name not in written:
                (folder / name).unlink(missing_ok=True)
        for name in written:
            (temporary / name).replace(folder / name)


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, until one is not empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def json_text(values: dict[str, Any]) -> str:
    """Plain values as indented JSON; bytes of file names that are not valid text are escaped."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace").decode()


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write plain values as indented JSON."""
    path.write_text(json_text(values), encoding="utf-8")
