"""Limits torch to one thread: no sum is split among threads, so results do not depend on their number."""

from __future__ import annotations

from threading import Lock

import torch


class SingleThread:
    """Context manager that limits torch to one thread in each thread of Python that enters it.

    On entering it returns the number of threads that torch had before the first of them entered.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._n_threads = 1

    def __enter__(self) -> int:
        with self._lock:
            before = use_one_thread()
            if not self._users:
                self._n_threads = before
            self._users += 1
            return self._n_threads

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            torch.set_num_threads(self._n_threads)


def use_one_thread() -> int:
    """Limit torch operations of this thread to one thread; returns the previous number.

    A thread adopts the global number of torch when it first reads it, so it must read it before it sets its own.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    return before


SINGLE_THREAD = SingleThread()
"""The one for this process: its users share the count."""
