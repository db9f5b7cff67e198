"""Paths in the output directory of a run: index, locks, logs, failure markers and unfinished files."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from slant.errors import OutputError
from slant.files import CHECK_DISK

_PLAIN = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+-]{0,149}")


@dataclass(frozen=True)
class OutputLayout:
    """Output directory, with the files that a run needs beside the results.

    Attributes
    ----------
    out : Path
        Absolute path of the output directory.
    work_dir : Path, optional
        Directory for locks and temporary files (default: inside ``out``). All runs on one ``out`` must use the same.
    """

    out: Path
    work_dir: Path | None = None

    @property
    def state(self) -> Path:
        """Hidden folder with the state of the runs."""
        return self.out / ".slant"

    @property
    def index(self) -> Path:
        """File with one line per finished scan."""
        return self.state / "index.jsonl"

    @property
    def locks(self) -> Path:
        """Folder with one lock file per scan that is being processed."""
        return (self.work_dir or self.state) / "locks"

    @property
    def staging(self) -> Path:
        """Folder for files that are not complete yet."""
        return self.state / "unfinished"

    @property
    def failure_markers(self) -> Path:
        """Folder with one file per scan that failed."""
        return self.state / "failed"

    @property
    def logs(self) -> Path:
        """Folder with one log per scan."""
        return self.out / "logs"

    def lock(self, scan_id: str) -> Path:
        """Lock file that is held while a scan is being processed."""
        return self.locks / f"{key(scan_id)}.lock"

    def staging_of(self, scan_id: str) -> Path:
        """Folder for the unfinished files of a scan; only the holder of its lock may change it."""
        return self.staging / key(scan_id)

    def failure_marker(self, scan_id: str) -> Path:
        """Failure marker of a scan, with the reason."""
        return self.failure_markers / f"{key(scan_id)}.json"

    def log(self, scan_id: str) -> Path:
        """Log of a scan."""
        return self.logs / f"{key(scan_id)}.log"

    def make(self) -> None:
        """Create the folders.

        Raises
        ------
        OutputError
            If a folder cannot be created.
        """
        try:
            for folder in (self.locks, self.staging, self.failure_markers, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot write to {error.filename or self.out}: {error.strerror}; {CHECK_DISK}"
            ) from error


def absolute(path: Path | str) -> Path:
    """Absolute path without ``..``. Symbolic links are not resolved: scans of DataLad are named by their links."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def key(scan_id: str) -> str:
    """A file name for the id of a scan, which may contain any character; different ids get different names."""
    if _PLAIN.fullmatch(scan_id):
        return scan_id
    readable = re.sub(r"[^A-Za-z0-9_+-]+", "_", scan_id)[:100].lstrip("-")
    return f"{readable}.{hashlib.sha256(scan_id.encode(errors='surrogateescape')).hexdigest()[:12]}"
