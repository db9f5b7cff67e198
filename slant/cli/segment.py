"""`slant segment`."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.config import RunPages, SegmentSettings
from slant.errors import SettingsError

_DEFAULTS, _PAGES = SegmentSettings(), RunPages()


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
    force: bool = False,
) -> None:
    """Label one T1-weighted scan.

    Parameters
    ----------
    scan : Path
        .nii, .nii.gz or .mgz file.
    out : Path
        Folder for the results; made if absent.
    volume : int
        Which volume of a 4D file to take, counted from 0.
    name : str
        What the names of the results begin with. [default: the scan's file name without _T1w]
    force : bool
        Replace existing results once the new ones are complete.
    """
    start = time.perf_counter()
    from slant.io.read import read_scan
    from slant.io.results import ResultNames, write_results
    from slant.io.staging import check_output

    loaded = read_scan(scan, volume=volume)
    if name is not None:
        loaded = dataclasses.replace(loaded, name=_file_name(name))
    names = ResultNames(loaded.name)
    check_output(out, names, force=force, optional=names.pages)
    from slant.cohort.scan import Request, segment_scan
    from slant.io.models import load_model

    run = segment_scan(loaded, load_model(settings.model), Request(settings, volume, pages))
    files = write_results(run, out)
    _report(files, run.warnings, run.quality, time.perf_counter() - start)


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
