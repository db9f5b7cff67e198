"""Numbers of workers and threads, and the choice of a pool."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_task import fake_task, make_jobs

from slant.engine import resources
from slant.engine.job import JobList, Workload
from slant.engine.pools import LocalPool, choose_pool
from slant.engine.resources import Resources, WorkerPlan, plan
from slant.errors import SettingsError


@pytest.mark.parametrize(
    ("cores", "gib", "options", "expected"),
    [
        (8, 64, {}, WorkerPlan(8, 1)),
        (8, 7, {}, WorkerPlan(3, 2)),
        (8, 1, {}, WorkerPlan(1, 8)),
        (8, 64, {"jobs": 3}, WorkerPlan(3, 2)),
        (8, 1, {"jobs": 3}, WorkerPlan(3, 2)),
        (8, 64, {"mem_gb": 5.0}, WorkerPlan(2, 4)),
        (8, 1, {"mem_gb": 5.0, "jobs": 4}, WorkerPlan(2, 4)),
        (8, 64, {"threads": 4}, WorkerPlan(2, 4)),
        (8, 64, {"threads": 3, "jobs": 5}, WorkerPlan(5, 3)),
    ],
)
def test_workers_fit_cores_and_memory(
    monkeypatch: pytest.MonkeyPatch, cores: int, gib: float, options: dict[str, float], expected: WorkerPlan
) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: cores)
    monkeypatch.setattr(resources, "available_gib", lambda: gib)
    assert plan(100, **options) == expected  # type: ignore[arg-type]
    assert plan(1, **options).workers == 1  # type: ignore[arg-type]


def test_too_few_jobs_or_too_little_memory_is_an_error() -> None:
    with pytest.raises(SettingsError, match="--jobs must be at least 1, found 0"):
        plan(3, jobs=0)
    for too_little in (1.0, float("nan")):
        with pytest.raises(SettingsError, match="--mem-gb must be at least 2, the memory of one worker, found"):
            plan(3, mem_gb=too_little)


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("0::/job/step\n", {"job/memory.max": "3221225472", "job/memory.current": "1073741824"}),
        (
            "5:cpu:/\n4:memory:/job\n",
            {"memory/job/memory.limit_in_bytes": "3221225472", "memory/job/memory.usage_in_bytes": "1073741824"},
        ),
    ],
)
def test_the_memory_limit_of_a_batch_job_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, files: dict[str, str]
) -> None:
    for name, text in {**files, "proc": line, "job/step/memory.max": "max", "job/step/memory.current": "1"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(resources, "_CGROUP", tmp_path)
    monkeypatch.setattr(resources, "_PROC_CGROUP", tmp_path / "proc")
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 2**40}))
    assert resources.available_gib() == 2.0
    (tmp_path / "proc").unlink()
    assert resources.available_gib() == 1024.0


def test_the_resources_choose_the_pool(tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path / "in", dict.fromkeys("abc", "ok"), tmp_path / "out")
    workload = Workload(JobList(jobs, {}), fake_task(), Resources().layout(tmp_path / "out"))
    pool = choose_pool(workload, Resources(), default_jobs=1)
    assert isinstance(pool, LocalPool)
    assert pool.slots == 1
    assert choose_pool(workload, Resources(jobs=2), default_jobs=1).slots == 2
    with pytest.raises(SettingsError, match=r"cannot read .*cluster.toml"):
        choose_pool(workload, Resources(cluster=tmp_path / "cluster.toml"))
    pytest.importorskip("distributed")
    from slant.engine.dask import DaskPool

    assert isinstance(choose_pool(workload, Resources(scheduler="tcp://node01:8786")), DaskPool)
