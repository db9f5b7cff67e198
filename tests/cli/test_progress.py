"""Progress of `slant segment`: a line in a terminal, lines in a log, nothing if quiet, and the remaining time."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from toy import light_found, messages, segment_toy, toy_model_folder, use_light_found

from slant.cli import progress
from slant.cli.progress import NETWORKS, STEPS, RunState, progress_text, remaining_s, shown_progress, typical_durations
from slant.cohort.task import SegmentTask, model_sha256
from slant.config import SegmentSettings
from slant.engine.job import Job, Worker
from slant.timing import StepProgress, Timing, TimingLog

TYPICAL = typical_durations(2)
ERASE = "\r\x1b[K"
LINE = re.compile(r"\r(?P<text>[^\r\x1b]+)\x1b\[K")
LOG = ["read", "load model", "quality", "overlay and reports", "write files"]
"""Steps outside the pipeline."""


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 80, term: str = "xterm") -> Iterator[list[str]]:
    """Make stderr a pseudo-terminal; the list gets all that was written when the context ends."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    monkeypatch.setenv("TERM", term)
    received, written = bytearray(), list[str]()

    def receive() -> None:
        try:
            while part := os.read(master, 4096):
                received.extend(part)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=receive)
    reader.start()
    with monkeypatch.context() as patch, open(slave, "w", encoding="utf-8") as stderr:  # noqa: PTH123 (a descriptor)
        patch.setattr(sys, "stderr", stderr)
        yield written
    reader.join()
    os.close(master)
    written.append(received.decode().replace("\r\n", "\n"))


def state_after(*names: str, slowness: float = 1.0) -> tuple[RunState, float]:
    """The state of a run when these steps have ended, and the time."""
    state, now_s = RunState(0.0), 0.0
    for name in names:
        state = state.after(StepProgress(name), now_s)
        now_s += slowness * TYPICAL[name]
        state = state.after(StepProgress(name, 1.0, Timing(name, slowness * TYPICAL[name], 0.0)), now_s)
    return state, now_s


# The remaining time


def test_a_run_at_the_usual_speed_has_the_usual_rest() -> None:
    names = list(STEPS)
    for count in range(len(names) + 1):
        state, now_s = state_after(*names[:count])
        assert remaining_s(state, now_s, TYPICAL) == pytest.approx(sum(TYPICAL[name] for name in names[count:]))


def test_a_slow_run_has_a_longer_rest() -> None:
    names = list(STEPS)[:8]
    expected = sum(TYPICAL[name] for name in list(STEPS)[8:])
    rest = [remaining_s(*state_after(*names, slowness=slowness), TYPICAL) for slowness in (1.0, 3.0, 1e6)]
    assert rest[0] == pytest.approx(expected)
    assert 2 * expected < rest[1] < 3 * expected
    assert rest[2] > 1e5 * expected, "the usual speed is forgotten"


def test_a_running_step_and_its_tiles_count() -> None:
    state, start_s = state_after(*list(STEPS)[:8])
    state = state.after(StepProgress(NETWORKS), start_s)
    before = remaining_s(state, start_s, TYPICAL)
    later = sum(TYPICAL[name] for name in list(STEPS)[9:])
    assert before == pytest.approx(TYPICAL[NETWORKS] + later)
    assert remaining_s(state, start_s + 4, TYPICAL) == pytest.approx(before - 4)
    half_s = start_s + TYPICAL[NETWORKS] / 2
    usual = state.after(StepProgress(NETWORKS, 0.5), half_s)
    assert remaining_s(usual, half_s, TYPICAL) == pytest.approx(before - TYPICAL[NETWORKS] / 2)
    fast = state.after(StepProgress(NETWORKS, 0.9), half_s)
    assert later / 2 < remaining_s(fast, half_s, TYPICAL) < 0.1 * TYPICAL[NETWORKS] + later, "faster than usual"


def test_a_step_that_takes_too_long_slows_down_the_rest() -> None:
    state, start_s = state_after("read", "load model", "robust intensities")
    state = state.after(StepProgress("brain"), start_s)
    rests = [remaining_s(state, start_s + seconds, TYPICAL) for seconds in (3, 4, 20, 100)]
    assert rests == [rests[0], *sorted(rests[1:])]
    assert rests[3] > 3 * rests[0]


def test_steps_that_were_passed_over_do_not_count() -> None:
    state, now_s = state_after(*(name for name in STEPS if name != "deform"))
    assert remaining_s(state, now_s, TYPICAL) == 0
    state, now_s = state_after("read", "load model", NETWORKS)
    assert remaining_s(state, now_s, TYPICAL) == pytest.approx(sum(TYPICAL[name] for name in list(STEPS)[9:]))


def test_steps_may_overlap_and_start_again() -> None:
    state, now_s = state_after("read", "load model")
    for name in ("brain", "register"):
        state = state.after(StepProgress(name), now_s)
    rest = remaining_s(state, now_s, TYPICAL)
    after = sum(TYPICAL[name] for name in list(STEPS)[list(STEPS).index("register") + 1 :])
    assert rest == pytest.approx(max(TYPICAL["brain"], TYPICAL["register"]) + after)
    again = state.after(StepProgress("brain"), now_s)
    assert [step.name for step in again.running] == ["register", "brain"]
    state = state.after(StepProgress("register", 1.0, Timing("register", 1.0, 0.0)), now_s)
    assert [step.name for step in state.running] == ["brain"]


def test_an_unknown_step_is_shown_and_does_not_change_the_estimate() -> None:
    state, now_s = state_after("read", "load model")
    more = state.after(StepProgress("a new step"), now_s)
    assert remaining_s(more, now_s + 100, TYPICAL) == pytest.approx(remaining_s(state, now_s, TYPICAL))
    assert progress_text(more, now_s, 3, 80).startswith("a new step |")


@pytest.mark.parametrize(
    ("left_s", "shown"),
    [(0, "a few seconds"), (5, "a few seconds"), (5.1, "about 10 s"), (90, "about 90 s"), (91, "about 2 min")],
)
def test_the_remaining_time_is_rounded_up(left_s: float, shown: str) -> None:
    state = RunState(0.0).after(StepProgress("brain"), 1.0)
    assert progress_text(state, 10.0, left_s, 80).endswith(f"| 10 s, {shown} left")


def test_the_text_fits_into_any_terminal() -> None:
    state = RunState(0.0).after(StepProgress("resample labels"), 1.0)
    texts = [progress_text(state, 20.0, 20.0, columns) for columns in range(1, 200)]
    assert all(len(text) < max(2, columns) for columns, text in enumerate(texts, 1))
    assert texts[-1] == "resampling to native space |##########          | 20 s, about 20 s left"
    assert texts[59] == "resampling to native space, 20 s, about 20 s left"
    assert texts[19] == "resampling to nativ"


# The command


def test_a_terminal_shows_one_line_that_is_erased(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    monkeypatch.setattr("slant.pipeline.segment", lambda *arguments: advance_networks(arguments[3]))
    with terminal(monkeypatch) as written:
        assert segment_toy(scan, tmp_path / "out") == 0
    (text,) = written
    assert "\n" not in text
    assert text.endswith(ERASE)
    assert LINE.sub("", text) == ERASE, "nothing but redrawn lines"
    shown = [match["text"] for match in LINE.finditer(text)]
    assert all(re.fullmatch(r"[a-z ]+ \|█* *\| \d+ s, (about \d+ (s|min)|a few seconds) left", line) for line in shown)
    titles = list(dict.fromkeys(line.partition(" |")[0] for line in shown))
    assert titles == [STEPS[name][0] for name in STEPS if name in {*LOG, NETWORKS}]
    assert capsys.readouterr().out.splitlines()[-1].startswith("done in ")


def advance_networks(listener: object) -> object:
    with TimingLog(listener)(NETWORKS) as advance:  # type: ignore[arg-type]
        advance(0.5)
    return light_found()


@pytest.mark.parametrize("columns", [0, 1, 10, 30])
def test_a_narrow_terminal_gets_short_lines(
    columns: int, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_light_found(monkeypatch)
    with terminal(monkeypatch, columns) as written:
        assert segment_toy(scan, tmp_path / "out") == 0
    lengths = {len(match["text"]) for match in LINE.finditer(written[0])}
    assert max(lengths) < (max(columns, 2) or 80) if columns else max(lengths) > 30


def test_the_line_is_redrawn_between_two_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_REDRAW_S", 0.01)
    with terminal(monkeypatch) as written, shown_progress(1) as listener:
        drawn, real = threading.Semaphore(0), progress.progress_text
        monkeypatch.setattr(progress, "progress_text", lambda *of: (drawn.release(), real(*of))[1])
        assert listener is not None
        listener(StepProgress("bias"))
        assert all(drawn.acquire(timeout=60) for _ in range(3))
    assert written[0].count("\rbias field correction") >= 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, "a broken model"])
def test_a_message_begins_on_an_empty_line(
    error: object, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_light_found(monkeypatch)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt if error is KeyboardInterrupt else OSError(error)

    monkeypatch.setattr("slant.pipeline.segment", fail)
    with terminal(monkeypatch) as written:
        assert segment_toy(scan, tmp_path / "out") == (130 if error is KeyboardInterrupt else 2)
    message = "interrupted; no partial files were left" if error is KeyboardInterrupt else error
    assert written[0].endswith(f"{ERASE}slant: {message}\n")


@pytest.mark.parametrize("where", ["a log", "a dumb terminal"])
def test_a_log_gets_one_line_for_each_finished_step(
    where: str, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    monkeypatch.setattr("slant.pipeline.segment", lambda *_: replace(light_found(), warnings=("truncated",)))
    if where == "a log":
        assert segment_toy(scan, tmp_path / "out") == 0
        text = capsys.readouterr().err
    else:
        with terminal(monkeypatch, term="dumb") as written:
            assert segment_toy(scan, tmp_path / "out") == 0
        text = written[0]
    assert re.search(r"[^\n\x20-\x7e]", text) is None, "no control characters"
    *steps, warning = text.splitlines()
    assert [re.fullmatch(r"(.+): \d+\.\d s, \d+ MiB", line)[1] for line in steps] == LOG  # type: ignore[index]
    assert warning == "slant: warning: truncated"


def test_quiet_leaves_warnings_and_errors(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    with terminal(monkeypatch) as written:
        assert segment_toy(scan, tmp_path / "a", "--quiet") == 0
    assert (written, capsys.readouterr().out) == ([""], "")
    monkeypatch.setattr("slant.pipeline.segment", lambda *_: replace(light_found(), warnings=("truncated",)))
    assert segment_toy(scan, tmp_path / "b", "--quiet") == 0
    assert tuple(capsys.readouterr()) == ("", "slant: warning: truncated\n")
    assert segment_toy(scan, tmp_path / "b", "--quiet") == 2
    assert capsys.readouterr().err.startswith(f"slant: {tmp_path / 'b'} already holds results")


def test_progress_that_cannot_be_shown_does_not_end_a_run(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_light_found(monkeypatch)

    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    for name, stderr in (("full", Full()), ("closed", None)):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stderr)
            assert segment_toy(scan, tmp_path / name) == 0


def test_a_worker_of_a_cohort_redraws_no_line(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_light_found(monkeypatch)
    folder = str(toy_model_folder())
    task = SegmentTask(SegmentSettings(model=folder), model_sha256(folder))
    (tmp_path / "out").mkdir()
    with terminal(monkeypatch) as written:
        task(Job("p1", scan, tmp_path / "out", "p1"), tmp_path / "staging", Worker(1, None))
    assert messages(written[0]) == [], "lines of finished steps, for its log"
    assert [line.partition(":")[0] for line in written[0].splitlines()][-2:] == LOG[-2:]
