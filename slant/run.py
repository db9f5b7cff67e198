"""What is done with one scan: segment it, grade it, draw its overlay and reports, and write its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from slant.config import RunReportSettings, SegmentSettings
from slant.errors import errors_with
from slant.threads import ONE_THREAD, Threads
from slant.timing import TimingLog

if TYPE_CHECKING:
    from slant.io.read import Scan
    from slant.io.results import Result
    from slant.nets.model import Model
    from slant.pipeline import Prepared, Segmentation
    from slant.volume import LabelMap


@dataclass(frozen=True)
class Request:
    """Requested segmentation and reports; ``volume`` is the volume of 4D files, counted from 0."""

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


@dataclass(frozen=True)
class Compute:
    """What a scan is computed with.

    Attributes
    ----------
    threads : int, optional
        CPU threads, if the settings do not give a number (default: all available).
    labeller : Labeller, optional
        Runs the networks (default: this process runs them).
    """

    threads: int | None = None
    labeller: Labeller | None = None


@dataclass(frozen=True)
class Output:
    """Where the results of a scan are written.

    Attributes
    ----------
    unfinished : Path, optional
        Staging folder, see `slant.io.staging.staged`.
    encoders : mapping of str to callable
        Functions that make further optional files from the labels in native space, by kind, see
        `slant.io.names.RESULT_FILES`; for example ``dicom_seg``.
    """

    folder: Path
    unfinished: Path | None = None
    encoders: Mapping[str, Callable[[LabelMap], bytes]] = field(default_factory=dict)


_THIS_PROCESS = Compute()


def run_scan(
    scan: Scan,
    model: Model,
    request: Request,
    output: Output,
    compute: Compute = _THIS_PROCESS,
    clock: TimingLog | None = None,
) -> tuple[Result, dict[str, Path]]:
    """Segment and grade a scan, draw its overlay and reports, and write all files, replacing existing ones.

    Parameters
    ----------
    scan : Scan
        Its name is the prefix of the files.
    clock : TimingLog, optional
        Gets the timings of all steps. Those up to the grade, and those that it already has, are also in the record;
        the reports show the record, so they are drawn when it is complete.

    Returns
    -------
    result : Result
    files : dict of str to Path
        Paths of the files by their kinds.

    Raises
    ------
    SlantError
        If the scan cannot be segmented, or a file cannot be written; existing results are then unchanged.
    """
    from slant.io.results import write_results

    clock = clock or TimingLog()
    result = segment_scan(scan, model, request, compute, clock)
    with Threads(int(result.record.settings["threads"])) as threads:
        with clock("overlay and reports"):
            drawings = draw(result, request.reports, threads)
        with clock("write files"):
            drawings |= {kind: encode(result.labels) for kind, encode in output.encoders.items()}
            return result, write_results(result, output.folder, drawings, output.unfinished, threads)


def segment_scan(
    scan: Scan, model: Model, request: Request, compute: Compute = _THIS_PROCESS, clock: TimingLog | None = None
) -> Result:
    """Segment and grade a scan, in memory; SlantError if that is not possible."""
    from slant import pipeline
    from slant.io.results import make_result
    from slant.nets.device import choose_device, inference_dtype

    clock, requested, labeller = clock or TimingLog(), request.settings, compute.labeller
    if labeller is None:
        chosen = choose_device(requested.device)
        inference_dtype(requested.precision, chosen)  # an error before the work, not after the preparation
        device = str(chosen)
    else:
        device = labeller.device
    n_threads = requested.threads or compute.threads or requested.thread_count
    settings = replace(requested, threads=n_threads, device=device)
    with errors_with(scan.warnings):
        if labeller is None:
            segmentation = pipeline.segment(scan.volume, model, settings, clock.listener)
        else:
            prepared = pipeline.prepare(scan.volume, model.inputs, settings, clock.listener)
            segmentation = labeller.label(prepared, settings.model, settings)
    clock.add(segmentation.timings)
    settings = replace(settings, skull_stripped=segmentation.prepared.skull_stripped)
    with clock("quality"):
        from slant.quality.grade import grade

        result = make_result(scan, segmentation, model, settings, {**asdict(requested), "volume": request.volume})
        with Threads(settings.thread_count) as threads:
            quality = grade(result, requested.model, threads)
    return replace(result, record=replace(result.record, quality=quality, timings=clock.timings))


def draw(result: Result, reports: RunReportSettings, threads: Threads = ONE_THREAD) -> dict[str, bytes]:
    """The overlay and the requested reports of a scan, by their kinds in `slant.io.names.RESULT_FILES`."""
    from slant.report.overlay import draw_overlay
    from slant.report.qc_figures import base_in_native

    title = result.name.encode(errors="replace").decode()  # names may contain bytes that are not valid text
    labels, protocol, warnings = result.labels, result.protocol, result.record.warnings
    base, radiological = base_in_native(result), reports.radiological
    overlay = threads.start(draw_overlay, base, labels, protocol, title, warnings, radiological=radiological)
    pages: dict[str, bytes] = {}
    if reports.report:
        from slant.report.page import reports_of

        pages = reports_of(result, reports, threads)
    return {"overlay": overlay.result(), **pages}
