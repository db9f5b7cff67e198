"""Results appear whole or not at all: written in a hidden folder, moved when complete, the record last."""

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
    """The files that a run leaves in its folder."""

    @property
    def all(self) -> tuple[str, ...]:
        """Every file in the order they are put in place, the record last."""

    @property
    def record(self) -> str:
        """How the results were made; its presence means done."""


def check_output(
    folder: Path, names: FileNames, *, force: bool, what: str = "this scan", optional: tuple[str, ...] = ()
) -> None:
    """Refuse before any work is done if the results could not be written.

    Parameters
    ----------
    folder : Path
    names : FileNames
    force : bool
        Whether results that are there may be replaced.
    what : str, optional
        Said in the error: of what they are results.
    optional : tuple of str, optional
        Files that a run may leave beside them.

    Raises
    ------
    OutputError
        If the folder cannot be made or written, or holds one of the files and ``force`` is False.
    """
    with _output_errors(folder):
        nearest = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
        existing = [
            name for name in (*names.all, *optional) if (nearest / name).exists()
        ]  # fails for a name that is too long
        if existing and nearest == folder and not force:
            found = f"{existing[0]}{' and more' if len(existing) > 1 else ''}"
            raise OutputError(
                f"{folder} already holds results of {what} ({found}); "
                "use --force to replace them once the new ones are complete, or another folder"
            )
        tempfile.TemporaryFile(dir=nearest).close()


@contextmanager
def _output_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write results in {folder}: {error.strerror or error}; free some space or choose a folder that may "
            "be written, or a shorter name; results that were there are unchanged"
        ) from error


@contextmanager
def staged(
    folder: Path, names: FileNames, optional: tuple[str, ...] = (), unfinished: Path | None = None
) -> Iterator[Path]:
    """A folder to write results in, moved into place only if all of them could be written.

    Files that were in place stay until then. The old record is taken away first and the new one moved last, so a
    record is never beside files it does not describe. Folders made for results that then failed are removed.

    Parameters
    ----------
    folder : Path
    names : FileNames
        Files that must be there when the body ends.
    optional : tuple of str, optional
        Files that may be there; those of an earlier run that are not made anew go with its record.
    unfinished : Path, optional
        The folder to write in, on the same file system; by default a hidden one in ``folder``, of a new name.

    Raises
    ------
    OutputError
        If a file cannot be written or moved.
    """
    with _output_errors(folder), ExitStack() as cleaning:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        cleaning.callback(_remove_empty, made)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = unfinished or Path(tempfile.mkdtemp(prefix=".slant-", dir=folder))
        temporary.mkdir(exist_ok=True)
        cleaning.callback(shutil.rmtree, temporary, ignore_errors=True)
        yield temporary
        made_now = (*(name for name in optional if (temporary / name).exists()), *names.all)
        for name in made_now:
            if (temporary / name).stat().st_size == 0:
                raise OSError(errno.EIO, f"{name} came out empty")
        for name in {*made_now, *optional}:
            if (folder / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{name} is a folder")
        (folder / names.record).unlink(missing_ok=True)
        for name in optional:
            if name not in made_now:
                (folder / name).unlink(missing_ok=True)
        for name in made_now:
            (temporary / name).replace(folder / name)


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, up to the first that is not empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write plain values, indented."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", errors="backslashreplace")  # names may hold bytes that are no text
