"""Threads of this process: independent calls run side by side; torch is limited to one thread in each.

Results do not depend on the number of threads: they are collected in a fixed order, and no sum is split among threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import ParamSpec, Self, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Threads:
    """Context manager that runs independent calls side by side, on at most ``n_threads`` threads.

    Calls that spend their time in NumPy, SciPy, Pillow or zlib, which release Python's lock, become faster. A call must
    not start others. With one thread, which is the default, every call runs where it is started.
    """

    def __init__(self, n_threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(n_threads) if n_threads > 1 else None

    def start(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Start a call; its result, or its error, comes from ``result()`` of the future."""
        if self._pool is not None:
            return self._pool.submit(function, *args, **kwargs)
        future: Future[_T] = Future()
        future.set_result(function(*args, **kwargs))
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Wait for the calls; after an error, those that do not run yet are not started."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=error is not None)


ONE_THREAD = Threads()
"""Runs every call where it is started."""


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
        import torch

        with self._lock:
            self._users -= 1
            torch.set_num_threads(self._n_threads)


def use_one_thread() -> int:
    """Limit torch operations of this thread to one thread; returns the previous number.

    A thread adopts the global number of torch when it first reads it, so it must read it before it sets its own.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    return before


SINGLE_THREAD = SingleThread()
"""The one for this process: its users share the count."""
