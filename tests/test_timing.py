"""Steps are timed in the order in which they finish."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from slant.timing import StepProgress, Timing, TimingLog, peak_resident_mib


def test_timings_are_in_the_order_in_which_steps_finish() -> None:
    clock = TimingLog()
    with clock("outer"), clock("inner"):
        assert clock.timings == ()
    assert [timing.name for timing in clock.timings] == ["inner", "outer"]
    assert clock.timings[0].runtime_s <= clock.timings[1].runtime_s


def test_a_failed_step_has_no_timing() -> None:
    clock = TimingLog()
    with clock("done"):
        pass
    with pytest.raises(ZeroDivisionError), clock("failed"):
        raise ZeroDivisionError
    assert [timing.name for timing in clock.timings] == ["done"]


def test_time_and_memory_are_rounded_for_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter((10.0, 12.34567))
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    monkeypatch.setattr("slant.timing.peak_resident_mib", lambda: 12.3456)
    clock = TimingLog()
    with clock("brain"):
        pass
    assert clock.timings == (Timing("brain", 2.346, 12.3),)


def test_returned_timings_do_not_change_later() -> None:
    clock = TimingLog()
    with clock("one"):
        pass
    before = clock.timings
    with clock("two"):
        pass
    assert len(before) == 1


@pytest.mark.parametrize(("platform", "mib"), [("linux", 2048.0), ("darwin", 2.0)])
def test_memory_is_read_in_kib_on_linux_and_in_bytes_on_macos(
    platform: str, mib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slant.timing._STATUS", Path("/nosuch"))
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("resource.getrusage", lambda _: SimpleNamespace(ru_maxrss=2 * 2**20))
    assert peak_resident_mib() == mib


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc/self/status")
def test_memory_of_the_parent_process_is_not_counted() -> None:
    code = "from slant.timing import peak_resident_mib; print(peak_resident_mib())"
    large = np.ones(2**26)  # 512 MiB
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 < float(run.stdout) < 200 < peak_resident_mib()
    assert large[0] == 1


def test_memory_is_zero_if_the_system_does_not_report_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slant.timing._STATUS", Path("/nosuch"))
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_resident_mib() == 0


def test_a_listener_is_told_when_a_step_starts_goes_on_and_ends() -> None:
    told: list[StepProgress] = []
    clock = TimingLog(told.append)
    with clock("networks") as advance:
        assert told == [StepProgress("networks", 0.0)]
        advance(0.25)
    (timing,) = clock.timings
    assert told[1:] == [StepProgress("networks", 0.25), StepProgress("networks", 1.0, timing)]


def test_a_listener_is_not_told_of_the_end_of_a_failed_step() -> None:
    told: list[StepProgress] = []
    with pytest.raises(ZeroDivisionError), TimingLog(told.append)("failed"):
        raise ZeroDivisionError
    assert told == [StepProgress("failed")]


def test_timings_of_another_log_are_added_in_their_order() -> None:
    clock, other = TimingLog(), (Timing("brain", 1.0, 2.0), Timing("bias", 3.0, 4.0))
    with clock("read"):
        pass
    clock.add(other)
    assert clock.timings[1:] == other


def test_a_timing_is_printed_with_units() -> None:
    assert str(Timing("brain", 3.851, 1361.7)) == "brain: 3.9 s, 1362 MiB"
