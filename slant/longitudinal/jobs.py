"""Which scans are visits of one subject: those of a BIDS dataset, or those that are given as files."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slant.cohort.left_out import entities_of
from slant.engine.job import Job, JobList
from slant.engine.layout import absolute
from slant.errors import InputError, SettingsError
from slant.io.names import subject_of
from slant.io.read import scan_name
from slant.io.user_table import read_user_table
from slant.io.visit_times import times_of
from slant.longitudinal.visits import SubjectVisits, Visit
from slant.within_subject import MIN_VISITS

_SHOWN = 10


@dataclass(frozen=True)
class GroupedJobs:
    """The scans of a BIDS dataset by subject.

    Attributes
    ----------
    job_list : JobList
        One job for each subject with several sessions, and one for each scan of other subjects.
    subjects : dict of str to SubjectVisits
        Subjects with several sessions by the ids of their jobs.
    scans : JobList
        One job for each scan that is a visit or stands alone.
    """

    job_list: JobList
    subjects: dict[str, SubjectVisits]
    scans: JobList


def group_by_subject(images: JobList, bids_dir: Path, out: Path, sessions: Iterable[str] = ()) -> GroupedJobs:
    """Group the scans of a BIDS dataset: a subject with several sessions becomes one job, with one scan per session.

    Of several scans of a session, the one is taken whose entities most sessions of the subject have. The notes of the
    list name the others, sessions without a scan, and subjects with a single session.

    Parameters
    ----------
    images : JobList
        See `slant.cohort.bids.list_bids_jobs`.
    sessions : iterable of str, optional
        Labels of the selected sessions, with or without ``ses-`` (default: all).
    """
    bids_dir, out = absolute(bids_dir), absolute(out)
    by_subject: dict[str, dict[str, list[Job]]] = defaultdict(lambda: defaultdict(list))
    for job in images.jobs:
        subject, session = _subject_and_session(job, out)
        by_subject[subject][session].append(job)
    subjects: dict[str, SubjectVisits] = {}
    alone: list[Job] = []
    others: list[str] = []
    unreadable = dict(images.unreadable)
    for subject, of_session in sorted(by_subject.items()):
        if len(of_session) < MIN_VISITS:
            alone += [job for jobs in of_session.values() for job in jobs]
            continue
        chosen = _choose(of_session)
        others += [job.name for jobs in of_session.values() for job in jobs if job not in chosen.values()]
        try:
            subjects[subject] = _subject_visits(subject, chosen, out)
        except InputError as error:  # of a table with times
            unreadable[os.fspath(bids_dir / subject)] = str(error)
    single = sorted({_subject_and_session(job, out)[0] for job in alone})
    missing = list(_missing_sessions(bids_dir, by_subject, {f"ses-{s.removeprefix('ses-')}" for s in sessions}))
    notes = (*images.notes, *_notes(others, missing, single))
    jobs = [*alone, *(Job(s, visits.first_scan, visits.folder, s) for s, visits in subjects.items())]
    visits = [Job(v.name, v.scan, v.folder, v.prefix) for subject in subjects.values() for v in subject.visits]
    return GroupedJobs(
        JobList(tuple(sorted(jobs, key=lambda job: job.id)), unreadable, notes),
        subjects,
        JobList(tuple(sorted([*alone, *visits], key=lambda job: job.id)), unreadable, notes),
    )


def _subject_and_session(job: Job, out: Path) -> tuple[str, str]:
    """Labels with ``sub-`` and ``ses-``; the latter is empty if the scan is in no folder of a session."""
    subject, session, *_ = job.folder.relative_to(out).parts
    return subject, session if session.startswith("ses-") else ""


def _choose(of_session: Mapping[str, Sequence[Job]]) -> dict[str, Job]:
    """One scan per session: the one whose entities most sessions have; of several such scans the first by name."""
    counts = Counter(kind for jobs in of_session.values() for kind in {_kind(job) for job in jobs})
    return {session: max(jobs, key=lambda job: counts[_kind(job)]) for session, jobs in of_session.items()}


def _kind(job: Job) -> tuple[tuple[str, str], ...]:
    """The entities of a scan except those that name the subject and the session."""
    return tuple(item for item in entities_of(job.name).items() if item[0] not in ("sub", "ses"))


def _subject_visits(subject: str, chosen: Mapping[str, Job], out: Path) -> SubjectVisits:
    times = times_of([job.scan for job in chosen.values()])
    visits = (
        Visit(job.id, session, job.scan, job.folder, time)
        for (session, job), time in zip(chosen.items(), times, strict=True)
    )
    return SubjectVisits(subject, out / subject, tuple(visits))


def _missing_sessions(bids_dir: Path, by_subject: Mapping[str, Mapping[str, object]], asked: set[str]) -> Iterator[str]:
    """Sessions that have a folder or a row in ``sessions.tsv``, but none of the scans."""
    for subject, of_session in sorted(by_subject.items()):
        folder = bids_dir / subject
        known = {path.name for path in folder.glob("ses-*") if path.is_dir()}
        with suppress(OSError, ValueError):  # no table, or one that `times_of` complains about
            known |= set(read_user_table(folder / f"{subject}_sessions.tsv").get("session_id", []))
        wanted = known & asked if asked else known
        yield from (f"{subject} {session}" for session in sorted(wanted - of_session.keys()) if session)


def _notes(others: Sequence[str], missing: Sequence[str], single: Sequence[str]) -> Iterator[str]:
    if others:
        yield (
            f"left out {len(others)} image(s) of sessions with several, of which one is taken per session: "
            f"{_listed(others)}; choose with --bids-filter-file"
        )
    if missing:
        yield f"no image was selected of {len(missing)} session(s): {_listed(missing)}"
    if single:
        yield f"{len(single)} participant(s) have one session and are segmented by themselves: {_listed(single)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def visits_of_files(
    scans: Sequence[Path], out: Path, subject: str | None = None, ages: Sequence[float] | None = None
) -> SubjectVisits:
    """The visits of one subject, given as files; each gets a folder of its own in the output directory.

    They are named by their files or, if files of different folders have the same name, by their paths in the folder
    that they have in common.

    Parameters
    ----------
    subject : str, optional
        Name of the subject (default: ``sub-LABEL`` in the paths or, without it, the name of the output directory).
    ages : sequence of float, optional
        Age in years at each visit.

    Raises
    ------
    InputError
        If a file is not an image, or two visits would have the same name.
    SettingsError
        If there are fewer than two files, one is given twice, they name several subjects, or ages do not fit.
    """
    paths, out = [absolute(scan) for scan in scans], absolute(out)
    _check_files(paths)
    names = [scan_name(path) for path in paths]
    if len(set(names)) < len(names):
        top = Path(os.path.commonpath([path.parent for path in paths]))
        names = [(path.parent.relative_to(top) / name).as_posix() for path, name in zip(paths, names, strict=True)]
    for name, count in Counter(names).items():
        if count > 1:
            first, second, *_ = (path for path, other in zip(paths, names, strict=True) if other == name)
            raise InputError(f"{first} and {second} would have results of the same names, {name}; rename one of them")
    visits = (
        Visit(name, _session(path), path, out / name, time)
        for name, path, time in zip(names, paths, times_of(paths, ages), strict=True)
    )
    return SubjectVisits(subject or _subject(paths, out), out, tuple(visits))


def _check_files(paths: Sequence[Path]) -> None:
    if len(paths) < MIN_VISITS:
        raise SettingsError(
            f"found {len(paths)} scan(s), expected at least {MIN_VISITS} visits of one subject and then the output "
            "directory: slant longitudinal SCAN SCAN OUT; for a single scan use slant segment SCAN OUT"
        )
    for path, count in Counter(path.resolve() for path in paths).items():
        if count > 1:
            raise SettingsError(f"{path} is given {count} times, expected a different file for each visit")


def _session(path: Path) -> str:
    label = entities_of(path.name.partition(".")[0]).get("ses")
    folders = [part for part in path.parts[:-1] if part.startswith("ses-")]
    return f"ses-{label}" if label else folders[-1] if folders else ""


def _subject(paths: Sequence[Path], out: Path) -> str:
    found = sorted({subject_of(path.as_posix()) for path in paths})
    labels = [name for name in found if name.startswith("sub-")]
    if len(labels) > 1:
        raise SettingsError(
            f"found scans of {', '.join(labels)}, expected visits of one subject; give --subject NAME if they are"
        )
    return labels[0] if labels and len(found) == 1 else out.name
