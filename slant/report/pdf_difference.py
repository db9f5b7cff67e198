"""The comparison of two segmentations as two sheets of A4: pictures on the first, regions on the second."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from slant.report.difference import Difference, RegionChange, difference_rows, summary
from slant.report.page import plain_text, side_text
from slant.report.paper import (
    EDGE,
    HEIGHT,
    INSIDE,
    LEAST_ROOM,
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

    from slant.config import PageSettings

_LAYERS = (
    ("Voxels whose label differs, in amber", {"base": 1.0, "diff": 0.9}),
    ("Outlines of A", {"base": 1.0, "a_lines": 1.0}),
    ("Outlines of B", {"base": 1.0, "b_lines": 1.0}),
)


def draw_difference_pdf(found: Difference, settings: PageSettings) -> bytes:
    """The page of a comparison as PDF; the same bytes for the same input."""
    buffer, convention = io.BytesIO(), side_text(settings)
    name = str(plain_text(found.name))
    canvas = new_canvas(buffer, f"{name}, two segmentations", convention)
    texts = [(f"<b>{escape(name)}: two segmentations</b>", 14.0), (f"<b>{escape(convention)}</b>", 8.0)]
    texts += [(escape(" ".join(summary(found))), 8.0)]
    texts += [(escape(text), 8.0) for text in found.notes]
    for letter, source in zip("AB", plain_text([dict(s) for s in found.sources]), strict=True):
        texts.append((escape(f"{letter}: " + ", ".join(f"{k} {v}" for k, v in source.items())), 7.0))
    top = HEIGHT - EDGE
    for text, size in texts:
        top = paragraph(canvas, text, size, top, least=EDGE + LEAST_ROOM)
    _pictures(canvas, found, top, radiological=settings.radiological)
    canvas.showPage()
    _numbers(canvas, found, name)
    canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _pictures(canvas: Canvas, found: Difference, top: float, *, radiological: bool) -> None:
    rows = difference_rows(found, radiological=radiological)
    tall = sum(max(p.size[1] / p.size[0] for p in row.panels) / len(row.panels) for row in rows) * INSIDE
    texts = (len(rows) * 3 + 6) * MM  # captions and the heading
    share = min(1.0, ((top - EDGE) / len(_LAYERS) - texts) / tall)
    for text, layers in _LAYERS:
        top = heading(canvas, text, top)
        for row in rows:
            top = draw_row(canvas, row, layers, top, INSIDE * share)


def _numbers(canvas: Canvas, found: Difference, name: str) -> None:
    top = heading(canvas, f"{name}: regions", HEIGHT - EDGE)
    lines = list(_lines(found.regions))
    half = math.ceil(len(lines) / 2)
    size = min(7.0, (top - EDGE) / (half + 2) / 1.32)
    head = ["Region", "Dice", "A cm\u00b3", "B cm\u00b3", "Change %"]
    for i, part in enumerate((lines[:half], lines[half:])):
        draw_table(canvas, [head, *part], EDGE + i * (INSIDE + 4 * MM) / 2, top, (50, 10, 11, 11, 11), size)


def _lines(regions: tuple[RegionChange, ...]) -> Iterator[list[str]]:
    for r in regions:
        volumes = (number(mm3 / 1000, ".2f") for mm3 in (r.first_mm3, r.second_mm3))
        yield [f"  {r.name}", number(r.dice, ".3f"), *volumes, number(r.percent, "+.1f")]
