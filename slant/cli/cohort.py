"""`slant cohort`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.config import RunPages, SegmentSettings
from slant.errors import OutputError, SettingsError

if TYPE_CHECKING:
    from slant.cohort.jobs import JobList
    from slant.cohort.pools import Pool
    from slant.cohort.run import Cohort, Summary
    from slant.cohort.scan import Request
    from slant.cohort.work import SegmentWork

_DEFAULTS, _PAGES = SegmentSettings(), RunPages()


@dataclass(frozen=True)
class Resources:
    """Where a cohort runs, and with how much.

    Attributes
    ----------
    jobs : int, optional
        Scans at a time; by default as many as cores and available memory allow.
    mem_gb : float, optional
        Memory for all scans at work, in GiB; by default what is available.
    work_dir : Path, optional
        Folder for locks and temporary files, the same for all runs on one folder of results.
    scheduler : str, optional
        Address of a dask scheduler, such as tcp://node01:8786, whose workers do the work instead of this machine.
    cluster : Path, optional
        TOML file of SLURM jobs that do the work, with workers = N and a table [slurm].
    """

    jobs: int | None = None
    mem_gb: float | None = None
    work_dir: Path | None = None
    scheduler: str | None = None
    cluster: Path | None = None

    def __post_init__(self) -> None:
        if self.scheduler is not None and self.cluster is not None:
            raise SettingsError("--scheduler names a cluster that runs, --cluster starts one; give one of them")
        if self.jobs is not None and (self.scheduler or self.cluster):
            raise SettingsError("--jobs is for this machine; a cluster's workers each take one scan at a time")


_RESOURCES = Resources()


@app.command
def cohort(
    *paths: str,
    settings: Annotated[SegmentSettings, Parameter(name="*")] = _DEFAULTS,
    resources: Annotated[Resources, Parameter(name="*")] = _RESOURCES,
    volume: int | None = None,
    pages: Annotated[RunPages, Parameter(name="*")] = _PAGES,
    force: Annotated[bool, Parameter(negative="")] = False,
    print_jobs: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Label many scans and make a table of their volumes; run again to continue.

    Parameters
    ----------
    paths : str
        Scans (folders, quoted patterns such as 'study/*/T1.nii.gz', TSV tables with name and T1w, or files), then the
        folder for the results, made if absent.
    volume : int
        Which volume of 4D files to take, counted from 0.
    force : bool
        Do finished scans again.
    print_jobs : bool
        Print a command for each scan that is not finished, for array jobs, and do nothing else.
    """
    if len(paths) < 2:
        raise SettingsError("wanted scans, then the folder for the results: slant cohort SCANS OUT")
    from slant.cohort.commands import commands
    from slant.cohort.jobs import absolute, list_jobs
    from slant.cohort.scan import Request

    *places, last = paths
    out = absolute(last)
    if out.is_file():
        raise OutputError(f"{out} is a file; the last path must be the folder for the results")
    made, work = prepare(list_jobs(places, out), out, Request(settings, volume, pages), resources, force=force)
    if print_jobs:
        for line in commands(made, work):
            say(line)
        return
    summary = run(made, resources, settings)
    tables = (Path(place) / "participants.tsv" for place in places)
    _report(summary, made, next((table for table in tables if table.is_file()), None))


def prepare(
    listed: JobList, out: Path, request: Request, resources: Resources, *, force: bool = False
) -> tuple[Cohort, SegmentWork]:
    """The cohort with its work, once the model is found."""
    from slant.cohort.jobs import absolute
    from slant.cohort.place import Place
    from slant.cohort.run import Cohort
    from slant.cohort.work import SegmentWork, model_sha256
    from slant.io.models import embedded_models

    settings = request.settings
    if settings.model not in embedded_models():
        settings = replace(settings, model=str(absolute(settings.model)))  # for workers elsewhere
    work = SegmentWork(settings, model_sha256(settings.model), request.volume, request.pages)
    work_dir = None if resources.work_dir is None else absolute(resources.work_dir)
    return Cohort(listed, work, Place(out, work_dir), force), work


def run(made: Cohort, resources: Resources, settings: SegmentSettings) -> Summary:
    """Do the scans that are not finished."""
    from slant.cohort.run import run_cohort

    return run_cohort(made, _pool(made, resources, settings))


def _pool(made: Cohort, resources: Resources, settings: SegmentSettings) -> Pool:
    if resources.scheduler is not None or resources.cluster is not None:
        from slant.cohort.dask import DaskPool, read_cluster

        there = resources.scheduler or read_cluster(Path(str(resources.cluster)))
        return DaskPool(there, made.place.work)
    from slant.cohort.machine import plan
    from slant.cohort.pools import LocalPool

    planned = plan(len(made.listed.jobs), jobs=resources.jobs, mem_gb=resources.mem_gb, threads=settings.threads)
    return LocalPool(planned, made.place.work, settings.device)


def _report(summary: Summary, made: Cohort, participants: Path | None) -> None:
    """Write the tables, say what was done, and exit with 1 if a scan failed."""
    from slant.cohort.table import write_tables

    for failure in summary.failed:
        sys.stderr.write(f"slant: {failure.name} failed: {failure.reason}\n")
    rows, failures = write_tables(made.place, made.listed.jobs, summary.failed, participants=participants)
    done, kept = len(summary.done), len(summary.kept)
    say(f"{done} scan(s) segmented, {kept} had been before, {len(summary.failed)} failed; see {made.place.out}")
    say(f"volumes of {rows} scan(s) are in {made.place.out / 'volumes.tsv'}, all to look at in group.html beside it")
    if failures:
        say(f"{failures} failure(s) with reasons are in {made.place.out / 'failures.tsv'}")
    if summary.failed:
        sys.exit(1)
