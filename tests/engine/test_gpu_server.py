"""The GPU server labels scans for several workers, and a scan that kills it does not affect other scans."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_task import fake_task, make_jobs

from slant.cohort import task
from slant.cohort.task import GpuNetworks, SegmentTask, model_sha256, start_gpu_server
from slant.config import SegmentSettings
from slant.engine.gpu_server import GpuServer
from slant.engine.job import JobList, Worker, Workload
from slant.engine.layout import OutputLayout
from slant.engine.pools import LocalPool
from slant.engine.resources import WorkerPlan
from slant.engine.run import run_jobs
from slant.errors import DeviceError, InputError, ModelError, OutputError, SlantError
from slant.pipeline import label


def answer(word: str) -> tuple[str, int]:
    if word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "reject":
        raise InputError("rejected")
    if word == "fail":
        raise ZeroDivisionError("failed")
    return word, os.getpid()


@pytest.fixture(scope="module")
def server() -> Iterator[GpuServer]:
    server = GpuServer("cuda:0", answer)
    yield server
    server.stop()
    assert not Path(server.client.address).parent.exists()


@pytest.mark.slow
def test_one_server_answers_all_requests_and_survives_errors(server: GpuServer) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(server.client.call, "abcdefgh"))
    assert [word for word, _ in answers] == list("abcdefgh")
    (pid,) = {pid for _, pid in answers}
    assert pid != os.getpid()
    with pytest.raises(InputError, match="rejected"):
        server.client.call("reject")
    with pytest.raises(SlantError, match="the GPU server failed: ZeroDivisionError: failed"):
        server.client.call("fail")
    assert server.client.call("z") == ("z", pid)


@pytest.mark.slow
def test_a_killed_server_is_restarted_and_only_its_current_scan_fails(server: GpuServer) -> None:
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(server.client.call, word) for word in ("a", "kill", "b", "c")]
    assert [futures[i].result()[0] for i in (0, 2, 3)] == ["a", "b", "c"]
    with pytest.raises(SlantError, match="the GPU server was killed while processing this scan"):
        futures[1].result()


def test_a_worker_sends_the_preprocessed_scan(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toy import light_found, toy_model_folder, toy_prepared, use_light_found

    use_light_found(monkeypatch)
    (job,) = make_jobs(tmp_path / "in", {"a": "x"}, tmp_path / "out")
    job = type(job)("a", scan, job.folder, "a")
    received: list[Any] = []

    class Recorder:
        device = "cuda:1"

        def call(self, *request: Any) -> Any:
            received.extend(request)
            return light_found()

    monkeypatch.setattr("slant.pipeline.prepare", lambda *_: toy_prepared())
    monkeypatch.setattr("slant.pipeline.segment", None)
    folder = str(toy_model_folder())
    job.folder.mkdir(parents=True)
    recorder: Any = Recorder()
    SegmentTask(SegmentSettings(model=folder), model_sha256(folder))(job, tmp_path / "staging", Worker(2, recorder))
    work, model, identity, settings = received
    assert (work.func, *work.args) == (label, toy_prepared())
    assert (model, identity, settings.device, settings.threads) == (folder, model_sha256(folder), "cuda:1", 2)
    assert (job.folder / "a_record.json").is_file()


def test_an_unavailable_device_is_an_error_before_the_run(tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path / "in", {"a": "ok"}, tmp_path / "out")
    workload = Workload(JobList(jobs, {}), fake_task(), OutputLayout(tmp_path / "out"))
    with pytest.raises(DeviceError, match="cuda:9"):
        run_jobs(workload, LocalPool(WorkerPlan(1, 1), start_server=partial(start_gpu_server, "cuda:9")))


def test_a_folder_for_temporary_files_with_a_long_path_is_an_error_before_the_run(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / ("a" * 100)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises(OutputError, match=rf"{folder}, is too long for a local socket .* at most 103\); set .* TMPDIR"):
        GpuServer("cpu", answer)
    assert not list(folder.iterdir())


@pytest.mark.slow
def test_the_server_of_a_cohort_runs_the_networks() -> None:
    from toy import toy_found, toy_model_folder, toy_prepared

    folder = str(toy_model_folder())
    server = GpuServer("cpu", task._call)
    try:
        networks, settings = GpuNetworks(server.client, model_sha256(folder)), SegmentSettings(device="cpu", threads=1)
        work = partial(label, toy_prepared())
        found = networks.run(work, folder, settings)
        other = GpuNetworks(server.client, "0" * 64)
        with pytest.raises(ModelError, match="it changed since the run began"):
            other.run(work, folder, settings)
    finally:
        server.stop()
    assert np.array_equal(found.labels.data, toy_found().labels.data)
