"""The page of a scan: one file that holds all it shows, and asks the network for nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import slant
from slant.config import PageSettings
from slant.io.finished import Finished
from slant.io.templates import load_intensity_reference, load_template
from slant.quality.grade import Judgement
from slant.report.checks import (
    LEAST_SHARE,
    BiasCheck,
    base_at_home,
    bias_check,
    color_scale,
    registration_rows,
    scan_in_template,
    votes_rows,
)
from slant.report.intensities import Curve, Plot, intensity_plots
from slant.report.overlay import labelled_box
from slant.report.paint import gray_range
from slant.report.slices import Row, labelled_rows
from slant.report.tables import (
    DIVIDED_SHARE,
    UNEVEN_PERCENT,
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

_PAGES = Path(__file__).parent / "pages"
_MARKS = {"pass": "✓", "look": "!", "fail": "✗"}


@dataclass(frozen=True, eq=False)
class Contents:
    """All that the page and the PDF of one scan show.

    Attributes
    ----------
    finished : Finished
    settings : PageSettings
    regions : tuple of RegionLine
    home, mni, registration, votes : tuple of Row
        Pictures, see `slant.report.checks` and `slant.report.slices`.
    bias : BiasCheck or None
    plots : tuple of Plot
    quality : tuple of Judgement
        Shown first, if there are any, the worst before the others.
    """

    finished: Finished
    settings: PageSettings
    regions: tuple[RegionLine, ...]
    home: tuple[Row, ...]
    mni: tuple[Row, ...]
    registration: tuple[Row, ...]
    votes: tuple[Row, ...]
    bias: BiasCheck | None
    plots: tuple[Plot, ...]
    quality: tuple[Judgement, ...] = field(default=())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the run."""
        return tuple(self.finished.record["warnings"])

    @property
    def grade(self) -> str:
        """The worst of the judgements; empty without any."""
        grades = {judgement.grade for judgement in self.quality}
        return next((grade for grade in ("fail", "look", "pass") if grade in grades), "")

    @property
    def title(self) -> str:
        """The scan's name as text, whatever bytes it is made of."""
        return self.finished.name.encode(errors="replace").decode()

    @property
    def convention_text(self) -> str:
        """Which side is where."""
        return side_text(self.settings)


def contents(
    finished: Finished,
    settings: PageSettings,
    quality: tuple[Judgement, ...] | None = None,
    flags: Mapping[int, str] | None = None,
) -> Contents:
    """Draw the pictures and gather the numbers of a scan.

    Parameters
    ----------
    finished : Finished
    settings : PageSettings
    quality : tuple of Judgement, optional
        Judgements to show first, instead of those in the record.
    flags : mapping of int to str, optional
        Flags of regions by id, instead of those in the record or, if there are none, of
        `slant.report.tables.simple_flags`.
    """
    judged = finished.record.get("quality") or {}
    if quality is None:
        quality = tuple(Judgement(**entry) for entry in judged.get("judgements", ()))
    if flags is None and judged:
        flags = {int(i): text for i, text in judged["flags"].items()}
    radiological = settings.radiological
    moved = scan_in_template(finished)
    return Contents(
        finished,
        settings,
        region_lines(finished, flags),
        _labelled(finished, base_at_home(finished), finished.labels, radiological=radiological),
        _labelled(finished, finished.image, finished.template_labels, radiological=radiological),
        registration_rows(finished, moved, load_template(), radiological=radiological),
        votes_rows(finished, radiological=radiological),
        bias_check(finished, moved, radiological=radiological),
        intensity_plots(finished, load_intensity_reference()),
        quality,
    )


def draw_page(shown: Contents) -> bytes:
    """The page as HTML; the same bytes for the same contents."""
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
            usual_about=plain_text((finished.record.get("quality") or {}).get("compared_with", "")),
            judged=any(not math.isnan(r.expected_dice) for r in shown.regions),
            marks=_MARKS,
            home=shown.home,
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
            least_share=LEAST_SHARE,
            uneven=UNEVEN_PERCENT,
            divided=DIVIDED_SHARE,
        )
    )
    return text.encode(errors="replace")


def side_text(settings: PageSettings) -> str:
    """The convention, in words."""
    if settings.radiological:
        return "Radiological convention: the person's left is on the right"
    return "Neurological convention: the person's left is on the left"


@cache
def environment() -> Environment:
    """Jinja with the pages' templates, style, script and helpers."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    ramp = ",".join("#" + bytes(color[:3]).hex() for color in color_scale()[1::9].tolist())
    made.globals.update(
        version=slant.__version__,
        css=(_PAGES / "page.css").read_text("utf-8"),
        js=(_PAGES / "page.js").read_text("utf-8"),
        points=_points,
        ramp=ramp,
    )
    return made


def _labelled(finished: Finished, base: Volume, labels: LabelMap, *, radiological: bool) -> tuple[Row, ...]:
    channels = LabelMap(finished.protocol.channels_from_ids(labels.data), labels.grid)
    shown = gray_range(base, labels)
    return labelled_rows(base, channels, finished.protocol, labelled_box(labels), shown, radiological=radiological)


def _points(plot: Plot, curve: Curve, width: int, height: int, left: int, bottom: int) -> list[tuple[str, str]]:
    """Places of a curve in a picture of so many pixels."""
    across = (width - 2 * left) / (plot.high - plot.low)
    up = height - bottom - 28  # under the line of names
    return [
        (f"{left + (x - plot.low) * across:.1f}", f"{height - bottom - y * up:.1f}")
        for x, y in zip(curve.x, curve.y, strict=True)
    ]


def plain_text(value: Any) -> Any:
    """Plain values with every text in UTF-8; names may hold bytes that are no text."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {key: plain_text(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [plain_text(own) for own in value]
    return value


def script_json(value: Any) -> str:
    """Plain values for a script block, which no text in them can end."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


def pages_of(finished: Finished, settings: PageSettings) -> dict[str, bytes]:
    """Content of the files ``report`` and, if it is wanted, ``pdf``; see `slant.io.results.ResultNames`."""
    shown = contents(finished, settings)
    pages = {"report": draw_page(shown)}
    if settings.pdf:
        from slant.report.pdf import draw_pdf

        pages["pdf"] = draw_pdf(shown)
    return pages
