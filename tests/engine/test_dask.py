"""Dask workers write the same files as processes on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_task import fake_task, make_jobs, results, run_fake

from slant.engine import slurm as ours
from slant.engine.dask import DaskPool
from slant.engine.job import JobList, Workload
from slant.engine.layout import OutputLayout
from slant.engine.run import run_jobs
from slant.engine.slurm import ClusterSettings, read_cluster
from slant.errors import SettingsError, SlantError
from slant.extras import MissingExtraError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    import dask

    with (
        dask.config.set(
            {"distributed.scheduler.allowed-failures": 0}
        ),  # a task that kills a worker fails at once, so one worker remains
        distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None, silence_logs=50) as local,
    ):
        yield local


@pytest.mark.slow
def test_dask_writes_the_same_files_as_joblib(cluster: Any, tmp_path: Path) -> None:
    texts = {f"s{i:02d}": "ok" for i in range(8)} | {"bad": "truncated", "boom": "kill"}
    one, two, tally = tmp_path / "one", tmp_path / "two", tmp_path / "tally.txt"
    jobs = make_jobs(tmp_path / "in", texts, one)
    workload = Workload(JobList(jobs, {}), fake_task(tally=tally), OutputLayout(one, tmp_path / "work"))
    summary = run_jobs(workload, DaskPool(cluster.scheduler_address, tmp_path / "work"))
    assert set(summary.done) | set(summary.kept) == {f"s{i:02d}" for i in range(8)}
    assert [f.name for f in summary.failed] == ["bad", "boom"]
    assert "the worker ended unexpectedly while processing this scan" in summary.failed[1].reason
    assert "s00 2" in tally.read_text().splitlines(), "a scan uses the threads of its worker"
    local = run_fake(make_jobs(tmp_path / "in", texts, two), two, workers=2)
    assert [f.name for f in local.failed] == ["bad", "boom"]
    assert results(one) == results(two)
    assert list((tmp_path / "work" / "locks").iterdir()) == []
    again = run_jobs(workload, DaskPool(cluster.scheduler_address, tmp_path / "work"))
    assert len(again.kept) == 8


@pytest.mark.slow
def test_a_cluster_without_workers_is_an_error_after_some_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("slant.engine.dask._NO_WORKERS_S", 1.0)
    jobs = make_jobs(tmp_path / "in", {"a": "ok"}, tmp_path / "out")
    with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster:
        pool = DaskPool(cluster.scheduler_address)
        with pytest.raises(SlantError, match=r"has had no workers for 1 s; start some; finished scans are kept"):
            run_jobs(Workload(JobList(jobs, {}), fake_task(), OutputLayout(tmp_path / "out")), pool)


def test_a_scheduler_that_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("slant.engine.dask._TIMEOUT_S", 0.2)
    for address in ("tcp://127.0.0.1:9", "nonsense"):
        with pytest.raises(
            SettingsError, match=rf"no dask scheduler answers at {address}: .*expected for example tcp://"
        ):
            DaskPool(address).__enter__()


def test_without_dask_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slant.extras.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'slant\[cluster\]'"):
        DaskPool("tcp://127.0.0.1:9")


def test_a_cluster_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text('workers = 20\n[slurm]\nqueue = "short"\ncores = 2\nmemory = "6GB"\nwalltime = "04:00:00"\n')
    settings = read_cluster(path)
    assert settings == ClusterSettings(20, {"queue": "short", "cores": 2, "memory": "6GB", "walltime": "04:00:00"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("worker = 2", "unknown key 'worker' .did you mean 'workers'"),
        ("workers = 0", "workers must be at least 1, found 0"),
        ("workers = 2\n[slurm]\ncores = 2", "lacks memory; expected for example cores = 2"),
        ("workers = 'x'", "workers"),
        ("workers", "is not a TOML file"),
    ],
)
def test_invalid_cluster_files_are_errors(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "cluster.toml").write_text(text)
    with pytest.raises(SettingsError, match=rf"cluster\.toml.*{message}"):
        read_cluster(tmp_path / "cluster.toml")


SBATCH = """#!/bin/sh
for script; do :; done
if [ "$1" = --test-only ]; then
    if grep -q nosuch "$script"; then echo "sbatch: error: invalid partition" >&2; exit 1; fi
    exit 0
fi
if grep -q limited "$script" && ! mkdir "$0.accepted" 2> /dev/null; then
    echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2
    exit 1
fi
cp "$script" "$0.script"
setsid sh "$0.script" > "$0.log" 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
kill -TERM -- "-$1"
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of fake SLURM commands that run and cancel jobs on this machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return folder


@pytest.mark.slow
def test_slurm_jobs_write_the_same_files_as_joblib(slurm: Path, tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue")
    texts = {f"s{i:02d}": "ok" for i in range(6)} | {"bad": "truncated"}
    one, two, tally = tmp_path / "one", tmp_path / "two", tmp_path / "tally.txt"
    workload = Workload(JobList(make_jobs(tmp_path / "in", texts, one), {}), fake_task(tally=tally), OutputLayout(one))
    options = {
        "cores": 2,
        "memory": "1GB",
        "queue": "short",
        "interface": "lo",
        "log_directory": str(tmp_path / "logs"),
    }
    summary = run_jobs(workload, DaskPool(ClusterSettings(1, options)))
    assert set(summary.done) | set(summary.kept) == {f"s{i:02d}" for i in range(6)}
    assert [f.name for f in summary.failed] == ["bad"]
    script = (slurm / "sbatch.script").read_text()
    assert "#SBATCH -p short" in script
    assert "#SBATCH --cpus-per-task=2" in script
    assert {line.split()[1] for line in tally.read_text().splitlines()} == {"2"}, "a scan uses the cores of its job"
    run_fake(make_jobs(tmp_path / "in", texts, two), two)
    assert results(one) == results(two)


@pytest.mark.slow
def test_jobs_beyond_a_limit_are_a_warning_and_the_other_jobs_process_all(
    slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dask_jobqueue")
    out = tmp_path / "out"
    workload = Workload(
        JobList(make_jobs(tmp_path / "in", dict.fromkeys("abcdef", "ok"), out), {}),
        fake_task(seconds=2),
        OutputLayout(out),
    )
    options = {"cores": 1, "memory": "1GB", "queue": "limited", "interface": "lo"}
    settings = ClusterSettings(3, {**options, "log_directory": str(tmp_path / "logs")})
    assert set(run_jobs(workload, DaskPool(settings)).done) == set("abcdef")
    reason = "sbatch: error: QOSMaxSubmitJobPerUserLimit"
    warning = f"slant: warning: SLURM rejected further jobs: {reason}; continuing with 1 of 3"
    assert warning in capsys.readouterr().err.splitlines()


@pytest.mark.slow
def test_a_run_without_jobs_is_an_error_with_the_reason(slurm: Path, tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue")
    out = tmp_path / "out"
    workload = Workload(
        JobList(make_jobs(tmp_path / "in", {"a": "ok", "b": "ok"}, out), {}), fake_task(), OutputLayout(out)
    )
    (slurm / "sbatch.accepted").mkdir()
    options = {"cores": 1, "memory": "1GB", "queue": "limited", "interface": "lo"}
    settings = ClusterSettings(2, {**options, "log_directory": str(tmp_path / "logs")})
    with pytest.raises(
        SlantError, match=r"SLURM rejected every job: .*QOSMaxSubmitJobPerUserLimit; finished scans are kept"
    ):
        run_jobs(workload, DaskPool(settings))
    assert not any(out.glob("*/*_record.json"))


def test_without_sbatch_the_error_says_where_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SettingsError, match="sbatch not found; run on a login node"):
        ours.start_cluster(ClusterSettings(1, {"cores": 1, "memory": "1GB"}))


def test_slurm_jobs_are_passed_to_dask(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one process per job, and unknown arguments of SLURMCluster are rejected."""
    pytest.importorskip("dask_jobqueue")
    with pytest.raises(SettingsError, match=r"sbatch rejected the \[slurm\] settings: .*invalid partition"):
        ours.start_cluster(ClusterSettings(3, {"cores": 2, "memory": "6GB", "queue": "nosuch"}))
    settings = ClusterSettings(3, {"cores": 2, "memory": "6GB", "queue": "short", "colour": "red"})
    with pytest.raises(SettingsError, match=r"the \[slurm\] settings are invalid: .*colour"):
        ours.start_cluster(settings)
    passed: dict[str, Any] = {}

    class Recorded:
        def __init__(self, **options: Any) -> None:
            passed.update(options)

        def adapt(self, **options: Any) -> None:
            passed.update(options)

        def job_script(self) -> str:
            return ""

    monkeypatch.setattr("dask_jobqueue.slurm.SLURMCluster", Recorded)
    ours.start_cluster(ClusterSettings(3, {"cores": 2, "memory": "6GB", "processes": 2}))
    assert passed.pop("scheduler_options") == {"dashboard_address": ":0"}
    assert passed.pop("target_duration") == "0.1 s"
    passed.pop("job_cls")
    rest = {"memory": "6GB", "minimum_jobs": 1, "maximum_jobs": 3}
    assert passed == rest | {"cores": 1, "job_cpu": 2, "processes": 1}, "a worker with two threads would get two scans"
