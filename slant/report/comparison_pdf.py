"""The comparison of two segmentations as a PDF of two A4 pages: pictures on the first, regions on the second."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from slant.report import pdf_layout as layout
from slant.report.comparison import Comparison, RegionChange, comparison_rows, summary
from slant.report.pdf_layout import MM, number
from slant.report.rendering import plain_text

if TYPE_CHECKING:
    from reportlab.pdfgen.canvas import Canvas

    from slant.config import ReportSettings

_LAYERS = (
    ("Voxels with different labels, in amber", {"base": 1.0, "diff": 0.9}),
    ("Outlines of A", {"base": 1.0, "a_lines": 1.0}),
    ("Outlines of B", {"base": 1.0, "b_lines": 1.0}),
)


def draw_comparison_pdf(comparison: Comparison, settings: ReportSettings) -> bytes:
    """The report of a comparison as PDF; the same bytes for the same input."""
    name = str(plain_text(comparison.name))
    pages = partial(_pictures, comparison, settings), partial(_numbers, comparison)
    return layout.document(f"{name}, two segmentations", settings.convention_text, pages)


def _pictures(comparison: Comparison, settings: ReportSettings, canvas: Canvas) -> None:
    name = str(plain_text(comparison.name))
    texts = [(f"<b>{escape(name)}: two segmentations</b>", 14.0), (f"<b>{escape(settings.convention_text)}</b>", 8.0)]
    texts += [(escape(" ".join(summary(comparison))), 8.0)]
    texts += [(escape(text), 8.0) for text in comparison.notes]
    for letter, source in zip("AB", plain_text([dict(s) for s in comparison.sources]), strict=True):
        texts.append((escape(f"{letter}: " + ", ".join(f"{k} {v}" for k, v in source.items())), 7.0))
    top = layout.head(canvas, texts)
    rows = comparison_rows(comparison, radiological=settings.radiological)
    relative_height = sum(max(p.size[1] / p.size[0] for p in row.panels) / len(row.panels) for row in rows)
    text_height = (len(rows) * 3 + 6) * MM  # captions and the heading
    scale = min(1.0, ((top - layout.EDGE) / len(_LAYERS) - text_height) / (relative_height * layout.INSIDE))
    for text, layers in _LAYERS:
        top = layout.heading(canvas, text, top)
        for row in rows:
            top = layout.draw_row(canvas, row, layers, top, layout.INSIDE * scale)


def _numbers(comparison: Comparison, canvas: Canvas) -> None:
    top = layout.heading(canvas, f"{plain_text(comparison.name)}: regions", layout.HEIGHT - layout.EDGE)
    names = ["Region", "Dice", "A cm\u00b3", "B cm\u00b3", "Change %"]
    layout.two_columns(canvas, names, list(_lines(comparison.regions)), top, (50, 10, 11, 11, 11), free=0)


def _lines(regions: tuple[RegionChange, ...]) -> Iterator[list[str]]:
    for r in regions:
        volumes = (number(mm3 / 1000, ".2f") for mm3 in (r.first_mm3, r.second_mm3))
        yield [f"  {r.name}", number(r.dice, ".3f"), *volumes, number(r.percent, "+.1f")]
