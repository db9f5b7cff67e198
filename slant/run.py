"""Segments one scan and makes its quality grade, overlay and reports, for `slant segment` and for cohorts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from slant.config import RunReportSettings, SegmentSettings

if TYPE_CHECKING:
    from slant.io.read import Scan
    from slant.io.results import SegmentationRun
    from slant.nets.model import Model
    from slant.pipeline import Prepared, Segmentation


@dataclass(frozen=True)
class Request:
    """Requested segmentation and reports.

    Attributes
    ----------
    settings : SegmentSettings
    volume : int, optional
        Volume of 4D files, counted from 0.
    reports : RunReportSettings
    """

    settings: SegmentSettings
    volume: int | None = None
    reports: RunReportSettings = field(default_factory=RunReportSettings)


class Labeller(Protocol):
    """Runs the networks elsewhere, for example on a GPU server."""

    @property
    def device(self) -> str:
        """Device of the networks."""

    def label(self, prepared: Prepared, model: str, settings: SegmentSettings) -> Segmentation:
        """As `slant.pipeline.label`, with the model given by its name or folder."""


def segment_scan(
    scan: Scan, model: Model, request: Request, *, threads: int | None = None, labeller: Labeller | None = None
) -> SegmentationRun:
    """Segment and grade a scan, draw the overlay, and make the reports, without writing files.

    Parameters
    ----------
    scan : Scan
    model : Model
    request : Request
    threads : int, optional
        CPU threads, if the settings do not give a number (default: all available).
    labeller : Labeller, optional
        Runs the networks (default: this process runs them).

    Returns
    -------
    SegmentationRun

    Raises
    ------
    SlantError
        If the scan cannot be segmented.
    """
    from slant import pipeline
    from slant.io.finished import finished_of
    from slant.io.results import SegmentationRun
    from slant.nets.predict import choose_device
    from slant.preprocess.brain import is_skull_stripped
    from slant.quality.files import grade
    from slant.report.overlay import draw_overlay

    requested, stripped = request.settings, request.settings.skull_stripped
    settings = replace(
        requested,
        threads=requested.threads or threads or requested.thread_count,
        device=str(choose_device(requested.device)) if labeller is None else labeller.device,
        skull_stripped=is_skull_stripped(scan.volume) if stripped is None else stripped,
    )
    if labeller is None:
        segmentation = pipeline.segment(scan.volume, model, settings)
    else:
        prepared = pipeline.prepare(scan.volume, model.inputs, settings)
        segmentation = labeller.label(prepared, settings.model, settings)
    title = scan.name.encode(errors="replace").decode()  # names may contain bytes that are not valid text
    warnings, radiological = scan.warnings + segmentation.warnings, request.reports.radiological
    labels, protocol = segmentation.labels, model.protocol
    overlay = draw_overlay(scan.volume, labels, protocol, title, warnings, radiological=radiological)
    requested_values = {**asdict(requested), "volume": request.volume}
    run = SegmentationRun(scan, segmentation, model, settings, overlay, requested_values)
    run = replace(run, quality=grade(finished_of(run), requested.model))
    if not request.reports.report:
        return run
    from slant.report.page import reports_of

    return replace(run, exports=reports_of(finished_of(run), request.reports))
