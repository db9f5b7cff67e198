"""Sets up a child process: the signals of the run go to its parent, and it does not outlive its parent."""

from __future__ import annotations

import os
import signal
import threading
import time


def start_child(parent: int) -> None:
    """Ignore signals, which the parent handles, and end this process if the parent is killed.

    Parameters
    ----------
    parent : int
        Process id of the parent.
    """
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
