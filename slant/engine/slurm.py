"""SLURM jobs as workers, started by dask-jobqueue."""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slant.config import build, read_toml
from slant.errors import SettingsError
from slant.files import temporary_folder

_CANCELLED_S = 30
_ANY_PORT = {"scheduler_options": {"dashboard_address": ":0"}}  # two runs on one machine need two ports
_TARGET_DURATION = "0.1 s"  # start as many jobs as scans at once: dask first assumes that a scan takes 0.5 s


@dataclass(frozen=True)
class ClusterSettings:
    """SLURM jobs to start as workers, from a TOML file.

    Attributes
    ----------
    workers : int
        Number of jobs at the same time; each processes one scan after the other.
    slurm : dict
        Arguments of `dask_jobqueue.SLURMCluster`: queue, account, cores, memory, walltime and others.
    """

    workers: int
    slurm: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SettingsError(f"workers must be at least 1, found {self.workers}")
        missing = [key for key in ("cores", "memory") if key not in self.slurm]
        if missing:
            raise SettingsError(
                f"[slurm] lacks {' and '.join(missing)}; expected for example cores = 2, memory = '6GB'"
            )


def read_cluster(path: Path) -> ClusterSettings:
    """Read the settings of SLURM jobs from a TOML file.

    Raises
    ------
    SettingsError
        If the file cannot be read, or a key is unknown or missing.
    """
    try:
        return build(ClusterSettings, read_toml(path), str(path))
    except SettingsError as error:
        raise SettingsError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def start_cluster(settings: ClusterSettings) -> Any:
    """Start SLURM jobs with one worker each; dask counts one thread per worker, or it would send several scans."""
    from dask_jobqueue.slurm import SLURMCluster, SLURMJob
    from distributed import Status

    if shutil.which("sbatch") is None:
        raise SettingsError("sbatch not found; run on a login node of the SLURM cluster")

    class ReportingJob(SLURMJob):
        """A job that stores why SLURM rejected it, which dask only logs, and that it is closed."""

        rejection = ""

        async def start(self) -> None:
            try:
                await super().start()  # type: ignore[no-untyped-call]
            except (RuntimeError, ValueError) as error:  # SLURM rejected it, or printed no job id
                text = str(error)
                self.rejection = " ".join(text.partition("stderr:")[2].split() or text.split())
                self.status = Status.running  # dask would assume this too, after printing a traceback

        async def close(self) -> None:
            await super().close()  # type: ignore[no-untyped-call]
            self.status = Status.closed  # dask requires this of every job before it closes

    one_worker_per_job = {"processes": 1, "cores": 1, "job_cpu": settings.slurm.get("job_cpu", settings.slurm["cores"])}
    job_class: Any = ReportingJob
    try:
        cluster = SLURMCluster(**{**_ANY_PORT, **settings.slurm, **one_worker_per_job}, job_cls=job_class)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"the [slurm] settings are invalid: {error}; see dask_jobqueue.SLURMCluster") from error
    logging.getLogger("distributed").setLevel(logging.ERROR)  # otherwise it prints a traceback for each job that ends
    _check_jobs(str(cluster.job_script()))
    cluster.adapt(minimum_jobs=1, maximum_jobs=settings.workers, target_duration=_TARGET_DURATION)
    return cluster


def _check_jobs(script: str) -> None:
    """Check that SLURM accepts such jobs; dask only logs a rejection, and keeps waiting for the job."""
    with temporary_folder() as folder:
        path = folder / "job.sh"
        path.write_text(script, encoding="utf-8")
        test = _run("sbatch", "--test-only", str(path))
    if test.returncode:
        reason = " ".join(test.stderr.split()) or f"sbatch --test-only exited with status {test.returncode}"
        raise SettingsError(f"sbatch rejected the [slurm] settings: {reason}")


def wait_for_end(jobs: list[str]) -> None:
    """Wait until cancelled jobs have ended, so that their partial files can be removed."""
    end = time.monotonic() + _CANCELLED_S
    while time.monotonic() < end:
        try:
            queue = _run("squeue", "--noheader", f"--jobs={','.join(jobs)}")
        except OSError:
            return
        if not queue.stdout.strip():  # also if SLURM no longer knows the jobs
            return
        time.sleep(0.2)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (commands of SLURM)
