"""A small index of the finished scans, so that they are recognized without opening them.

It is a cache: every line repeats what the record of a scan and the state of two files say. Without it, or where it does
not fit, the record and the hash of the scan decide.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

FileState = tuple[int, int]
"""Size and time of the last change in ns: compared for equality only, so that no clock has to be right."""


@dataclass(frozen=True)
class Entry:
    """A finished scan.

    Attributes
    ----------
    id, scan, name : str
        Of its job.
    folder : str
        Of its results, from the folder of all results.
    key : str
        Of the work, see `slant.cohort.work.Work`.
    scan_state, record_state : FileState
        Of the scan before it was read, and of its record.
    sha256 : str
        Of the scan's bytes.
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
    """Size and time of the last change of a file; OSError if there is none."""
    found = Path(path).stat()
    return found.st_size, found.st_mtime_ns


def read_index(path: Path) -> dict[str, Entry]:
    """The entries by id; the last line of a scan counts, and a line cut short by a kill does not."""
    entries: dict[str, Entry] = {}
    try:
        text = path.read_bytes().decode(errors="replace")
    except OSError:
        return entries
    for line in text.splitlines():
        with suppress(ValueError, TypeError, KeyError):
            found = json.loads(line)
            scan_state, record_state = (tuple(found.pop(field)) for field in ("scan_state", "record_state"))
            entry = Entry(**found, scan_state=scan_state, record_state=record_state)
            entries[entry.id] = entry
    return entries


def append(path: Path, entry: Entry) -> None:
    """Add a line, whole, whoever else does so at the same time; without room for it the index stays as it was."""
    line = json.dumps(asdict(entry)).encode() + b"\n"
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with suppress(OSError):  # no locks there: lines of two runs may mix, and are then ignored
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
