"""Stages are timed in the order they finish."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from slant.stages import Stage, StageClock, peak_resident_mib


def test_stages_are_listed_as_they_finish() -> None:
    clock = StageClock()
    with clock("outer"), clock("inner"):
        assert clock.stages == ()
    assert [stage.name for stage in clock.stages] == ["inner", "outer"]
    assert clock.stages[0].seconds <= clock.stages[1].seconds


def test_a_stage_that_failed_is_not_listed() -> None:
    clock = StageClock()
    with clock("done"):
        pass
    with pytest.raises(ZeroDivisionError), clock("failed"):
        raise ZeroDivisionError
    assert [stage.name for stage in clock.stages] == ["done"]


def test_time_and_memory_are_rounded_for_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter((10.0, 12.34567))
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    monkeypatch.setattr("slant.stages.peak_resident_mib", lambda: 12.3456)
    clock = StageClock()
    with clock("brain"):
        pass
    assert clock.stages == (Stage("brain", 2.346, 12.3),)


def test_listed_stages_do_not_change_later() -> None:
    clock = StageClock()
    with clock("one"):
        pass
    before = clock.stages
    with clock("two"):
        pass
    assert len(before) == 1


@pytest.mark.parametrize(("platform", "mib"), [("linux", 2048.0), ("darwin", 2.0)])
def test_memory_is_counted_in_kib_on_linux_and_in_bytes_on_macos(
    platform: str, mib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slant.stages._STATUS", Path("/nosuch"))
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("resource.getrusage", lambda _: SimpleNamespace(ru_maxrss=2 * 2**20))
    assert peak_resident_mib() == mib


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc/self/status")
def test_memory_of_the_process_that_started_this_one_is_not_counted() -> None:
    code = "from slant.stages import peak_resident_mib; print(peak_resident_mib())"
    large = np.ones(2**26)  # 512 MiB
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 < float(run.stdout) < 200 < peak_resident_mib()
    assert large[0] == 1


def test_memory_is_zero_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slant.stages._STATUS", Path("/nosuch"))
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_resident_mib() == 0
