"""The scans of a list as commands, for sites that want an array job."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import fields

from slant.cohort.index import append
from slant.cohort.jobs import Job
from slant.cohort.run import Cohort, split
from slant.cohort.work import SegmentWork
from slant.cohort.worker import finished
from slant.config import RunPages, SegmentSettings


def commands(cohort: Cohort, work: SegmentWork) -> Iterator[str]:
    """A line for the shell for every scan that is not finished; those that are come into the index.

    Parameters
    ----------
    cohort : Cohort
    work : SegmentWork
        Its work.
    """
    cohort.place.make()
    todo, _ = split(cohort)
    for job in todo:
        entry = None if cohort.force else finished(job, work, cohort.place)
        if entry is not None:
            append(cohort.place.index, entry)
        else:
            yield shlex.join(["slant", "segment", *_arguments(job, work)])


def _arguments(job: Job, work: SegmentWork) -> list[str]:
    from slant.io.read import scan_name

    found = [os.fspath(job.scan), os.fspath(job.folder), "--force"]
    if job.name != scan_name(job.scan):
        found += ["--name", job.name]
    if work.volume is not None:
        found += ["--volume", str(work.volume)]
    asked = [(work.settings, field) for field in fields(SegmentSettings)] + [(work.pages, f) for f in fields(RunPages)]
    for given, field in asked:
        value, option = getattr(given, field.name), "--" + field.name.replace("_", "-")
        if value == field.default:
            continue
        if isinstance(value, bool):
            found.append(option if value else f"--no-{option[2:]}")
        else:
            found += [option, str(value)]
    return found
