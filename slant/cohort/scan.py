"""One scan from what was read to all that is written of it: what `slant segment` does, and cohorts do with each."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from slant.config import RunPages, SegmentSettings

if TYPE_CHECKING:
    from slant.cohort.feed import Feed
    from slant.io.read import Scan
    from slant.io.results import Run
    from slant.nets.model import Model


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes
    ----------
    settings : SegmentSettings
    volume : int, optional
        Which volume of 4D files.
    pages : RunPages
    """

    settings: SegmentSettings
    volume: int | None = None
    pages: RunPages = field(default_factory=RunPages)


def segment_scan(
    scan: Scan, model: Model, request: Request, *, threads: int | None = None, feed: Feed | None = None
) -> Run:
    """Segment a scan, grade it, draw its picture and its pages; nothing is written yet.

    Parameters
    ----------
    scan : Scan
    model : Model
    request : Request
    threads : int, optional
        Where the request does not say; by default all that this process may use.
    feed : Feed, optional
        Process that labels what is prepared here.

    Raises
    ------
    SlantError
        If the scan cannot be segmented.
    """
    from slant import pipeline
    from slant.brain import is_skull_stripped
    from slant.io.finished import finished_of
    from slant.io.results import Run
    from slant.nets.predict import choose_device
    from slant.quality.files import grade
    from slant.report.overlay import draw_overlay

    asked, stripped = request.settings, request.settings.skull_stripped
    settings = replace(
        asked,
        threads=asked.threads or threads or asked.thread_count,
        device=str(choose_device(asked.device)) if feed is None else feed.device,
        skull_stripped=is_skull_stripped(scan.volume) if stripped is None else stripped,
    )
    if feed is None:
        found = pipeline.segment(scan.volume, model, settings)
    else:
        prepared = pipeline.prepare(scan.volume, model.inputs, settings)
        found = feed.label(prepared, settings.model, settings)
    title = scan.name.encode(errors="replace").decode()  # names may hold bytes that are no text
    warnings, radiological = scan.warnings + found.warnings, request.pages.radiological
    picture = draw_overlay(scan.volume, found.labels, model.protocol, title, warnings, radiological=radiological)
    requested = {**asdict(asked), "volume": request.volume}
    run = Run(scan, found, model, settings, picture, requested)
    run = replace(run, quality=grade(finished_of(run), asked.model))
    if not request.pages.report:
        return run
    from slant.report.page import pages_of

    return replace(run, pages=pages_of(finished_of(run), request.pages))
