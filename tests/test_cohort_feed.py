"""One process labels what others prepare, and a scan that kills it costs no other scan."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fake_work import FakeWork, make_jobs

from slant.cohort import feed
from slant.cohort.feed import LabellingProcess
from slant.cohort.jobs import JobList
from slant.cohort.machine import Plan
from slant.cohort.place import Place
from slant.cohort.pools import LocalPool
from slant.cohort.run import Cohort, run_cohort
from slant.cohort.work import SegmentWork
from slant.config import SegmentSettings
from slant.errors import DeviceError, InputError, SlantError


def answer(word: str) -> tuple[str, int]:
    if word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "refuse":
        raise InputError("refused")
    if word == "fail":
        raise ZeroDivisionError("failed")
    return word, os.getpid()


@pytest.fixture(scope="module")
def process() -> Iterator[LabellingProcess]:
    found = LabellingProcess("cuda:0", answer)
    yield found
    found.stop()
    assert not Path(found.feed.address).parent.exists()


@pytest.mark.slow
def test_one_process_answers_all_and_survives_what_fails(process: LabellingProcess) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(process.feed.ask, "abcdefgh"))
    assert [word for word, _ in answers] == list("abcdefgh")
    (pid,) = {pid for _, pid in answers}
    assert pid != os.getpid()
    with pytest.raises(InputError, match="refused"):
        process.feed.ask("refuse")
    with pytest.raises(SlantError, match="labelling failed: ZeroDivisionError: failed"):
        process.feed.ask("fail")
    assert process.feed.ask("z") == ("z", pid)


@pytest.mark.slow
def test_a_killed_one_is_started_again_and_only_its_own_scan_fails(process: LabellingProcess) -> None:
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(process.feed.ask, word) for word in ("a", "kill", "b", "c")]
    assert [futures[i].result()[0] for i in (0, 2, 3)] == ["a", "b", "c"]
    with pytest.raises(SlantError, match="the labelling process was killed while it was at this scan"):
        futures[1].result()


def test_a_worker_sends_what_it_prepared(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toy import light_found, toy_model_folder, toy_prepared, use_light_found

    from slant.cohort.work import model_sha256

    use_light_found(monkeypatch)
    (job,) = make_jobs(tmp_path / "in", {"a": "x"}, tmp_path / "out")
    job = type(job)("a", scan, job.folder, "a")
    asked: list[Any] = []

    class Recorder:
        device = "cuda:1"

        def label(self, *request: Any) -> Any:
            asked.extend(request)
            return light_found()

    monkeypatch.setattr("slant.pipeline.prepare", lambda *_: toy_prepared())
    monkeypatch.setattr("slant.pipeline.segment", None)
    monkeypatch.setattr(feed, "_current", Recorder())
    folder = str(toy_model_folder())
    job.folder.mkdir(parents=True)
    SegmentWork(SegmentSettings(model=folder), model_sha256(folder))(job, tmp_path / "stage", 2)
    prepared, model, settings = asked
    assert prepared is toy_prepared()
    assert (model, settings.device, settings.threads) == (folder, "cuda:1", 2)
    assert (job.folder / "a_record.json").is_file()


def test_an_absent_device_is_an_error_before_any_work(tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path / "in", {"a": "ok"}, tmp_path / "out")
    cohort = Cohort(JobList(jobs, {}), FakeWork(), Place(tmp_path / "out"))
    with pytest.raises(DeviceError, match="cuda:9"):
        run_cohort(cohort, LocalPool(Plan(1, 1), device="cuda:9"))
