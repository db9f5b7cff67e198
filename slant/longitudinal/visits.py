"""The visits of a subject, where their results go, and whether they are finished."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slant.errors import InputError, SlantError
from slant.files import file_sha256
from slant.io.names import ResultNames
from slant.io.staging import check_output
from slant.io.subject_record import SubjectNames, SubjectRecord, VisitRecord
from slant.io.subject_result import read_subject_record
from slant.io.visit_times import VisitTime
from slant.run import Request


@dataclass(frozen=True)
class Visit:
    """One scan of a subject.

    Attributes
    ----------
    name, session : str
        See `slant.io.subject_record.VisitRecord`.
    scan, folder : Path
        Absolute paths of the file and of the folder of its results.
    """

    name: str
    session: str
    scan: Path
    folder: Path
    time: VisitTime

    @property
    def prefix(self) -> str:
        """Prefix of the files of the results."""
        return self.name.rpartition("/")[2]

    @property
    def names(self) -> ResultNames:
        """Names of the files of the results."""
        return ResultNames(self.prefix)

    @property
    def record_path(self) -> Path:
        """The record of the results."""
        return self.folder / self.names.record

    def sha256(self) -> str:
        """SHA-256 of the file; empty if it cannot be read."""
        try:
            return file_sha256(self.scan)
        except OSError:
            return ""


@dataclass(frozen=True)
class SubjectVisits:
    """Visits of one subject, which are segmented together.

    Attributes
    ----------
    subject : str
        Prefix of the names of the subject's files.
    folder : Path
        Absolute path of the folder of the subject's files; the folders of the visits are in it.
    """

    subject: str
    folder: Path
    visits: tuple[Visit, ...]

    @property
    def names(self) -> SubjectNames:
        """Names of the files of the subject."""
        return SubjectNames(self.subject)

    @property
    def first_scan(self) -> Path:
        """The first scan by path that exists, for which a job of the subject stands; the first if none does."""
        scans = sorted((visit.scan for visit in self.visits), key=os.fspath)
        return next((scan for scan in scans if scan.is_file()), scans[0])

    def old_record(self) -> SubjectRecord | None:
        """The record of an earlier run; None if there is none, or it cannot be read."""
        try:
            return read_subject_record(self.folder, self.subject)
        except InputError:
            return None


def first_sha256(record: SubjectRecord) -> str:
    """SHA-256 of the file that `SubjectVisits.first_scan` is, as a record says; empty if no file could be read."""
    return min(((visit.scan, visit.sha256) for visit in record.visits if visit.sha256), default=("", ""))[1]


def used_sha256(record: SubjectRecord) -> tuple[str, ...]:
    """SHA-256 of the files that were segmented together, sorted: also of a visit that failed after the alignment."""
    return tuple(sorted(visit.sha256 for visit in record.visits if visit.similarity is not None))


def visit_finished(visit: Visit, sha256: str, request: Request, model_sha256: str) -> bool:
    """Whether all results of a visit exist, made from the file of this hash, by this request with the same visits."""
    names = visit.names
    try:
        record: Any = json.loads(visit.record_path.read_text("utf-8"))
        existing = {path.name for path in visit.folder.iterdir()}
        return (
            record["input"]["sha256"] == sha256
            and request.made(record, model_sha256)
            and existing.issuperset(names.all)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def subject_finished(record: SubjectRecord, subject: SubjectVisits, request: Request, model_sha256: str) -> bool:
    """Whether a record and the results of the visits were made from the same files by this request.

    The times of the visits do not count. A visit that was left out counts as finished as long as its file does not
    change, unless it failed after the alignment, for example because the disk was full.
    """
    visits = {visit.name: visit for visit in record.visits}
    if not request.made(record.plain(), model_sha256) or visits.keys() != {visit.name for visit in subject.visits}:
        return False
    if any(visit.reason and visit.similarity is not None for visit in record.visits):
        return False
    if any(visits[visit.name].sha256 != visit.sha256() for visit in subject.visits):
        return False
    together = replace(request, together_with=used_sha256(record))
    return all(
        visits[visit.name].reason or visit_finished(visit, visits[visit.name].sha256, together, model_sha256)
        for visit in subject.visits
    )


def check_outputs(subject: SubjectVisits, request: Request, model_sha256: str, *, force: bool) -> None:
    """Check, before any work is done, that no results are replaced but those that this run continues or extends.

    These are of the same files, by the same model and settings, made together with visits of this run only.

    Parameters
    ----------
    force : bool
        Whether other results may be replaced.

    Raises
    ------
    OutputError
        If a folder cannot be written, or has other results and ``force`` is False.
    """
    known = {visit.sha256() for visit in subject.visits}
    for visit in subject.visits:
        record = _plain_record(visit.record_path)
        own = record is not None and _extends(record, known, request, model_sha256)
        check_output(visit.folder, visit.names, force=force or own, optional=visit.names.optional)
    old = subject.old_record()
    own = old is not None and request.made(old.plain(), model_sha256) and known.issuperset(used_sha256(old))
    check_output(subject.folder, subject.names, force=force or own, what=f"the visits of {subject.subject}")


def _plain_record(path: Path) -> Mapping[str, Any] | None:
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _extends(record: Mapping[str, Any], known: set[str], request: Request, model_sha256: str) -> bool:
    try:
        together = tuple(record["requested"]["longitudinal"]["visits"])
        made = replace(request, together_with=together).made(record, model_sha256)
    except (KeyError, TypeError, AttributeError):
        return False
    return made and known.issuperset(together)


def one_line(error: SlantError) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split())


def visit_record(visit: Visit, subject: SubjectVisits, sha256: str, similarity: float | None = None) -> VisitRecord:
    """The record of a visit."""
    folder = visit.folder.relative_to(subject.folder).as_posix()
    rounded = None if similarity is None else round(similarity, 6)
    return VisitRecord(visit.name, visit.session, os.fspath(visit.scan), sha256, folder, visit.time, rounded)
