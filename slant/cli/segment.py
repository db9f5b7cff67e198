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
from slant.config import DicomSettings, RunReportSettings, SegmentSettings
from slant.errors import SettingsError

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
    force: bool = False,
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
    force : bool
        Overwrite existing results when finished.
    """
    start = time.perf_counter()
    from slant.io.names import ResultNames
    from slant.io.staging import check_output

    loaded = _read(scan, volume, dicom)
    if name is not None:
        loaded = replace(loaded, name=_file_name(name))
    names = ResultNames(loaded.name)
    check_output(out, names, force=force, optional=names.optional)
    from slant.io.models import load_model
    from slant.run import Output, Request, run_scan

    model = load_model(settings.model)
    encoders = {"dicom_seg": _seg_encoder(loaded, model)} if dicom.dicom_seg else {}
    result, files = run_scan(loaded, model, Request(settings, volume, reports), Output(out, encoders=encoders))
    _report(files, result.record, time.perf_counter() - start)


def _read(scan: Path, volume: int | None, dicom: DicomSettings) -> Scan:
    if not scan.is_dir():
        from slant.io.read import read_scan

        dicom.check_file(scan)
        return read_scan(scan, volume=volume)
    from slant.io.dicom.convert import read_dicom

    if volume is not None:
        raise SettingsError(f"--volume is for files of several volumes, found the folder {scan}; use --series")
    return read_dicom(scan, series=dicom.series)


def _seg_encoder(scan: Scan, model: Model) -> Callable[[LabelMap], bytes]:
    """Function that encodes labels as a DICOM Segmentation; an impossible export fails before the segmentation."""
    from slant.io.dicom.seg import seg_bytes, seg_target

    return partial(seg_bytes, seg_target(scan, model))


def _file_name(name: str) -> str:
    if name.startswith(".") or set(name) & set("/\\\0\n") or not name:
        raise SettingsError(f"--name {name!r} cannot begin file names; expected no slash and no leading dot")
    return name


def _report(files: dict[str, Path], record: Record, runtime_s: float) -> None:
    for warning in record.warnings:
        sys.stderr.write(f"slant: warning: {warning}\n")
    width = max(map(len, files))
    for kind, path in files.items():
        say(f"{kind:<{width}}  {path}")
    if record.quality is not None:
        for check in record.quality.problems:
            sys.stderr.write(f"slant: {check.grade}: {check.text}\n")
        say(f"{'grade':<{width}}  {record.quality.grade}")
    say(f"done in {runtime_s:.0f} s")
