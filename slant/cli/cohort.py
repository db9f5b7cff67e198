"""`slant cohort`: segments many scans and tabulates their volumes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.config import RunReportSettings, SegmentSettings
from slant.errors import OutputError, SettingsError

if TYPE_CHECKING:
    from slant.cohort.task import SegmentTask
    from slant.engine.job import JobList
    from slant.engine.pools import Pool
    from slant.engine.run import Cohort, Summary
    from slant.run import Request

_DEFAULTS, _REPORTS = SegmentSettings(), RunReportSettings()


@dataclass(frozen=True)
class Resources:
    """Workers and memory for a cohort.

    Attributes
    ----------
    jobs : int, optional
        Scans processed in parallel (default: as many as cores and available memory allow).
    mem_gb : float, optional
        Memory for all scans that are processed at the same time, in GiB (default: the available memory).
    work_dir : Path, optional
        Directory for locks and temporary files, shared by all runs on one output directory.
    scheduler : str, optional
        Address of a running dask scheduler, for example tcp://node01:8786. Its workers process the scans.
    cluster : Path, optional
        TOML file that describes SLURM jobs to start as workers: workers = N and a table [slurm].
    """

    jobs: int | None = None
    mem_gb: float | None = None
    work_dir: Path | None = None
    scheduler: str | None = None
    cluster: Path | None = None

    def __post_init__(self) -> None:
        if self.scheduler is not None and self.cluster is not None:
            raise SettingsError("--scheduler uses a running cluster and --cluster starts one; give only one of them")
        if self.jobs is not None and (self.scheduler or self.cluster):
            raise SettingsError("--jobs is for this machine; each worker of a cluster processes one scan at a time")


_RESOURCES = Resources()


@app.command
def cohort(
    *paths: str,
    settings: Annotated[SegmentSettings, Parameter(name="*")] = _DEFAULTS,
    resources: Annotated[Resources, Parameter(name="*")] = _RESOURCES,
    volume: int | None = None,
    reports: Annotated[RunReportSettings, Parameter(name="*")] = _REPORTS,
    force: Annotated[bool, Parameter(negative="")] = False,
    print_jobs: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Segment many scans and tabulate volumes; rerun to resume.

    Parameters
    ----------
    paths : str
        Scans, then the output directory (created if missing).
        Scans are folders, files, TSV tables with the columns name and T1w, or quoted patterns: 'study/*/T1.nii.gz'.
    volume : int
        Volume of 4D files to segment, counted from 0.
    force : bool
        Reprocess finished scans.
    print_jobs : bool
        Print one command per unfinished scan and exit, for array jobs.
    """
    if len(paths) < 2:
        raise SettingsError(
            f"found {len(paths)} path(s), expected scans and then the output directory: slant cohort SCANS OUT"
        )
    from slant.cohort.commands import commands
    from slant.cohort.jobs import absolute, list_jobs
    from slant.run import Request

    *inputs, last = paths
    out = absolute(last)
    if out.is_file():
        raise OutputError(f"{out} is a file; the last path must be the output directory")
    prepared, task = prepare(list_jobs(inputs, out), out, Request(settings, volume, reports), resources, force=force)
    if print_jobs:
        for line in commands(prepared, task):
            say(line)
        return
    summary = run(prepared, resources, settings)
    tables = (Path(path) / "participants.tsv" for path in inputs)
    _report(summary, prepared, next((table for table in tables if table.is_file()), None))


def prepare(
    job_list: JobList, out: Path, request: Request, resources: Resources, *, force: bool = False
) -> tuple[Cohort, SegmentTask]:
    """The cohort and its task; ModelError if the model is not found."""
    from slant.cohort.jobs import absolute
    from slant.cohort.task import SegmentTask, model_sha256
    from slant.engine.layout import OutputLayout
    from slant.engine.run import Cohort
    from slant.io.models import embedded_models

    settings = request.settings
    if settings.model not in embedded_models():
        settings = replace(settings, model=str(absolute(settings.model)))  # workers may have another working directory
    task = SegmentTask(settings, model_sha256(settings.model), request.volume, request.reports)
    work_dir = None if resources.work_dir is None else absolute(resources.work_dir)
    return Cohort(job_list, task, OutputLayout(out, work_dir), force), task


def run(prepared: Cohort, resources: Resources, settings: SegmentSettings) -> Summary:
    """Segment the unfinished scans of a cohort."""
    from slant.engine.run import run_cohort

    return run_cohort(prepared, _pool(prepared, resources, settings))


def _pool(prepared: Cohort, resources: Resources, settings: SegmentSettings) -> Pool:
    if resources.scheduler is not None or resources.cluster is not None:
        from slant.engine.dask import DaskPool, read_cluster

        cluster = resources.scheduler or read_cluster(Path(str(resources.cluster)))
        return DaskPool(cluster, prepared.layout.work_dir)
    from slant.engine.pools import LocalPool
    from slant.engine.resources import plan

    scans = len(prepared.job_list.jobs)
    worker_plan = plan(scans, jobs=resources.jobs, mem_gb=resources.mem_gb, threads=settings.threads)
    return LocalPool(worker_plan, prepared.layout.work_dir, settings.device)


def _report(summary: Summary, prepared: Cohort, participants: Path | None) -> None:
    """Write the tables, print a summary, and exit with status 1 if a scan failed."""
    from slant.cohort.table import write_tables

    for failure in summary.failed:
        sys.stderr.write(f"slant: {failure.name} failed: {failure.reason}\n")
    layout, jobs = prepared.layout, prepared.job_list.jobs
    rows, failures = write_tables(layout, jobs, summary.failed, participants=participants)
    done, kept = len(summary.done), len(summary.kept)
    say(f"{done} scan(s) segmented, {kept} already done, {len(summary.failed)} failed; results: {layout.out}")
    say(f"volumes of {rows} scan(s): {layout.out / 'volumes.tsv'}; overview: group.html")
    if failures:
        say(f"{failures} failure(s) with reasons: {layout.out / 'failures.tsv'}")
    if summary.failed:
        sys.exit(1)
