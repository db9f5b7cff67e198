"""Sheets of A4 by ReportLab: text, tables and rows of pictures, from the top down."""

from __future__ import annotations

import io
import math
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reportlab.pdfgen.canvas import Canvas

    from slant.report.slices import Panel, Row

MM = 72 / 25.4
WIDTH, HEIGHT = 210 * MM, 297 * MM
EDGE, GAP = 10 * MM, 0.7 * MM
INSIDE = WIDTH - 2 * EDGE
LEAST_ROOM = 60 * MM  # for pictures, however much is to be said


def new_canvas(buffer: io.BytesIO, title: str, subject: str) -> Canvas:
    """A document that gives the same bytes for the same contents."""
    from reportlab.pdfgen.canvas import Canvas

    fonts()
    canvas = Canvas(buffer, pagesize=(WIDTH, HEIGHT), invariant=True, pageCompression=1)
    canvas.setTitle(title)
    canvas.setAuthor("slant")
    canvas.setSubject(subject)
    return canvas


@cache
def fonts() -> None:
    """Register DejaVu, which comes with matplotlib, so that names in any of its scripts can be read."""
    from matplotlib import get_data_path
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    for name, file in (("Sans", "DejaVuSans.ttf"), ("Bold", "DejaVuSans-Bold.ttf")):
        pdfmetrics.registerFont(TTFont(name, f"{get_data_path()}/fonts/ttf/{file}"))
    pdfmetrics.registerFontFamily("Sans", normal="Sans", bold="Bold", italic="Sans", boldItalic="Bold")


def number(value: float, form: str = ".1f") -> str:
    """A number as it is printed; a dash for nan."""
    return "\u2013" if math.isnan(value) else format(value, form)


def paragraph(canvas: Canvas, text: str, size: float, top: float, least: float) -> float:
    """Write wrapped text under a height, cut where no room is left; return what is under it."""
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import Paragraph

    style = ParagraphStyle("text", fontName="Sans", fontSize=size, leading=size * 1.22, splitLongWords=True)
    parts = Paragraph(text, style).split(INSIDE, top - least)
    if not parts:
        return top
    _, height = parts[0].wrap(INSIDE, top - least)
    parts[0].drawOn(canvas, EDGE, top - height)
    return float(top - height - 0.6 * MM)


def heading(canvas: Canvas, text: str, top: float) -> float:
    """Write a heading with a line under it; return what is under that."""
    canvas.setFont("Bold", 9)
    canvas.drawString(EDGE, top - 4 * MM, text[:100])
    canvas.setLineWidth(0.3)
    canvas.line(EDGE, top - 5 * MM, WIDTH - EDGE, top - 5 * MM)
    return top - 5.8 * MM


def draw_row(canvas: Canvas, row: Row, shown: dict[str, float], top: float, width: float, left: float = EDGE) -> float:
    """Draw a row of panels of equal width; return what is under it."""
    count = len(row.panels)
    wide = (width - GAP * (count - 1)) / count
    high = max(wide * panel.size[1] / panel.size[0] for panel in row.panels)
    for i, panel in enumerate(row.panels):
        draw_panel(canvas, panel, shown, (left + i * (wide + GAP), top - high, wide, high))
    return top - high - 2.8 * MM


def draw_panel(canvas: Canvas, panel: Panel, shown: dict[str, float], box: tuple[float, float, float, float]) -> None:
    """Draw layers over each other in a box of left, bottom, width and height."""
    from PIL import Image
    from reportlab.lib.utils import ImageReader

    x, y, wide, high = box
    canvas.drawImage(ImageReader(Image.fromarray(panel.flat(shown))), x, y, wide, high)
    canvas.setFillGray(1)
    canvas.setFont("Bold", 6)
    canvas.drawString(x + 1.5, y + high - 6.5, panel.ends[0])
    canvas.drawRightString(x + wide - 1.5, y + high - 6.5, panel.ends[1])
    canvas.setFillGray(0)
    canvas.setFont("Sans", 5.5)
    canvas.drawCentredString(x + wide / 2, y - 1.9 * MM, panel.caption)


def draw_table(
    canvas: Canvas, lines: list[list[str]], left: float, top: float, widths_mm: tuple[float, ...], size: float
) -> float:
    """Draw lines of text, the first as head; return what is under them. Text too wide is set smaller."""
    from reportlab.pdfbase.pdfmetrics import stringWidth

    step = size * 1.32
    for number, line in enumerate(lines):
        base, x = top - step * (number + 0.8), left
        bold = number == 0 or not any(line[1:])
        canvas.setLineWidth(0.15)
        canvas.setStrokeGray(0.75)
        canvas.line(left, base - step * 0.2, left + sum(widths_mm) * MM, base - step * 0.2)
        for column, (text, width_mm) in enumerate(zip(line, widths_mm, strict=True)):
            font = "Bold" if bold else "Sans"
            fit = min(1.0, (width_mm * MM - 1) / max(stringWidth(text, font, size), 1))
            canvas.setFont(font, size * fit)
            if column == 0:
                canvas.drawString(x + (4 if text.startswith("  ") else 0), base, text.strip())
            else:
                canvas.drawRightString(x + width_mm * MM - 1, base, text)
            x += width_mm * MM
    canvas.setStrokeGray(0)
    return top - step * len(lines)
