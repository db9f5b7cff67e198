"""`slant longitudinal`: segments the visits of one subject together."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.cli.progress import NETWORKS, STEPS, shown_progress
from slant.cli.segment import file_name, warn
from slant.config import RunReportSettings, SegmentSettings
from slant.engine.resources import Resources
from slant.errors import OutputError, SettingsError
from slant.timing import TimingLog

if TYPE_CHECKING:
    from slant.io.subject_result import SubjectResult
    from slant.longitudinal.visits import SubjectVisits

_BEFORE = ("read", "robust intensities", "brain", "register")
_TOGETHER = {
    "rigid alignment": ("rigid alignment of the visits", 1.7),
    "bias": ("bias field correction of the visits", 2.7),
    "deform": ("deformation to and of the within-subject template", 2.0),
}  # text for the user, and typical seconds for each visit
_SHARED = {"shared votes": ("shared votes", 2.5), "resample labels": ("resampling to native space", 1.2)}
_AFTER = ("volumes", "quality", "overlay and reports", "write files")


@dataclass(frozen=True)
class SubjectOptions:
    """The subject and when its visits were.

    Attributes
    ----------
    subject : str
        Prefix of the names of the subject's files (default: sub-LABEL in the paths, or the output directory's name).
    age : list
        Age in years at each visit, in the order of the scans (default: dates and ages in scans.tsv or sessions.tsv).
    """

    subject: str | None = None
    age: Annotated[tuple[float, ...], Parameter(consume_multiple=True, negative_iterable=(), show_default=False)] = ()


@dataclass(frozen=True)
class RunOptions:
    """How to run.

    Attributes
    ----------
    work_dir : Path
        Directory for what is kept until all visits are finished (default: in the output directory).
    force : bool
        Overwrite existing results when finished.
    quiet : bool
        Print only warnings and errors: no progress, no list of files.
    """

    work_dir: Path | None = None
    force: Annotated[bool, Parameter(negative="")] = False
    quiet: Annotated[bool, Parameter(negative="")] = False


_DEFAULTS, _REPORTS, _SUBJECT, _RUN = SegmentSettings(), RunReportSettings(), SubjectOptions(), RunOptions()


@app.command
def longitudinal(
    *paths: Path,
    settings: Annotated[SegmentSettings, Parameter(name="*")] = _DEFAULTS,
    volume: int | None = None,
    reports: Annotated[RunReportSettings, Parameter(name="*")] = _REPORTS,
    about: Annotated[SubjectOptions, Parameter(name="*")] = _SUBJECT,
    run: Annotated[RunOptions, Parameter(name="*")] = _RUN,
) -> None:
    """Segment several visits of one subject together; rerun to resume.

    Parameters
    ----------
    paths : Path
        Scans of one subject (.nii, .nii.gz, .mgz or .mgh), then the output directory (created if missing).
    volume : int
        Volume of 4D files to segment, counted from 0.
    """
    start = time.perf_counter()
    if len(paths) < 2:
        raise SettingsError(
            f"found {len(paths)} path(s), expected scans, then the output directory: slant longitudinal SCAN SCAN OUT"
        )
    from slant.longitudinal.jobs import visits_of_files

    *scans, out = paths
    if out.is_file():
        raise OutputError(f"{out} is a file; the last path must be the output directory")
    subject = visits_of_files(scans, out, about.subject, about.age or None)
    file_name(subject.subject, "--subject")
    result = _segment(subject, settings, volume, reports, run)
    _say_problems(result, subject)
    if not run.quiet:
        _say_files(result, subject)
        say(f"done in {time.perf_counter() - start:.0f} s")
    if result.record.left_out:
        sys.exit(1)


def _segment(
    subject: SubjectVisits,
    settings: SegmentSettings,
    volume: int | None,
    reports: RunReportSettings,
    run: RunOptions,
) -> SubjectResult:
    names = [visit.name for visit in subject.visits]
    with shown_progress(settings.thread_count, quiet=run.quiet, steps=expected_steps(names)) as listener:
        with TimingLog(listener)("load model"):
            from slant.io.models import load_model
            from slant.longitudinal.cohort import work_folder, write_long_table
            from slant.longitudinal.run import SubjectOutput, segment_subject
            from slant.longitudinal.visits import check_outputs
            from slant.run import Request

            model = load_model(settings.model)
        layout, request = Resources(work_dir=run.work_dir).layout(subject.folder), Request(settings, volume, reports)
        check_outputs(subject, request, model.identity, force=run.force)
        output = SubjectOutput(work_folder(layout), force=run.force)
        result = segment_subject(subject, model, request, output, listener=listener)
    write_long_table(subject.folder, [result])
    with suppress(OSError):  # not empty
        output.work.rmdir()
        layout.state.rmdir()
    return result


def expected_steps(visits: Sequence[str]) -> dict[str, tuple[str, float]]:
    """Steps of a run in their order, as `slant.cli.progress.STEPS`, with those of each visit under its name."""
    known = {**STEPS, **_SHARED}

    def of_visits(names: Sequence[str]) -> dict[str, tuple[str, float]]:
        return {f"{visit}: {n}": (f"{visit}: {known[n][0]}", known[n][1]) for visit in visits for n in names}

    before, networks, after = of_visits(_BEFORE), of_visits((NETWORKS,)), of_visits((*_SHARED, *_AFTER))
    together = {name: (text, len(visits) * seconds) for name, (text, seconds) in _TOGETHER.items()}
    return {"load model": STEPS["load model"], **before, **together, **networks, **after}


def _say_problems(result: SubjectResult, subject: SubjectVisits) -> None:
    from slant.io.read_results import read_record

    paths = {visit.name: visit.record_path for visit in subject.visits}
    for visit in result.visits:
        warn(read_record(paths[visit.name]), visit.name)
    for warning in result.record.warnings:
        sys.stderr.write(f"slant: warning: {warning}\n")
    for visit in result.record.left_out:
        sys.stderr.write(f"slant: {visit.name} is left out: {visit.reason}\n")


def _say_files(result: SubjectResult, subject: SubjectVisits) -> None:
    for visit, grade in zip(result.visits, result.grades, strict=True):
        say(f"{visit.name}: {subject.folder / visit.folder}" + (f", grade {grade}" if grade else ""))
    for name in subject.names.all:
        say(str(subject.folder / name))
