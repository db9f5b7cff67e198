"""`slant segment`."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.config import RunPages, SegmentSettings

_DEFAULTS, _PAGES = SegmentSettings(), RunPages()


@app.command
def segment(
    scan: Path,
    out: Path,
    /,
    *,
    settings: Annotated[SegmentSettings, Parameter(name="*")] = _DEFAULTS,
    volume: int | None = None,
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
    force : bool
        Replace existing results once the new ones are complete.
    """
    start = time.perf_counter()
    from slant.io.read import read_scan
    from slant.io.results import ResultNames, Run, write_results
    from slant.io.staging import check_output

    loaded = read_scan(scan, volume=volume)
    names = ResultNames(loaded.name)
    check_output(out, names, force=force, optional=names.pages)
    from slant.io.models import load_model

    model = load_model(settings.model)
    from slant import pipeline
    from slant.brain import is_skull_stripped
    from slant.nets.predict import choose_device
    from slant.report.overlay import draw_overlay

    settings = dataclasses.replace(
        settings,
        device=str(choose_device(settings.device)),
        threads=settings.thread_count,
        skull_stripped=is_skull_stripped(loaded.volume) if settings.skull_stripped is None else settings.skull_stripped,
    )
    found = pipeline.segment(loaded.volume, model, settings)
    warnings = loaded.warnings + found.warnings
    title = loaded.name.encode(errors="replace").decode()  # names may hold bytes that are no text
    picture = draw_overlay(
        loaded.volume, found.labels, model.protocol, title, warnings, radiological=pages.radiological
    )
    run = Run(loaded, found, model, settings, picture, volume)
    if pages.report:
        from slant.io.finished import finished_of
        from slant.report.page import pages_of

        run = dataclasses.replace(run, pages=pages_of(finished_of(run), pages))
    files = write_results(run, out)
    _report(files, warnings, time.perf_counter() - start)


def _report(files: dict[str, Path], warnings: tuple[str, ...], seconds: float) -> None:
    for warning in warnings:
        sys.stderr.write(f"slant: warning: {warning}\n")
    width = max(map(len, files))
    for kind, path in files.items():
        say(f"{kind:<{width}}  {path}")
    say(f"done in {seconds:.0f} s")
