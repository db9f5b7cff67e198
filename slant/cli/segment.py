"""`slant segment`."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.config import SegmentSettings
from slant.errors import SettingsError

_DEFAULTS = SegmentSettings()


@app.command
def segment(
    scan: Path,
    out: Path,
    /,
    *,
    settings: Annotated[SegmentSettings, Parameter(name="*")] = _DEFAULTS,
    volume: int | None = None,
    name: str | None = None,
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
    from slant.io.results import ResultNames, Run, write_results
    from slant.io.staging import check_output

    loaded = read_scan(scan, volume=volume)
    if name is not None:
        loaded = dataclasses.replace(loaded, name=_file_name(name))
    check_output(out, ResultNames(loaded.name), force=force)
    from slant.io.models import load_model

    model = load_model(settings.model)
    from slant import pipeline
    from slant.brain import is_skull_stripped
    from slant.nets.predict import choose_device
    from slant.report.overlay import draw_overlay

    requested = {**dataclasses.asdict(settings), "volume": volume}
    settings = dataclasses.replace(
        settings,
        device=str(choose_device(settings.device)),
        threads=settings.thread_count,
        skull_stripped=is_skull_stripped(loaded.volume) if settings.skull_stripped is None else settings.skull_stripped,
    )
    found = pipeline.segment(loaded.volume, model, settings)
    warnings = loaded.warnings + found.warnings
    title = loaded.name.encode(errors="replace").decode()  # names may hold bytes that are no text
    picture = draw_overlay(loaded.volume, found.labels, model.protocol, title, warnings)
    files = write_results(Run(loaded, found, model, settings, picture, requested), out)
    _report(files, warnings, time.perf_counter() - start)


def _file_name(name: str) -> str:
    if name.startswith(".") or set(name) & set("/\\\0\n") or not name:
        raise SettingsError(f"--name {name!r} cannot begin file names; wanted one without slashes or a leading dot")
    return name


def _report(files: dict[str, Path], warnings: tuple[str, ...], seconds: float) -> None:
    for warning in warnings:
        sys.stderr.write(f"slant: warning: {warning}\n")
    width = max(map(len, files))
    for kind, path in files.items():
        say(f"{kind:<{width}}  {path}")
    say(f"done in {seconds:.0f} s")
