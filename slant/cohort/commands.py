"""Prints the unfinished scans of a cohort as shell commands, for array jobs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import Field, fields
from typing import Any

from slant.cohort.run import Cohort
from slant.cohort.task import SegmentTask
from slant.config import RunReportSettings, SegmentSettings
from slant.engine.job import Job
from slant.engine.run import unfinished


def commands(cohort: Cohort) -> Iterator[str]:
    """One `slant segment` command for each unfinished scan; finished scans are added to the index.

    Yields
    ------
    str
        Command line, quoted for the shell.
    """
    for job in unfinished(cohort.workload):
        yield shlex.join(["slant", "segment", *_arguments(job, cohort.task)])


def _arguments(job: Job, task: SegmentTask) -> list[str]:
    from slant.io.read import scan_name

    arguments = [os.fspath(job.scan), os.fspath(job.folder), "--force"]
    if job.name != scan_name(job.scan):
        arguments += ["--name", job.name]
    if task.volume is not None:
        arguments += ["--volume", str(task.volume)]
    options: list[tuple[SegmentSettings | RunReportSettings, Field[Any]]]
    options = [(task.settings, field) for field in fields(SegmentSettings)]
    options += [(task.reports, field) for field in fields(RunReportSettings)]
    for settings, field in options:
        value, option = getattr(settings, field.name), "--" + field.name.replace("_", "-")
        if value == field.default:
            continue
        if isinstance(value, bool):
            arguments.append(option if value else f"--no-{option[2:]}")
        else:
            arguments += [option, str(value)]
    return arguments
