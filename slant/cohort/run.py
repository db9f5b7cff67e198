"""Segments the scans of a cohort, prints them as commands, and writes the tables of the cohort."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from slant.cohort.command import option_words
from slant.cohort.dashboard import write_dashboard
from slant.cohort.table import DESCRIPTIONS, VOLUMES, common_reasons, describe_columns, format_table, read_cohort
from slant.cohort.task import SegmentTask, model_sha256, start_gpu_server
from slant.config import RunReportSettings, SegmentSettings
from slant.engine.failures import TABLE, Failure, all_failures, write_failures, write_text
from slant.engine.job import Job, JobList, Workload
from slant.engine.layout import absolute
from slant.engine.pools import choose_pool
from slant.engine.resources import WORKER_GIB, Resources
from slant.engine.run import Summary, run_jobs, unfinished
from slant.io.staging import json_text
from slant.run import Request

ATLAS_WORKER_GIB = 3.0
"""Peak resident memory in GiB of a worker that registers atlases, too."""


@dataclass(frozen=True)
class Cohort:
    """Scans to segment, the task that does it (also in the workload), and the resources for it.

    Attributes
    ----------
    worker_gib : float
        Peak resident memory of a worker in GiB.
    """

    workload: Workload
    task: SegmentTask
    resources: Resources
    worker_gib: float = WORKER_GIB


@dataclass(frozen=True)
class GroupSummary:
    """Numbers of rows of ``volumes.tsv`` and of ``failures.tsv``; reasons that most scans share."""

    scans: int
    failures: int
    common_reasons: tuple[str, ...] = ()


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
    SettingsError
        If the mirror image is to be labelled and the model cannot do that, or the atlases do not fit the model.
    InputError
        If the file of the atlases is not a library.
    """
    from slant.io.atlas_library import read_library
    from slant.io.models import embedded_models, load_model

    settings = request.settings
    if settings.model not in embedded_models():
        settings = replace(settings, model=str(absolute(settings.model)))  # workers may have another working directory
    atlases = request.atlases and replace(request.atlases, path=str(absolute(request.atlases.path)))
    task = SegmentTask(settings, model_sha256(settings.model), request.volume, request.reports, atlases)
    if settings.mirror:
        load_model(settings.model).check_mirror()
    if atlases is not None:
        read_library(atlases).check(load_model(settings.model))
    worker_gib = WORKER_GIB if atlases is None else ATLAS_WORKER_GIB
    return Cohort(Workload(job_list, task, resources.layout(out), force), task, resources, worker_gib)


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
    pool = choose_pool(
        cohort.workload,
        cohort.resources,
        threads=settings.threads,
        worker_gib=cohort.worker_gib,
        start_server=partial(start_gpu_server, settings.device),
    )
    return run_jobs(cohort.workload, pool)


def commands(cohort: Cohort) -> Iterator[str]:
    """One `slant segment` command, quoted for the shell, for each unfinished scan; finished ones enter the index."""
    for job in unfinished(cohort.workload):
        yield shlex.join(["slant", "segment", *_arguments(job, cohort.task)])


def _arguments(job: Job, task: SegmentTask) -> list[str]:
    from slant.io.read import scan_name

    name = None if job.name == scan_name(job.scan) else job.name
    atlases = None if task.atlases is None else task.atlases.path
    values = {"name": name, "volume": task.volume, "atlases": atlases, **vars(task.settings), **vars(task.reports)}
    nothing = dict.fromkeys(("name", "volume", "atlases"))
    defaults = {**nothing, **vars(SegmentSettings()), **vars(RunReportSettings())}
    return [os.fspath(job.scan), os.fspath(job.folder), "--force", *option_words(values, defaults)]


def tabulate(
    workload: Workload, failed: Iterable[Failure], participants: Path | None = None, *, bids: bool = False
) -> GroupSummary:
    """Write the tables ``volumes.tsv``, ``volumes.json`` and ``failures.tsv`` and the dashboard of a cohort.

    Parameters
    ----------
    workload : Workload
        Scans of this run; finished scans of other runs on the output directory are added.
    failed : iterable of Failure
        Failures of this run; failures of other runs are added if their scans still exist.
    participants : Path, optional
        ``participants.tsv``, whose columns become filters of the dashboard; may be missing.
    bids : bool, optional
        Whether file names follow BIDS; each entity that occurs then gets a column.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    layout = workload.layout
    results = read_cohort(layout, workload.job_list.jobs, bids=bids)
    write_text(layout.out / VOLUMES, format_table(results))
    write_text(layout.out / DESCRIPTIONS, json_text(describe_columns(results)))
    failures = all_failures(layout, failed)
    write_failures(layout.out / TABLE, failures)
    write_dashboard(layout.out, results, failures, participants)
    return GroupSummary(len(results.rows), len(failures), common_reasons(results))


def tabulate_dataset(workload: Workload, participants: Path, known: Iterable[Failure] = ()) -> GroupSummary:
    """As `tabulate`, for a BIDS dataset, which is not segmented here; a scan without results counts as a failure.

    Parameters
    ----------
    known : iterable of Failure, optional
        Failures whose reasons are known.
    """
    workload.layout.make()
    missing = [
        Failure(job.id, "not segmented; run the participant level", str(job.scan), "")
        for job in workload.job_list.jobs
        if not (job.folder / workload.task.names(job).record).is_file()
    ]
    unreadable = [Failure(folder, reason, folder, "") for folder, reason in workload.job_list.unreadable.items()]
    failed = {failure.name: failure for failure in [*missing, *unreadable, *known]}
    return tabulate(workload, failed.values(), participants, bids=True)
