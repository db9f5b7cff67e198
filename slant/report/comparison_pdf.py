"""The comparison of two segmentations as a PDF of two A4 pages: pictures on the first, regions on the second."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from slant.report.comparison import Comparison, RegionChange, comparison_rows, summary
from slant.report.page import plain_text, side_text
from slant.report.pdf_layout import (
    EDGE,
    HEIGHT,
    INSIDE,
    LINE_HEIGHT,
    MIN_PICTURE_HEIGHT,
    MM,
    draw_row,
    draw_table,
    heading,
    new_canvas,
    number,
    paragraph,
)

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
    buffer, convention = io.BytesIO(), side_text(settings)
    name = str(plain_text(comparison.name))
    canvas = new_canvas(buffer, f"{name}, two segmentations", convention)
    texts = [(f"<b>{escape(name)}: two segmentations</b>", 14.0), (f"<b>{escape(convention)}</b>", 8.0)]
    texts += [(escape(" ".join(summary(comparison))), 8.0)]
    texts += [(escape(text), 8.0) for text in comparison.notes]
    for letter, source in zip("AB", plain_text([dict(s) for s in comparison.sources]), strict=True):
        texts.append((escape(f"{letter}: " + ", ".join(f"{k} {v}" for k, v in source.items())), 7.0))
    top = HEIGHT - EDGE
    for text, size in texts:
        top = paragraph(canvas, text, size, top, bottom=EDGE + MIN_PICTURE_HEIGHT)
    _pictures(canvas, comparison, top, radiological=settings.radiological)
    canvas.showPage()
    _numbers(canvas, comparison, name)
    canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _pictures(canvas: Canvas, comparison: Comparison, top: float, *, radiological: bool) -> None:
    rows = comparison_rows(comparison, radiological=radiological)
    full_height = sum(max(p.size[1] / p.size[0] for p in row.panels) / len(row.panels) for row in rows) * INSIDE
    text_height = (len(rows) * 3 + 6) * MM  # captions and the heading
    scale = min(1.0, ((top - EDGE) / len(_LAYERS) - text_height) / full_height)
    for text, layers in _LAYERS:
        top = heading(canvas, text, top)
        for row in rows:
            top = draw_row(canvas, row, layers, top, INSIDE * scale)


def _numbers(canvas: Canvas, comparison: Comparison, name: str) -> None:
    top = heading(canvas, f"{name}: regions", HEIGHT - EDGE)
    lines = list(_lines(comparison.regions))
    half = math.ceil(len(lines) / 2)
    size = min(7.0, (top - EDGE) / (half + 2) / LINE_HEIGHT)
    head = ["Region", "Dice", "A cm\u00b3", "B cm\u00b3", "Change %"]
    for i, part in enumerate((lines[:half], lines[half:])):
        draw_table(canvas, [head, *part], EDGE + i * (INSIDE + 4 * MM) / 2, top, (50, 10, 11, 11, 11), size)


def _lines(regions: tuple[RegionChange, ...]) -> Iterator[list[str]]:
    for r in regions:
        volumes = (number(mm3 / 1000, ".2f") for mm3 in (r.first_mm3, r.second_mm3))
        yield [f"  {r.name}", number(r.dice, ".3f"), *volumes, number(r.percent, "+.1f")]
