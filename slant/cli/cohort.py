"""`slant cohort`: segments many scans and tabulates their volumes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.config import RunReportSettings, SegmentSettings
from slant.engine.layout import absolute
from slant.engine.resources import Resources
from slant.errors import OutputError, SettingsError

if TYPE_CHECKING:
    from slant.engine.failures import Failure

_DEFAULTS, _REPORTS, _RESOURCES = SegmentSettings(), RunReportSettings(), Resources()


@app.command
def cohort(  # noqa: PLR0913 (the options of scans, resources and results)
    *paths: str,
    settings: Annotated[SegmentSettings, Parameter(name="*")] = _DEFAULTS,
    resources: Annotated[Resources, Parameter(name="*")] = _RESOURCES,
    volume: int | None = None,
    reports: Annotated[RunReportSettings, Parameter(name="*")] = _REPORTS,
    atlases: Path | None = None,
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
    atlases : Path
        Library made by slant atlases: its atlases vote with the networks. More accurate, but takes minutes per scan.
    force : bool
        Reprocess finished scans.
    print_jobs : bool
        Print one command per unfinished scan and exit, for array jobs.
    """
    if len(paths) < 2:
        raise SettingsError(
            f"found {len(paths)} path(s), expected scans and then the output directory: slant cohort SCANS OUT"
        )
    from slant.cohort.jobs import list_jobs
    from slant.cohort.run import commands, make_cohort, segment_cohort, tabulate
    from slant.io.atlas_library import LibraryFile
    from slant.run import Request

    *inputs, last = paths
    out = absolute(last)
    if out.is_file():
        raise OutputError(f"{out} is a file; the last path must be the output directory")
    job_list = list_jobs(inputs, out)
    say_notes(job_list.notes)
    request = Request(settings, volume, reports, atlases=None if atlases is None else LibraryFile.of(atlases))
    scans = make_cohort(job_list, out, request, resources, force=force)
    if print_jobs:
        for line in commands(scans):
            say(line)
        return
    summary = segment_cohort(scans)
    say_failures(summary.failed)
    tables = (Path(path) / "participants.tsv" for path in inputs)
    group = tabulate(scans.workload, summary.failed, next((table for table in tables if table.is_file()), None))
    say_common_reasons(group.common_reasons)
    done, kept = len(summary.done), len(summary.kept)
    say(f"{done} scan(s) segmented, {kept} already done, {len(summary.failed)} failed; results: {out}")
    say(f"volumes of {group.scans} scan(s): {out / 'volumes.tsv'}; overview: group.html")
    if group.failures:
        say(f"{group.failures} failure(s) with reasons: {out / 'failures.tsv'}")
    if summary.failed:
        sys.exit(1)


def say_notes(notes: Iterable[str]) -> None:
    """Print one line to stderr for each reason why images were left out."""
    for note in notes:
        sys.stderr.write(f"slant: {note}\n")


def say_failures(failed: Iterable[Failure]) -> None:
    """Print one line for each failure to stderr."""
    for failure in failed:
        sys.stderr.write(f"slant: {failure.name} failed: {failure.reason}\n")


def say_common_reasons(reasons: Iterable[str]) -> None:
    """Print one line for each reason that most scans of a cohort share."""
    for reason in reasons:
        say(f"most scans have the same reason against a grade of pass: {reason}")
