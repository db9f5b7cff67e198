"""Where a cohort keeps what it needs beside the results: index, locks, logs, marks of failures, unfinished files."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from slant.errors import OutputError

_PLAIN = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+-]{0,149}")


@dataclass(frozen=True)
class Place:
    """The folder for results with the engine's own files in it.

    Attributes
    ----------
    out : Path
        For the results; absolute.
    work : Path, optional
        For locks and temporary files, if not in ``out``; all runs on one ``out`` must use the same.
    """

    out: Path
    work: Path | None = None

    @property
    def state(self) -> Path:
        """Hidden folder of the engine."""
        return self.out / ".slant"

    @property
    def index(self) -> Path:
        """One line for every finished scan."""
        return self.state / "index.jsonl"

    @property
    def locks(self) -> Path:
        """One file for every scan at work."""
        return (self.work or self.state) / "locks"

    @property
    def stages(self) -> Path:
        """Files that are not complete yet."""
        return self.state / "unfinished"

    @property
    def marks(self) -> Path:
        """One file for every scan that failed."""
        return self.state / "failed"

    @property
    def logs(self) -> Path:
        """One log for every scan."""
        return self.out / "logs"

    def lock(self, scan_id: str) -> Path:
        """Held while a scan is at work."""
        return self.locks / f"{key(scan_id)}.lock"

    def stage(self, scan_id: str) -> Path:
        """Folder of a scan's unfinished files; only the holder of its lock touches it."""
        return self.stages / key(scan_id)

    def mark(self, scan_id: str) -> Path:
        """Why a scan failed."""
        return self.marks / f"{key(scan_id)}.json"

    def log(self, scan_id: str) -> Path:
        """What was said while a scan was at work."""
        return self.logs / f"{key(scan_id)}.log"

    def make(self) -> None:
        """Make the folders.

        Raises
        ------
        OutputError
            If that is not possible.
        """
        try:
            for folder in (self.locks, self.stages, self.marks, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot write in {error.filename or self.out}: {error.strerror}; free some space or choose a folder "
                "that may be written"
            ) from error


def key(scan_id: str) -> str:
    """A file name for a scan's id, which may hold slashes and anything else; different ids have different ones."""
    if _PLAIN.fullmatch(scan_id):
        return scan_id
    readable = re.sub(r"[^A-Za-z0-9_+-]+", "_", scan_id)[:100].lstrip("-")
    return f"{readable}.{hashlib.sha256(scan_id.encode(errors='surrogateescape')).hexdigest()[:12]}"
