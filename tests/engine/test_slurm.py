"""SLURM workers on a real SLURM, which is started for the tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_task import fake_task, make_jobs, results, run_fake

from slant.engine.dask import DaskPool
from slant.engine.job import JobList, Workload
from slant.engine.layout import OutputLayout
from slant.engine.run import run_jobs
from slant.engine.slurm import ClusterSettings
from slant.errors import SettingsError

TESTS = Path(__file__).resolve().parents[1]
SCRIPT = TESTS.parent / "benchmarks" / "local_slurm.sh"
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(shutil.which(d, path=f"{os.environ['PATH']}:/usr/sbin") is None for d in DAEMONS),
        reason="SLURM is not installed: apt-get install slurm-wlm munge",
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Configuration file of a running SLURM."""
    pytest.importorskip("dask_jobqueue")
    folder = tmp_path_factory.mktemp("slurm")
    environment = {**os.environ, "PORT": "26817"}
    with (folder / "output.txt").open("w") as output:
        started = subprocess.run(
            [SCRIPT, "start", folder, "4"], env=environment, stdout=output, stderr=output, check=False
        )
    try:
        assert started.returncode == 0, (folder / "output.txt").read_text()
        yield folder / "slurm.conf"
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)


@pytest.fixture(autouse=True)
def environment(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS), *sys.path]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def settings(tmp_path: Path, **options: object) -> ClusterSettings:
    known = {"cores": 2, "memory": "500MB", "walltime": "00:10:00", "interface": "lo"}
    return ClusterSettings(2, {**known, "log_directory": str(tmp_path / "logs"), **options})


def queued() -> list[str]:
    queue = subprocess.run(["squeue", "--noheader", "--format=%i"], capture_output=True, text=True, check=True)
    return queue.stdout.split()


def remaining_jobs() -> list[str]:
    """Jobs that remain in the queue; a cancelled job is listed until its node has cleaned up."""
    end = time.monotonic() + 60
    while (jobs := queued()) and time.monotonic() < end:
        time.sleep(0.2)
    return jobs


def test_every_job_processes_scans_and_the_files_are_those_of_joblib(tmp_path: Path) -> None:
    """Jobs have several cores: dask must not send two scans to one job and none to the other."""
    texts = {f"s{i:02d}": "ok" for i in range(6)} | {"bad": "truncated"}
    one, two, tally = tmp_path / "one", tmp_path / "two", tmp_path / "tally.txt"
    task = fake_task(seconds=3, tally=tally)
    workload = Workload(JobList(make_jobs(tmp_path / "in", texts, one), {}), task, OutputLayout(one))
    summary = run_jobs(workload, DaskPool(settings(tmp_path)))
    assert [f.name for f in summary.failed] == ["bad"]
    assert {line.split()[1] for line in tally.read_text().splitlines()} == {"2"}
    workers = {(one / "logs" / f"s{i:02d}.log").read_text().split()[5] for i in range(6)}
    assert len(workers) == 2, "both jobs processed scans"
    run_fake(make_jobs(tmp_path / "in", texts, two), two)
    assert results(one) == results(two)
    assert remaining_jobs() == []


def test_settings_that_slurm_rejects_are_an_error(tmp_path: Path) -> None:
    for options, message in (({"queue": "nosuch"}, "Invalid partition"), ({"memory": "9TB"}, "not available")):
        with pytest.raises(SettingsError, match=rf"sbatch rejected the \[slurm\] settings: .*{message}"):
            DaskPool(settings(tmp_path, **options)).__enter__()
    assert remaining_jobs() == []


RUN = """
import sys
from pathlib import Path
from fake_task import fake_task, make_jobs
from slant.cli.app import guarded
from slant.engine.dask import DaskPool
from slant.engine.job import JobList, Workload
from slant.engine.layout import OutputLayout
from slant.engine.run import run_jobs
from slant.engine.slurm import read_cluster

top = Path(sys.argv[1])
jobs = make_jobs(top / "in", {f"s{i}": "sleep 8" for i in range(4)}, top / "out")
pool = DaskPool(read_cluster(top / "cluster.toml"))
guarded(lambda: run_jobs(Workload(JobList(jobs, {}), fake_task(), OutputLayout(top / "out")), pool))
"""


def start(tmp_path: Path) -> subprocess.Popen[str]:
    text = 'workers = 2\n[slurm]\ncores = 1\nmemory = "500MB"\nwalltime = "00:10:00"\ninterface = "lo"\n'
    (tmp_path / "cluster.toml").write_text(f'{text}log_directory = "{tmp_path / "logs"}"\n')
    run = subprocess.Popen([sys.executable, "-c", RUN, tmp_path], stdout=-1, stderr=-1, text=True)
    end = time.monotonic() + 60
    while (
        len(list(OutputLayout(tmp_path / "out").staging.glob("*/s*"))) < 4
    ):  # both jobs have written half of their files
        assert time.monotonic() < end
        time.sleep(0.1)
    return run


def test_sigterm_cancels_the_jobs_and_cleans_up(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.send_signal(signal.SIGTERM)
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 143
    assert stderr.endswith("slant: terminated; no partial files were left\n")
    assert "Traceback" not in stderr
    layout = OutputLayout(tmp_path / "out")
    assert not [*layout.staging.iterdir(), *layout.locks.iterdir()]
    assert [path.name for path in layout.out.iterdir() if not path.name.startswith(".")] == ["logs"]
    assert remaining_jobs() == []


def test_after_sigkill_the_jobs_finish_their_scans_and_end(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.kill()
    run.communicate(timeout=60)
    assert remaining_jobs() == []
    jobs = make_jobs(tmp_path / "in", {f"s{i}": "sleep 8" for i in range(4)}, tmp_path / "out")
    for job in jobs[2:]:
        job.scan.write_text("ok")
    again = run_fake(jobs, tmp_path / "out")
    assert (again.kept, again.done) == (("s0", "s1"), ("s2", "s3"))


def test_the_scan_of_a_cancelled_job_is_processed_by_another(tmp_path: Path) -> None:
    run = start(tmp_path)
    subprocess.run(["scancel", min(queued(), key=int)], check=True)
    _, stderr = run.communicate(timeout=180)
    assert run.returncode == 0, stderr
    assert {path.name for path in (tmp_path / "out").glob("*/*_record.json")} == {f"s{i}_record.json" for i in range(4)}
    assert "Traceback" not in stderr
