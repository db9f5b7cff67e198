"""`slant segment`."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.config import DicomSettings, RunPages, SegmentSettings
from slant.errors import SettingsError

if TYPE_CHECKING:
    from slant.io.read import Scan
    from slant.nets.model import Model
    from slant.volume import LabelMap

_DEFAULTS, _PAGES, _DICOM = SegmentSettings(), RunPages(), DicomSettings()


@app.command
def segment(  # noqa: PLR0913 (what a scan needs, and how its results are called)
    scan: Path,
    out: Path,
    /,
    *,
    settings: Annotated[SegmentSettings, Parameter(name="*")] = _DEFAULTS,
    volume: int | None = None,
    name: str | None = None,
    pages: Annotated[RunPages, Parameter(name="*")] = _PAGES,
    dicom: Annotated[DicomSettings, Parameter(name="*")] = _DICOM,
    force: bool = False,
) -> None:
    """Label one T1-weighted scan.

    Parameters
    ----------
    scan : Path
        .nii, .nii.gz or .mgz file, or a folder of DICOM files.
    out : Path
        Folder for the results; made if absent.
    volume : int
        Which volume of a 4D file to take, counted from 0.
    name : str
        What the names of the results begin with. [default: the name of the scan's file, without _T1w, or folder]
    force : bool
        Replace existing results once the new ones are complete.
    """
    start = time.perf_counter()
    from slant.io.results import ResultNames, write_results
    from slant.io.staging import check_output

    loaded = _read(scan, volume, dicom)
    if name is not None:
        loaded = dataclasses.replace(loaded, name=_file_name(name))
    names = ResultNames(loaded.name)
    check_output(out, names, force=force, optional=names.pages)
    from slant.cohort.scan import Request, segment_scan
    from slant.io.models import load_model

    model = load_model(settings.model)
    as_dicom = _seg_writer(loaded, model) if dicom.dicom_seg else None
    run = segment_scan(loaded, model, Request(settings, volume, pages))
    if as_dicom is not None:
        run = dataclasses.replace(run, pages={**run.pages, "dicom_seg": as_dicom(run.segmentation.labels)})
    files = write_results(run, out)
    _report(files, run.warnings, run.quality, time.perf_counter() - start)


def _read(scan: Path, volume: int | None, dicom: DicomSettings) -> Scan:
    if not scan.is_dir():
        from slant.io.read import read_scan

        dicom.check_file(scan)
        return read_scan(scan, volume=volume)
    from slant.io.dicom.convert import read_dicom

    if volume is not None:
        raise SettingsError(f"--volume is for files of several volumes: found the folder {scan}; use --series")
    return read_dicom(scan, series=dicom.series)


def _seg_writer(scan: Scan, model: Model) -> Callable[[LabelMap], bytes]:
    """What makes a DICOM Segmentation of labels; fails now if it could not then."""
    from slant.io.dicom.seg import seg_bytes, seg_target

    return partial(seg_bytes, seg_target(scan, model))


def _file_name(name: str) -> str:
    if name.startswith(".") or set(name) & set("/\\\0\n") or not name:
        raise SettingsError(f"--name {name!r} cannot begin file names; wanted one without slashes or a leading dot")
    return name


def _report(files: dict[str, Path], warnings: tuple[str, ...], quality: dict[str, Any] | None, seconds: float) -> None:
    for warning in warnings:
        sys.stderr.write(f"slant: warning: {warning}\n")
    width = max(map(len, files))
    for kind, path in files.items():
        say(f"{kind:<{width}}  {path}")
    if quality is not None:
        for reason in quality["reasons"]:
            sys.stderr.write(f"slant: look: {reason}\n")
        say(f"{'grade':<{width}}  {quality['grade']}")
    say(f"done in {seconds:.0f} s")
