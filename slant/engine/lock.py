"""A file lock for each scan, which is released when its owner ends for any reason.

It is a lock of the kernel on an open file (``flock``; NFS passes it to the server). A killed owner loses it at once. It
does not depend on clocks, so wrong or different clocks do no harm. The content of the file only names the owner.
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
    """Hold the lock while the body runs, unless another process holds it.

    Yields
    ------
    str
        Empty if this process holds the lock; otherwise the owner.

    Raises
    ------
    OutputError
        If the file system does not support locks, or the file cannot be created.
    """
    try:
        descriptor = _acquire(path)
    except OSError as error:
        advice = "check free space and write permission"
        if error.errno in _WITHOUT_LOCKS:
            advice = "the file system has no locks; use --work-dir with a folder on another one, the same for all runs"
        raise OutputError(f"cannot lock {path}: {error.strerror or error}; {advice}") from error
    if descriptor is None:
        yield _owner(path)
        return
    try:
        with suppress(OSError):  # a full disk; the lock works without the content
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
        yield ""
    finally:
        with suppress(OSError):
            path.unlink()  # still locked: a process that opened it before notices that the name is gone
        os.close(descriptor)


def _acquire(path: Path) -> int | None:
    """Descriptor that holds the lock of the current file of this name; None if another process holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_current(descriptor, path):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_current(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
