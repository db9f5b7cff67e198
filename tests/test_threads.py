"""Calls run side by side: results and errors are those of one thread."""

from __future__ import annotations

import threading
from threading import Barrier, Event

import pytest

from slant.threads import ONE_THREAD, Threads


def test_calls_run_side_by_side() -> None:
    barrier = Barrier(2, timeout=20)
    with Threads(2) as threads:
        started = [threads.start(barrier.wait) for _ in range(2)]  # neither returns before both have started
        assert sorted(call.result() for call in started) == [0, 1]


def test_one_thread_runs_a_call_where_it_is_started() -> None:
    with Threads(1) as threads:
        assert threads.start(threading.get_ident).result() == threading.get_ident()
    assert ONE_THREAD.start(threading.get_ident).result() == threading.get_ident()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_results_are_in_the_order_of_the_calls(n_threads: int) -> None:
    with Threads(n_threads) as threads:
        started = [threads.start(pow, base, exp=2) for base in range(20)]
        assert [call.result() for call in started] == [base**2 for base in range(20)]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_error_reaches_the_caller(n_threads: int) -> None:
    def use() -> None:
        with Threads(n_threads) as threads:
            threads.start(int, "one").result()

    with pytest.raises(ValueError, match="one"):
        use()


def test_after_an_error_no_further_call_starts() -> None:
    run, release = [], Event()

    def fail() -> None:
        with Threads(2) as threads:
            for _ in range(2):
                threads.start(release.wait, 20)
            threads.start(run.append, 1)
            threading.Timer(0.05, release.set).start()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not run
