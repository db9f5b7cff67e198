"""What is done with one scan: segment it, grade it, draw its overlay and reports, and write its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from slant.config import RunReportSettings, SegmentSettings
from slant.errors import errors_with
from slant.threads import ONE_THREAD, Threads
from slant.timing import TimingLog

if TYPE_CHECKING:
    from slant.atlas_votes import Atlas
    from slant.io.atlas_library import LibraryFile
    from slant.io.read import Scan
    from slant.io.results import Result
    from slant.nets.model import Model
    from slant.segmentation import Segmentation
    from slant.volume import LabelMap

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """Requested segmentation and reports.

    Attributes
    ----------
    volume : int, optional
        Index of the volume of 4D files, counted from 0.
    atlases : LibraryFile, optional
        Atlases that vote together with the networks.
    together_with : tuple of str
        SHA-256 of the files of all visits of the subject that are segmented together, sorted; empty if the scan is
        segmented by itself.
    """

    settings: SegmentSettings
    volume: int | None = None
    reports: RunReportSettings = field(default_factory=RunReportSettings)
    together_with: tuple[str, ...] = ()
    atlases: LibraryFile | None = None

    def plain(self) -> dict[str, Any]:
        """What the entry ``requested`` of a record holds: the settings as given and, if any, visits and atlases."""
        values = {**asdict(self.settings), "volume": self.volume}
        if self.together_with:
            values["longitudinal"] = {"visits": list(self.together_with)}
        return values if self.atlases is None else {**values, "atlases": self.atlases.plain()}

    def made(self, record: Mapping[str, Any], model_sha256: str) -> bool:
        """Whether a record says that model, volume, settings, visits and atlases were these.

        The device counts only if one is requested.

        Parameters
        ----------
        record : mapping
            Plain values of the record of a scan or of a subject.
        """
        requested, used, expected = record.get("requested"), record.get("settings"), self.plain()
        if not isinstance(requested, dict) or not isinstance(used, dict):
            return False
        return (
            record.get("model", {}).get("sha256") == model_sha256
            and all(requested.get(key) == expected.get(key) for key in ("volume", "longitudinal"))
            and _library_sha256(requested) == _library_sha256(expected)
            and self.settings.device in ("auto", used.get("device"))
            and all(
                requested.get(option.name, option.default) == expected[option.name]
                for option in fields(SegmentSettings)
                if option.name not in ("model", "threads", "device")
            )
        )


def _library_sha256(requested: Mapping[str, Any]) -> str | None:
    """SHA-256 of the library of atlases of a request; its path does not matter."""
    atlases = requested.get("atlases")
    return atlases.get("sha256") if isinstance(atlases, dict) else None


class Networks(Protocol):
    """Runs the networks elsewhere, for example on a GPU server."""

    @property
    def device(self) -> str:
        """Device of the networks."""

    def run(self, work: Callable[[Model, SegmentSettings], T], model: str, settings: SegmentSettings) -> T:
        """The result of a picklable function, called there with the model of this name or folder."""


@dataclass(frozen=True)
class Compute:
    """What a scan is computed with.

    Attributes
    ----------
    threads : int, optional
        CPU threads, if the settings do not give a number (default: all available).
    networks : Networks, optional
        Runs the networks (default: this process runs them).
    """

    threads: int | None = None
    networks: Networks | None = None

    def resolved(self, requested: SegmentSettings, model: Model) -> SegmentSettings:
        """Settings with the device and the number of threads.

        Raises
        ------
        DeviceError
            If the device, or the precision on it, is not available.
        SettingsError
            If the mirror image is to be labelled and the model cannot do that.
        """
        from slant.nets.device import choose_device, inference_dtype

        if requested.mirror:
            model.check_mirror()  # an error before the work, not after the preparation
        if self.networks is None:
            chosen = choose_device(requested.device)
            inference_dtype(requested.precision, chosen)  # likewise
            device = str(chosen)
        else:
            device = self.networks.device
        return replace(requested, threads=requested.threads or self.threads or requested.thread_count, device=device)


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
    clock = clock or TimingLog()
    result = segment_scan(scan, model, request, compute, clock)
    return result, write_scan(result, request.reports, output, clock)


def segment_scan(
    scan: Scan, model: Model, request: Request, compute: Compute = _THIS_PROCESS, clock: TimingLog | None = None
) -> Result:
    """Segment and grade a scan, in memory; SlantError if that is not possible."""
    from slant import pipeline

    clock, settings = clock or TimingLog(), compute.resolved(request.settings, model)
    with errors_with(scan.warnings):
        atlases = _atlases(scan, model, request.atlases)
        if compute.networks is None:
            segmentation = pipeline.segment(scan.volume, model, settings, clock.listener, atlases)
        else:
            prepared = pipeline.prepare(scan.volume, model.inputs, settings, clock.listener, atlases)
            segmentation = compute.networks.run(partial(pipeline.label, prepared), settings.model, settings)
    return grade_scan(scan, segmentation, model, request, settings, clock)


def _atlases(scan: Scan, model: Model, file: LibraryFile | None) -> tuple[Atlas, ...]:
    """The atlases that vote on a scan; none without a library."""
    if file is None:
        return ()
    from slant.io.atlas_library import read_library

    library = read_library(file)
    library.check(model)
    return library.atlases_for(scan)


def grade_scan(
    scan: Scan, segmentation: Segmentation, model: Model, request: Request, settings: SegmentSettings, clock: TimingLog
) -> Result:
    """The graded result of a segmentation; its record has the timings of the clock.

    The reference of a model is one of its networks, so their vote fractions are graded, without the atlases.

    Parameters
    ----------
    settings : SegmentSettings
        Settings as they were used, see `Compute.resolved`.
    clock : TimingLog
        Gets the timings of the segmentation and of the grading.
    """
    from slant.io.results import make_result

    clock.add(segmentation.timings)
    settings = replace(settings, skull_stripped=segmentation.prepared.skull_stripped)
    with clock("quality"):
        from slant.quality.grade import grade

        result = make_result(scan, segmentation, model, settings, request.plain())
        with Threads(settings.thread_count) as threads:
            of_networks = replace(result, confidence=segmentation.network_confidence or result.confidence)
            quality = grade(of_networks, request.settings.model, threads)
    return replace(result, record=replace(result.record, quality=quality, timings=clock.timings))


def write_scan(result: Result, reports: RunReportSettings, output: Output, clock: TimingLog) -> dict[str, Path]:
    """Draw the overlay and the reports of a graded result, and write all files; returns their paths by kind.

    Raises
    ------
    SlantError
        If a file cannot be written; existing results are then unchanged.
    """
    from slant.io.results import write_results

    with Threads(int(result.record.settings["threads"])) as threads:
        with clock("overlay and reports"):
            drawings = draw(result, reports, threads)
        with clock("write files"):
            drawings |= {kind: encode(result.labels) for kind, encode in output.encoders.items()}
            return write_results(result, output.folder, drawings, output.unfinished, threads)


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
