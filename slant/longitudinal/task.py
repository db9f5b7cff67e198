"""The task of a longitudinal cohort: what a worker does with each subject, and with scans that stand alone."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from slant.cohort.task import SegmentTask, compute_of, loaded_model
from slant.engine.index import FileState, file_state
from slant.engine.job import Job, Worker
from slant.io.staging import FileNames
from slant.io.subject_record import SubjectRecord
from slant.longitudinal.run import SubjectOutput, segment_subject
from slant.longitudinal.visits import SubjectVisits, check_outputs, first_sha256, subject_finished
from slant.run import Request


@dataclass(frozen=True)
class LongitudinalTask:
    """Task that does the same as `slant longitudinal` for each subject, and as `slant segment` for other jobs.

    Attributes
    ----------
    single : SegmentTask
        Task of jobs of one scan; its settings are also those of the subjects.
    subjects : mapping of str to SubjectVisits
        Subjects by the ids of their jobs; the scan of such a job is one of the visits.
    work : Path
        Folder for what is kept until a subject is finished.
    force : bool
        Whether finished visits are labelled again.
    """

    single: SegmentTask
    subjects: Mapping[str, SubjectVisits]
    work: Path
    force: bool = False

    def key(self, job: Job) -> str:
        """Digest of the model and the settings and, for a subject, of the states of its scans and results."""
        subject = self.subjects.get(job.id)
        if subject is None:
            return self.single.key(job)
        states = [
            [visit.name, os.fspath(visit.scan), astuple(visit.time), _state(visit.scan), _state(visit.record_path)]
            for visit in subject.visits
        ]
        return hashlib.sha256(json.dumps([self.single.key(job), states]).encode()).hexdigest()[:16]

    def names(self, job: Job) -> FileNames:
        """Names of the files of a subject, or of `slant segment`."""
        subject = self.subjects.get(job.id)
        return self.single.names(job) if subject is None else subject.names

    def fits(self, job: Job, record: Mapping[str, Any]) -> bool:
        """Whether a record and, for a subject, the results of its visits were made like this from the same files."""
        subject = self.subjects.get(job.id)
        if subject is None:
            return self.single.fits(job, record)
        found, times = SubjectRecord.from_plain(record), {visit.name: visit.time for visit in subject.visits}
        same_times = all(times.get(visit.name) == visit.time for visit in found.visits)
        return same_times and subject_finished(found, subject, self._request, self.single.model_sha256)

    def scan_sha256(self, record: Mapping[str, Any]) -> str:
        """SHA-256 of the scan of a job."""
        return first_sha256(SubjectRecord.from_plain(record)) if "visits" in record else self.single.scan_sha256(record)

    def __call__(self, job: Job, staging: Path, worker: Worker) -> None:
        """Segment the visits of a subject, or a scan, and write the results."""
        subject, single = self.subjects.get(job.id), self.single
        if subject is None:
            single(job, staging, worker)
            return
        check_outputs(subject, self._request, single.model_sha256, force=True)
        model = loaded_model(single.settings.model, single.model_sha256)
        output = SubjectOutput(self.work, staging, self.force)
        result = segment_subject(subject, model, self._request, output, compute_of(worker, single.model_sha256))
        record = result.record
        for visit in record.left_out:
            sys.stderr.write(f"left out {visit.name}: {visit.reason}\n")
        for warning in record.warnings:
            sys.stderr.write(f"warning: {warning}\n")
        for timing in record.timings:
            sys.stderr.write(f"{timing}\n")

    @property
    def _request(self) -> Request:
        return Request(self.single.settings, self.single.volume, self.single.reports)


def _state(path: Path) -> FileState | None:
    with suppress(OSError):
        return file_state(path)
    return None
