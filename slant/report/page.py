"""The HTML report of a scan: one self-contained file that makes no network request."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slant._version import __version__
from slant.config import ReportSettings
from slant.io.finished import Finished
from slant.io.templates import load_intensity_reference, load_template
from slant.quality.grade import Check
from slant.report.intensities import Curve, Plot, intensity_plots
from slant.report.overlay import labelled_box
from slant.report.paint import gray_range
from slant.report.qc_figures import (
    MIN_VOTE_FRACTION,
    BiasCheck,
    base_in_native,
    bias_check,
    color_scale,
    registration_rows,
    scan_in_template,
    votes_rows,
)
from slant.report.slices import PanelRow, labelled_rows
from slant.report.tables import (
    LOW_VOTE_FRACTION,
    MAX_ASYMMETRY_PERCENT,
    RegionLine,
    pair_lines,
    region_lines,
    sum_lines,
    summary,
)
from slant.report.viewer import viewer
from slant.volume import LabelMap, Volume

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
_GRADE_SYMBOLS = {"pass": "✓", "review": "!", "fail": "✗"}


@dataclass(frozen=True, eq=False)
class Contents:
    """Figures and numbers that the HTML report and the PDF of one scan show.

    Attributes
    ----------
    finished : Finished
    settings : ReportSettings
    regions : tuple of RegionLine
    native, mni, registration, votes : tuple of PanelRow
        Slices in native space, in MNI305, of the registration and of the vote fraction; see
        `slant.report.qc_figures` and `slant.report.slices`.
    bias : BiasCheck or None
        None if the bias field is not known.
    plots : tuple of Plot
        Intensity distributions.
    quality : tuple of Check
        Quality checks, the worst first; empty if the scan is not graded.
    """

    finished: Finished
    settings: ReportSettings
    regions: tuple[RegionLine, ...]
    native: tuple[PanelRow, ...]
    mni: tuple[PanelRow, ...]
    registration: tuple[PanelRow, ...]
    votes: tuple[PanelRow, ...]
    bias: BiasCheck | None
    plots: tuple[Plot, ...]
    quality: tuple[Check, ...] = field(default=())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of the segmentation."""
        return tuple(self.finished.record["warnings"])

    @property
    def grade(self) -> str:
        """The worst grade of the checks; empty without checks."""
        grades = {check.grade for check in self.quality}
        return next((grade for grade in ("fail", "review", "pass") if grade in grades), "")

    @property
    def title(self) -> str:
        """Name of the scan, with bytes that are not valid text replaced."""
        return self.finished.name.encode(errors="replace").decode()

    @property
    def convention_text(self) -> str:
        """Display convention in words."""
        return side_text(self.settings)


def contents(
    finished: Finished,
    settings: ReportSettings,
    quality: tuple[Check, ...] | None = None,
    flags: Mapping[int, str] | None = None,
) -> Contents:
    """Draw the figures and collect the numbers of the report of a scan.

    Parameters
    ----------
    finished : Finished
    settings : ReportSettings
    quality : tuple of Check, optional
        Quality checks to show instead of those in the record.
    flags : mapping of int to str, optional
        Flags of regions by id; by default those in the record, or those of `slant.report.tables.simple_flags` if the
        scan is not graded.
    """
    recorded = finished.record.get("quality") or {}
    if quality is None:
        quality = tuple(Check(**entry) for entry in recorded.get("checks", ()))
    if flags is None and recorded:
        flags = {int(i): text for i, text in recorded["flags"].items()}
    radiological = settings.radiological
    registered = scan_in_template(finished)
    return Contents(
        finished,
        settings,
        region_lines(finished, flags),
        _labelled(finished, base_in_native(finished), finished.labels, radiological=radiological),
        _labelled(finished, finished.image, finished.template_labels, radiological=radiological),
        registration_rows(finished, registered, load_template(), radiological=radiological),
        votes_rows(finished, radiological=radiological),
        bias_check(finished, registered, radiological=radiological),
        intensity_plots(finished, load_intensity_reference()),
        quality,
    )


def draw_page(shown: Contents) -> bytes:
    """The HTML report; the same bytes for the same contents."""
    finished = shown.finished
    text = (
        environment()
        .get_template("scan.html.j2")
        .render(
            name=shown.title,
            record=plain_text(finished.record),
            record_text=json.dumps(plain_text(finished.record), indent=2, ensure_ascii=False),
            convention_text=shown.convention_text,
            radiological=shown.settings.radiological,
            warnings=plain_text(shown.warnings),
            notes=plain_text(finished.notes),
            summary=summary(finished, shown.regions),
            quality=shown.quality,
            grade=shown.grade,
            graded=bool(finished.record.get("quality")),
            reference_about=plain_text((finished.record.get("quality") or {}).get("compared_with", "")),
            has_dice=any(not math.isnan(r.expected_dice) for r in shown.regions),
            symbols=_GRADE_SYMBOLS,
            native=shown.native,
            mni=shown.mni,
            registration=shown.registration,
            votes=shown.votes,
            bias=shown.bias,
            plots=shown.plots,
            regions=shown.regions,
            pairs=pair_lines(shown.regions),
            sums=sum_lines(finished),
            viewer=viewer(finished),
            regions_json=script_json([{"name": r.row.name, "color": r.color} for r in shown.regions]),
            min_vote_fraction=MIN_VOTE_FRACTION,
            max_asymmetry=MAX_ASYMMETRY_PERCENT,
            low_vote_fraction=LOW_VOTE_FRACTION,
        )
    )
    return text.encode(errors="replace")


def side_text(settings: ReportSettings) -> str:
    """The display convention in words."""
    if settings.radiological:
        return "Radiological convention: the subject's left is on the right"
    return "Neurological convention: the subject's left is on the left"


@cache
def environment() -> Environment:
    """Jinja environment with the templates, style sheet, script and helpers of all reports."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    jinja = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    ramp = ",".join("#" + bytes(color[:3]).hex() for color in color_scale()[1::9].tolist())
    jinja.globals.update(
        version=__version__,
        css=(_TEMPLATES / "page.css").read_text("utf-8"),
        js=(_TEMPLATES / "page.js").read_text("utf-8"),
        points=_points,
        ramp=ramp,
    )
    return jinja


def _labelled(finished: Finished, base: Volume, labels: LabelMap, *, radiological: bool) -> tuple[PanelRow, ...]:
    channels = LabelMap(finished.protocol.channels_from_ids(labels.data), labels.grid)
    shown = gray_range(base, labels)
    return labelled_rows(base, channels, finished.protocol, labelled_box(labels), shown, radiological=radiological)


def _points(plot: Plot, curve: Curve, width: int, height: int, left: int, bottom: int) -> list[tuple[str, str]]:
    """Coordinates in pixels of a curve in a plot of the given size."""
    x_scale = (width - 2 * left) / (plot.high - plot.low)
    y_scale = height - bottom - 28  # below the legend
    return [
        (f"{left + (x - plot.low) * x_scale:.1f}", f"{height - bottom - y * y_scale:.1f}")
        for x, y in zip(curve.x, curve.y, strict=True)
    ]


def plain_text(value: Any) -> Any:
    """Plain values whose strings can be encoded as UTF-8; file names may contain bytes that are not valid text."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {key: plain_text(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_text(entry) for entry in value]
    return value


def script_json(value: Any) -> str:
    """Plain values as JSON for a script element, escaped so that no string can close it."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


def reports_of(finished: Finished, settings: ReportSettings) -> dict[str, bytes]:
    """Contents of the files ``report`` and, if requested, ``pdf``; see `slant.io.results.ResultNames`."""
    shown = contents(finished, settings)
    reports = {"report": draw_page(shown)}
    if settings.pdf:
        from slant.report.pdf import draw_pdf

        reports["pdf"] = draw_pdf(shown)
    return reports
