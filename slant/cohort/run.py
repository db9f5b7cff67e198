"""Segments the scans of a cohort and writes its tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from slant.cohort.group import GroupSummary, write_group
from slant.cohort.task import SegmentTask, model_sha256, start_gpu_server
from slant.engine.failures import Failure
from slant.engine.job import JobList, Workload
from slant.engine.layout import absolute
from slant.engine.pools import choose_pool
from slant.engine.resources import Resources
from slant.engine.run import Summary, run_jobs
from slant.run import Request


@dataclass(frozen=True)
class Cohort:
    """Scans to segment, and with what.

    Attributes
    ----------
    workload : Workload
        Scans, task and output directory.
    task : SegmentTask
        The task of the workload.
    """

    workload: Workload
    task: SegmentTask
    resources: Resources


def make_cohort(job_list: JobList, out: Path, request: Request, resources: Resources, *, force: bool = False) -> Cohort:
    """The cohort of these scans.

    Parameters
    ----------
    out : Path
        Output directory; not yet created.
    force : bool, optional
        Whether finished scans are processed again.

    Raises
    ------
    ModelError
        If the model is not found.
    """
    from slant.io.models import embedded_models

    settings = request.settings
    if settings.model not in embedded_models():
        settings = replace(settings, model=str(absolute(settings.model)))  # workers may have another working directory
    task = SegmentTask(settings, model_sha256(settings.model), request.volume, request.reports)
    return Cohort(Workload(job_list, task, resources.layout(out), force), task, resources)


def segment_cohort(cohort: Cohort) -> Summary:
    """Segment the unfinished scans of a cohort, without tables.

    Raises
    ------
    SettingsError
        If the resources are not enough for a worker, or the description of the SLURM jobs is invalid.
    DeviceError
        If the device is not available.
    OutputError
        If the output directory cannot be written.
    SlantError
        If the workers cannot continue.
    """
    settings = cohort.task.settings
    start_server = partial(start_gpu_server, settings.device)
    pool = choose_pool(cohort.workload, cohort.resources, threads=settings.threads, start_server=start_server)
    return run_jobs(cohort.workload, pool)


def tabulate(cohort: Cohort, failed: Iterable[Failure], participants: Path | None = None) -> GroupSummary:
    """Write the tables and the dashboard of a cohort after a run.

    Parameters
    ----------
    failed : iterable of Failure
        Failures of the run.
    participants : Path, optional
        ``participants.tsv``, whose columns become filters of the dashboard.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    layout, jobs = cohort.workload.layout, cohort.workload.job_list.jobs
    return write_group(layout, jobs, failed, participants=participants)


def tabulate_dataset(cohort: Cohort, participants: Path) -> GroupSummary:
    """Write the tables and the dashboard of a BIDS dataset; a scan without results counts as a failure.

    Parameters
    ----------
    cohort : Cohort
        Its scans are not segmented here.
    participants : Path
        ``participants.tsv``, whose columns become filters of the dashboard; may be missing.
    """
    layout, job_list = cohort.workload.layout, cohort.workload.job_list
    layout.make()
    missing = [
        Failure(job.id, "not segmented; run the participant level", str(job.scan), "")
        for job in job_list.jobs
        if not (job.folder / cohort.task.names(job).record).is_file()
    ]
    unreadable = [Failure(folder, reason, folder, "") for folder, reason in job_list.unreadable.items()]
    return write_group(layout, job_list.jobs, missing + unreadable, bids=True, participants=participants)
