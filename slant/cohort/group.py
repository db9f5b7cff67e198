"""Writes the files about a whole cohort: tables of volumes and failures, and the dashboard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from slant.cohort.dashboard import write_dashboard
from slant.cohort.rows import read_cohort
from slant.cohort.table import DESCRIPTIONS, VOLUMES, describe_columns, format_table
from slant.engine.failures import TABLE, Failure, all_failures, write_failures, write_text
from slant.engine.job import Job
from slant.engine.layout import OutputLayout
from slant.io.staging import json_text


@dataclass(frozen=True)
class GroupSummary:
    """Numbers of rows of the tables of a cohort.

    Attributes
    ----------
    scans : int
        Rows of ``volumes.tsv``.
    failures : int
        Rows of ``failures.tsv``.
    """

    scans: int
    failures: int


def write_group(
    layout: OutputLayout,
    jobs: Iterable[Job],
    failed: Iterable[Failure],
    *,
    bids: bool = False,
    participants: Path | None = None,
) -> GroupSummary:
    """Write ``volumes.tsv``, ``volumes.json``, ``failures.tsv`` and the dashboard of an output directory.

    Parameters
    ----------
    jobs : iterable of Job
        Jobs of this run; finished scans of other runs are added.
    failed : iterable of Failure
        Failures of this run; failures of other runs are added if their scans still exist.
    bids : bool, optional
        Whether file names follow BIDS; each entity that occurs then gets a column.
    participants : Path, optional
        ``participants.tsv``, whose columns become filters of the dashboard.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    results = read_cohort(layout, jobs, bids=bids)
    write_text(layout.out / VOLUMES, format_table(results))
    write_text(layout.out / DESCRIPTIONS, json_text(describe_columns(results)))
    failures = all_failures(layout, failed)
    write_failures(layout.out / TABLE, failures)
    write_dashboard(layout.out, results, failures, participants)
    return GroupSummary(len(results.rows), len(failures))
