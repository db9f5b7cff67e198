"""`slant segment`: segments one scan."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.cli.progress import STEPS, STEPS_WITH_ATLASES, shown_progress
from slant.config import DicomSettings, RunReportSettings, SegmentSettings
from slant.errors import SettingsError
from slant.timing import TimingLog

if TYPE_CHECKING:
    from slant.io.read import Scan
    from slant.io.record import Record
    from slant.nets.model import Model
    from slant.volume import LabelMap

_DEFAULTS, _REPORTS, _DICOM = SegmentSettings(), RunReportSettings(), DicomSettings()


@app.command
def segment(  # noqa: PLR0913 (the options of a scan and its results)
    scan: Path,
    out: Path,
    /,
    *,
    settings: Annotated[SegmentSettings, Parameter(name="*")] = _DEFAULTS,
    volume: int | None = None,
    name: str | None = None,
    reports: Annotated[RunReportSettings, Parameter(name="*")] = _REPORTS,
    dicom: Annotated[DicomSettings, Parameter(name="*")] = _DICOM,
    atlases: Path | None = None,
    force: bool = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Segment one T1-weighted scan.

    Parameters
    ----------
    scan : Path
        .nii, .nii.gz, .mgz or .mgh file, or a folder of DICOM files.
    out : Path
        Output directory (created if missing).
    volume : int
        Volume of a 4D file to segment, counted from 0.
    name : str
        Output file prefix (default: the name of the file without _T1w, or of the folder).
    atlases : Path
        Library made by slant atlases: its atlases vote with the networks. More accurate, but takes minutes.
    force : bool
        Overwrite existing results when finished.
    quiet : bool
        Print only warnings and errors: no progress, no list of files.
    """
    start = time.perf_counter()
    steps = STEPS if atlases is None else STEPS_WITH_ATLASES
    with shown_progress(settings.thread_count, quiet=quiet, steps=steps) as listener:
        clock = TimingLog(listener)
        with clock("read"):
            loaded = _read(scan, volume, dicom)
            if name is not None:
                loaded = replace(loaded, name=file_name(name, "--name"))
            _check_output(out, loaded.name, force=force)
        with clock("load model"):
            from slant.io.atlas_library import LibraryFile
            from slant.io.models import load_model
            from slant.run import Output, Request, run_scan

            library = None if atlases is None else LibraryFile.of(atlases)
            model = load_model(settings.model)
            encoders = {"dicom_seg": _seg_encoder(loaded, model)} if dicom.dicom_seg else {}
        request, output = Request(settings, volume, reports, atlases=library), Output(out, encoders=encoders)
        result, files = run_scan(loaded, model, request, output, clock=clock)
    warn(result.record)
    if not quiet:
        _say_files(files, result.record)
        say(f"done in {time.perf_counter() - start:.0f} s")


def _read(scan: Path, volume: int | None, dicom: DicomSettings) -> Scan:
    if not scan.is_dir():
        from slant.io.read import read_scan

        dicom.check_file(scan)
        return read_scan(scan, volume=volume)
    from slant.io.dicom.convert import read_dicom

    if volume is not None:
        raise SettingsError(f"--volume is for files of several volumes, found the folder {scan}; use --series")
    return read_dicom(scan, series=dicom.series)


def _check_output(out: Path, name: str, *, force: bool) -> None:
    from slant.io.names import ResultNames
    from slant.io.staging import check_output

    names = ResultNames(name)
    check_output(out, names, force=force, optional=names.optional)


def _seg_encoder(scan: Scan, model: Model) -> Callable[[LabelMap], bytes]:
    """Function that encodes labels as a DICOM Segmentation; an impossible export fails before the segmentation."""
    from slant.io.dicom.seg import seg_bytes, seg_target

    return partial(seg_bytes, seg_target(scan, model))


def file_name(name: str, option: str) -> str:
    """The name, if it can begin the names of files; otherwise a SettingsError about the option."""
    if name.startswith(".") or set(name) & set("/\\\0\n") or not name:
        raise SettingsError(f"{option} {name!r} cannot begin file names; expected no slash and no leading dot")
    return name


def warn(record: Record, name: str = "") -> None:
    """Print the warnings of a run and the checks that are not passed to stderr, with the name of the scan if given."""
    prefix = f"{name}: " if name else ""
    for warning in record.warnings:
        sys.stderr.write(f"slant: warning: {prefix}{warning}\n")
    if record.quality is not None:
        for check in record.quality.problems:
            sys.stderr.write(f"slant: {check.grade}: {prefix}{check.text}\n")


def _say_files(files: dict[str, Path], record: Record) -> None:
    width = max(map(len, files))
    for kind, path in files.items():
        say(f"{kind:<{width}}  {path}")
    if record.quality is not None:
        say(f"{'grade':<{width}}  {record.quality.grade}")
