"""What is done with the visits of one subject: they are aligned, labelled together, graded, drawn and written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from slant.engine.layout import key
from slant.errors import InputError, SlantError, errors_about, errors_with
from slant.io.prepared import digest
from slant.io.read import Scan, read_scan, read_volume
from slant.io.record import ModelRecord
from slant.io.results import software_versions
from slant.io.subject_record import SubjectRecord, VisitRecord, in_order, name_order
from slant.io.subject_result import SubjectResult, read_subject
from slant.io.visit_times import note_on_times
from slant.longitudinal.files import write_subject
from slant.longitudinal.kept import Timings, folder_of, kept_alignment, kept_votes, remove_kept
from slant.longitudinal.visits import SubjectVisits, Visit, one_line, subject_finished, visit_finished, visit_record
from slant.run import Compute, Output, Request, grade_scan, write_scan
from slant.timing import Listener, StepProgress, TimingLog
from slant.within_subject import MIN_VISITS

if TYPE_CHECKING:
    from slant.config import SegmentSettings
    from slant.nets.model import Model
    from slant.segmentation import Segmentation
    from slant.sparse_votes import SparseVotes
    from slant.within_subject.subject import Subject
    from slant.within_subject.visit import AlignedVisit

NETWORKS = "networks and vote"


@dataclass(frozen=True)
class SubjectOutput:
    """How the results of a subject are written.

    Attributes
    ----------
    work : Path
        Folder for what is kept until the subject is finished, so that an interrupted run continues.
    unfinished : Path, optional
        Staging folder, see `slant.io.staging.staged`.
    force : bool
        Whether finished visits are labelled again.
    """

    work: Path
    unfinished: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class _Run:
    """A run on one subject; ``settings`` are the resolved ones."""

    subject: SubjectVisits
    model: Model
    request: Request
    output: SubjectOutput
    compute: Compute
    settings: SegmentSettings
    listener: Listener | None

    def listener_of(self, visit: Visit) -> Listener | None:
        """A listener that is told of the steps of a visit, which begin with its name."""
        listener, name = self.listener, visit.name
        if listener is None:
            return None

        def listen(progress: StepProgress) -> None:
            timing = progress.timing and replace(progress.timing, name=f"{name}: {progress.name}")
            listener(StepProgress(f"{name}: {progress.name}", progress.fraction, timing))

        return listen

    def kept_file(self, visit: Visit, kind: str) -> Path:
        """File in which something is kept of a visit."""
        return folder_of(self.output.work, self.subject.subject) / f"{key(visit.name)}.{kind}.npz"


@dataclass(frozen=True, eq=False)
class _Ready:
    """A visit that was read and aligned by itself, with the timings of the reading."""

    visit: Visit
    scan: Scan
    aligned: AlignedVisit
    timings: Timings


def segment_subject(
    subject: SubjectVisits,
    model: Model,
    request: Request,
    output: SubjectOutput,
    compute: Compute | None = None,
    listener: Listener | None = None,
) -> SubjectResult:
    """Segment the visits of a subject together, and write the results of the visits and of the subject.

    A visit that cannot be read, aligned, labelled or written is left out, with the reason in the record. What is
    finished is not done again. The results do not depend on the order of the visits.

    Parameters
    ----------
    listener : callable, optional
        Told of every step; names of steps of a visit begin with the name of the visit, as in ``sub-01_ses-1: brain``.

    Raises
    ------
    InputError
        If fewer than two visits remain, or they are not of one subject.
    DeviceError
        If the device is not available.
    SettingsError
        If the mirror image is to be labelled and the model cannot do that.
    OutputError
        If the files of the subject cannot be written; existing ones are then unchanged.
    """
    compute = compute or Compute()
    finished = None if output.force else _finished(subject, model, request, output)
    if finished is not None:
        return finished
    run = _Run(subject, model, request, output, compute, compute.resolved(request.settings, model), listener)
    ready, not_ready = _align_visits(run)
    _check_enough(subject, len(ready), not_ready)
    together = _align_subject(run, ready)
    labelled = _label_visits(run, ready, together)
    visits = in_order([*labelled, *not_ready])
    segmented = [visit for visit in visits if not visit.reason]
    _check_enough(subject, len(segmented), [visit for visit in visits if visit.reason])
    record = SubjectRecord(
        subject.subject,
        visits,
        ModelRecord(model.name, model.identity, model.licence),
        software_versions(),
        {**asdict(run.settings), "threads": run.settings.thread_count},
        request.plain(),
        _warnings(segmented),
        together.timings,
    )
    result = write_subject(record, subject, together.template, request.reports, output.unfinished)
    if not any(visit.reason for visit in labelled):
        remove_kept(output.work, subject.subject)
    return result


def _finished(subject: SubjectVisits, model: Model, request: Request, output: SubjectOutput) -> SubjectResult | None:
    """The result of an earlier run, if all its visits are finished; with the times of now. Otherwise None."""
    old, template = subject.old_record(), subject.folder / subject.names.template
    if old is None or not template.is_file() or not subject_finished(old, subject, request, model.identity):
        return None
    known = {visit.name: visit for visit in subject.visits}
    now = [visit_record(known[v.name], subject, v.sha256, v.similarity) for v in old.visits]
    visits = in_order(replace(new, reason=v.reason) for new, v in zip(now, old.visits, strict=True))
    record = replace(old, visits=visits, warnings=_warnings([visit for visit in visits if not visit.reason]))
    if record.plain() == old.plain() and all((subject.folder / name).is_file() for name in subject.names.all):
        return read_subject(subject.folder, subject.subject)
    return write_subject(record, subject, read_volume(template), request.reports, output.unfinished)


def _warnings(segmented: Sequence[VisitRecord]) -> tuple[str, ...]:
    note = note_on_times([visit.name for visit in segmented], [visit.time for visit in segmented])
    return (note,) if note else ()


def _check_enough(subject: SubjectVisits, count: int, without: Sequence[VisitRecord]) -> None:
    if count >= MIN_VISITS:
        return
    reasons = "; ".join(f"{visit.name}: {visit.reason}" for visit in without)
    raise InputError(
        f"{subject.subject}: found {count} visit(s) that can be segmented, expected at least {MIN_VISITS}; left out: "
        f"{reasons}; correct them, or segment single scans with slant segment"
    )


def _align_visits(run: _Run) -> tuple[list[_Ready], list[VisitRecord]]:
    """Read and align each visit by itself, in the order of the names; those that fail are returned with the reason."""
    ready: list[_Ready] = []
    failed: list[VisitRecord] = []
    for visit in sorted(run.subject.visits, key=lambda visit: name_order(visit.name)):
        try:
            ready.append(_align_visit(run, visit))
        except SlantError as error:
            failed.append(replace(visit_record(visit, run.subject, visit.sha256()), reason=one_line(error)))
    return ready, failed


def _align_visit(run: _Run, visit: Visit) -> _Ready:
    from slant.within_subject.visit import align_visit

    settings, volume, clock = run.settings, run.request.volume, TimingLog(run.listener_of(visit))
    with clock("read"):
        scan = replace(read_scan(visit.scan, volume=volume), name=visit.prefix)
    identity = digest("aligned visit", scan.sha256, volume, run.model.identity, settings.skull_stripped)
    work = partial(align_visit, scan.volume, run.model.inputs, settings, clock.listener)
    with errors_with(scan.warnings):
        aligned = kept_alignment(run.kept_file(visit, "aligned"), identity, work)
    return _Ready(visit, scan, aligned, clock.timings)


def _align_subject(run: _Run, ready: Sequence[_Ready]) -> Subject:
    from slant.within_subject.subject import align_subject

    names, scans = [one.visit.name for one in ready], [one.scan.volume for one in ready]
    aligned = [one.aligned for one in ready]
    return align_subject(names, scans, aligned, run.model.inputs, run.listener)


def _label_visits(run: _Run, ready: Sequence[_Ready], together: Subject) -> list[VisitRecord]:
    """Label, grade, draw and write all visits that are not finished; records of all visits."""
    request = replace(run.request, together_with=tuple(sorted(one.scan.sha256 for one in ready)))
    finished = [
        not run.output.force and visit_finished(one.visit, one.scan.sha256, request, run.model.identity)
        for one in ready
    ]
    found = [] if all(finished) else [_votes(run, ready, together, i) for i in range(len(ready))]
    votes = [own for own, _ in found]
    records = []
    for i, one in enumerate(ready):
        record = visit_record(one.visit, run.subject, one.scan.sha256, together.similarities[i])
        if not finished[i]:
            label = partial(_label, run, together, i, votes)
            try:
                _finish_visit(replace(run, request=request), one, label, found[i][1])
            except SlantError as error:
                record = replace(record, reason=one_line(error))
        records.append(record)
    return records


def _votes(run: _Run, ready: Sequence[_Ready], together: Subject, index: int) -> tuple[SparseVotes, Timings]:
    """The votes of the networks for a visit, and their timing."""
    one, settings = ready[index], run.settings
    of_settings = (run.request.volume, settings.skull_stripped, settings.precision, settings.device, settings.mirror)
    of_files = (one.scan.sha256, sorted(other.scan.sha256 for other in ready))
    identity = digest("divided votes of a visit", *of_files, run.model.identity, *of_settings)
    with errors_about(one.visit.name):
        return kept_votes(
            run.kept_file(one.visit, "votes"), identity, partial(_run_networks, run, one.visit, together, index)
        )


def _run_networks(run: _Run, visit: Visit, together: Subject, index: int) -> tuple[SparseVotes, Timings]:
    from slant.within_subject.subject import visit_votes

    clock, networks, work = TimingLog(), run.compute.networks, partial(visit_votes, together, index)
    with clock(NETWORKS):
        if networks is None:
            votes = work(run.model, run.settings, run.listener_of(visit))
        else:
            votes = networks.run(work, run.settings.model, run.settings)
    return votes, clock.timings


def _label(
    run: _Run, together: Subject, index: int, votes: Sequence[SparseVotes], listener: Listener | None
) -> Segmentation:
    from slant.within_subject.subject import label_visit

    segmentation: Segmentation = label_visit(together, index, votes, run.model, run.settings, listener)
    return segmentation


def _finish_visit(run: _Run, one: _Ready, label: Callable[[Listener | None], Segmentation], timings: Timings) -> None:
    """Label a visit, grade it, draw its overlay and reports, and write its files."""
    clock = TimingLog(run.listener_of(one.visit))
    clock.add((*one.timings, *timings))
    with errors_with(one.scan.warnings):
        segmentation = label(clock.listener)
    result = grade_scan(one.scan, segmentation, run.model, run.request, run.settings, clock)
    write_scan(result, run.request.reports, Output(one.visit.folder, run.output.unfinished), clock)
