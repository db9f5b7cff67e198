"""Segments the subjects of a BIDS dataset whose sessions belong together, and writes the tables of the cohort."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from slant.cohort.run import Cohort, GroupSummary, segment_cohort, tabulate_dataset
from slant.engine.failures import Failure, read_failures, remove_failure_marker, write_text
from slant.engine.index import read_index
from slant.engine.job import Workload
from slant.engine.layout import OutputLayout
from slant.engine.run import Summary
from slant.errors import InputError
from slant.io.names import ResultNames
from slant.io.read_results import read_record
from slant.io.staging import json_text
from slant.io.subject_record import SubjectRecord
from slant.io.subject_result import SubjectResult, read_subject, read_subject_record
from slant.longitudinal.jobs import GroupedJobs, group_by_subject
from slant.longitudinal.tables import DESCRIPTION, LONG_TABLE, describe_long_table, long_table
from slant.longitudinal.task import LongitudinalTask
from slant.longitudinal.visits import used_sha256

VISIT_GIB = 0.2
"""Peak resident memory that each further visit of a subject adds to that of a worker, in GiB."""

_RUN_PARTICIPANT = "run the participant level with --longitudinal"
_NOT_SEGMENTED = f"not segmented; {_RUN_PARTICIPANT}"
_STALE = f"its visits were segmented again by themselves; {_RUN_PARTICIPANT}"


@dataclass(frozen=True)
class LongitudinalCohort:
    """A cohort with one job per subject with several sessions, and how its scans are grouped."""

    cohort: Cohort
    grouped: GroupedJobs

    @property
    def workload(self) -> Workload:
        """Jobs of subjects and of scans that stand alone."""
        return self.cohort.workload


@dataclass(frozen=True)
class LongitudinalSummary:
    """Summary of the tables of a cohort, and number of subjects in ``longitudinal.tsv``."""

    group: GroupSummary
    subjects: int


def make_longitudinal(cohort: Cohort, bids_dir: Path, sessions: Iterable[str] = ()) -> LongitudinalCohort:
    """The cohort of a BIDS dataset, with the sessions of each subject together, see `group_by_subject`."""
    workload, layout = cohort.workload, cohort.workload.layout
    grouped = group_by_subject(workload.job_list, bids_dir, layout.out, sessions)
    task = LongitudinalTask(cohort.task, grouped.subjects, work_folder(layout), workload.force)
    workload = replace(workload, job_list=grouped.job_list, task=task)
    most = max((len(subject.visits) for subject in grouped.subjects.values()), default=1)
    worker_gib = round(cohort.worker_gib + VISIT_GIB * (most - 1), 1)
    return LongitudinalCohort(replace(cohort, workload=workload, worker_gib=worker_gib), grouped)


def work_folder(layout: OutputLayout) -> Path:
    """Folder for what is kept until subjects are finished."""
    return (layout.work_dir or layout.state) / "work"


def segment_longitudinal(cohort: LongitudinalCohort) -> Summary:
    """Segment the unfinished subjects, without tables; visits that were left out are among the failures.

    Errors as `slant.cohort.run.segment_cohort`.
    """
    summary, layout = segment_cohort(cohort.cohort), cohort.workload.layout
    with suppress(OSError):  # something is kept of a subject that is not finished
        work_folder(layout).rmdir()
    failed = {failure.name for failure in summary.failed}
    left_out: list[Failure] = []
    for subject, visits in cohort.grouped.subjects.items():
        record = None if subject in failed else visits.old_record()
        if record is not None:
            left_out += _failures(record, os.path.relpath(layout.log(subject), layout.out))
            for visit in record.segmented:
                remove_failure_marker(layout, visit.name)  # of a run that segmented it by itself
    return replace(summary, failed=tuple(sorted([*summary.failed, *left_out], key=lambda failure: failure.name)))


def _failures(record: SubjectRecord, log: str) -> Iterator[Failure]:
    for visit in record.left_out:
        yield Failure(visit.name, visit.reason, visit.scan, log)


def tabulate_longitudinal(cohort: LongitudinalCohort, participants: Path) -> LongitudinalSummary:
    """Write the tables of a cohort, see `slant.cohort.run.tabulate_dataset`, and the long table with its description.

    Raises
    ------
    InputError
        If ``participants.tsv`` is malformed.
    OutputError
        If a file cannot be written.
    """
    workload = cohort.workload
    scans = replace(workload, job_list=cohort.grouped.scans, task=cohort.cohort.task)
    group = tabulate_dataset(scans, participants, _reasons(cohort))
    results = list(_results(workload, cohort.grouped))
    write_long_table(workload.layout.out, results, participants)
    return LongitudinalSummary(group, len(results))


def write_long_table(out: Path, results: Iterable[SubjectResult], participants: Path | None = None) -> None:
    """Write ``longitudinal.tsv`` and ``longitudinal.json``; errors as `tabulate_longitudinal`."""
    write_text(out / LONG_TABLE, long_table(results, participants))
    write_text(out / DESCRIPTION, json_text(describe_long_table()))


def _reasons(cohort: LongitudinalCohort) -> Iterator[Failure]:
    """Failures of subjects and visits without results, with the reasons."""
    layout, markers = cohort.workload.layout, read_failures(cohort.workload.layout)
    for subject, visits in cohort.grouped.subjects.items():
        log = os.path.relpath(layout.log(subject), layout.out)
        record = visits.old_record()
        if subject in markers:
            yield markers[subject]
        elif record is None:
            yield Failure(subject, _NOT_SEGMENTED, os.fspath(visits.first_scan), "")
        elif _is_stale(record, visits.folder):
            yield Failure(subject, _STALE, os.fspath(visits.first_scan), "")
        else:
            yield from _failures(record, log)


def _results(workload: Workload, grouped: GroupedJobs) -> Iterator[SubjectResult]:
    """Results of all subjects in the output directory, of this run and of others; without those that are stale."""
    entries = read_index(workload.layout.index).values()
    folders = {entry.id: (workload.layout.out / entry.folder, entry.name) for entry in entries}
    folders |= {subject: (visits.folder, subject) for subject, visits in grouped.subjects.items()}
    for folder, subject in folders.values():
        try:
            record = read_subject_record(folder, subject)
            if not _is_stale(record, folder):
                yield read_subject(folder, subject, template=False)
        except InputError:
            continue  # no subject, or no results


def _is_stale(record: SubjectRecord, folder: Path) -> bool:
    """Whether the results of a visit are of another run than the record of the subject."""
    together = list(used_sha256(record))
    for visit in record.segmented:
        try:
            own = read_record(folder / visit.folder / ResultNames(visit.prefix).record)
        except InputError:
            return True
        if (own.requested or {}).get("longitudinal") != {"visits": together} or own.input.sha256 != visit.sha256:
            return True
    return False
