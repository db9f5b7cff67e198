"""An index of the finished scans, so that a run recognizes them without opening them.

The index is a cache. Each line repeats data of the record of a scan, and the size and time of two files. If a line is
missing or does not match, the record and the hash of the scan decide.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

FileState = tuple[int, int]
"""Size in bytes and time of the last change in ns. Only compared for equality, so a wrong clock does no harm."""


@dataclass(frozen=True)
class Entry:
    """A finished scan.

    Attributes
    ----------
    id, scan, name, sha256 : str
        Id, path of the scan and output file prefix of the job; SHA-256 of the bytes of the scan.
    folder, key : str
        Folder of the results, relative to the output directory; key of the task, see `slant.engine.job.Task`.
    scan_state, record_state : FileState
        State of the scan before it was read, and state of the record.
    """

    id: str
    scan: str
    name: str
    folder: str
    key: str
    scan_state: FileState
    record_state: FileState
    sha256: str


def file_state(path: Path | str) -> FileState:
    """Size and time of the last change of a file; OSError if it does not exist."""
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


def read_index(path: Path) -> dict[str, Entry]:
    """Read the entries by id; the last line of a scan counts, and truncated lines are ignored."""
    entries: dict[str, Entry] = {}
    try:
        text = path.read_bytes().decode(errors="replace")
    except OSError:
        return entries
    for line in text.splitlines():
        with suppress(ValueError, TypeError, KeyError):
            fields = json.loads(line)
            scan_state, record_state = (tuple(fields.pop(field)) for field in ("scan_state", "record_state"))
            entry = Entry(**fields, scan_state=scan_state, record_state=record_state)
            entries[entry.id] = entry
    return entries


def append(path: Path, entry: Entry) -> None:
    """Append a line atomically, even with several writers; on a full disk the index stays unchanged."""
    line = json.dumps(asdict(entry)).encode() + b"\n"
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with suppress(OSError):  # no file locks: lines of two runs may mix, and are then ignored
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
