"""A lock for each scan that ends with its owner, however that ends.

It is the kernel's lock on an open file (``flock``; NFS passes it to the server). A killed owner loses it at once, and
it knows no clock, so that a clock set back or two machines that disagree do no harm. The file only tells whose it is.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slant.errors import OutputError

_WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def exclusive(path: Path) -> Iterator[str]:
    """Hold the lock while the body runs, if nobody else does.

    Yields
    ------
    str
        Empty if we hold it; else who does.

    Raises
    ------
    OutputError
        If the file system has no locks, or the file cannot be made.
    """
    try:
        descriptor = _take(path)
    except OSError as error:
        advice = "free some space or choose a folder that may be written"
        if error.errno in _WITHOUT_LOCKS:
            advice = "its file system has no locks; give a folder on one that has, the same for all runs, by --work-dir"
        raise OutputError(f"cannot lock {path}: {error.strerror or error}; {advice}") from error
    if descriptor is None:
        yield _owner(path)
        return
    try:
        with suppress(OSError):  # a full disk; the lock holds without
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
        yield ""
    finally:
        with suppress(OSError):
            path.unlink()  # while it is held: who opened it before sees that it is no longer the file of that name
        os.close(descriptor)


def _take(path: Path) -> int | None:
    """A descriptor that holds the lock of the file that has that name now; None if another process does."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same(descriptor, path):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _same(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _owner(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
