"""Layout of A4 pages with ReportLab: text, tables and rows of pictures, from top to bottom."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reportlab.pdfgen.canvas import Canvas

    from slant.report.slices import Panel, PanelRow

MM = 72 / 25.4
WIDTH, HEIGHT = 210 * MM, 297 * MM
EDGE, GAP = 10 * MM, 0.7 * MM
INSIDE = WIDTH - 2 * EDGE
_MIN_PICTURE_HEIGHT = 60 * MM  # kept free for pictures on the first page, however long the text is
_LINE_HEIGHT = 1.32  # of tables, relative to the font size


def document(title: str, subject: str, pages: Iterable[Callable[[Canvas], None]]) -> bytes:
    """A PDF whose pages are drawn by functions; the same bytes for the same contents."""
    from reportlab.pdfgen.canvas import Canvas

    _register_fonts()
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=(WIDTH, HEIGHT), invariant=True, pageCompression=1)
    canvas.setTitle(title)
    canvas.setAuthor("slant")
    canvas.setSubject(subject)
    for draw in pages:
        draw(canvas)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


@cache
def _register_fonts() -> None:
    """Register the DejaVu fonts of matplotlib, which cover more scripts than the standard fonts of PDF."""
    from matplotlib import get_data_path
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    for name, file in (("Sans", "DejaVuSans.ttf"), ("Bold", "DejaVuSans-Bold.ttf")):
        pdfmetrics.registerFont(TTFont(name, f"{get_data_path()}/fonts/ttf/{file}"))
    pdfmetrics.registerFontFamily("Sans", normal="Sans", bold="Bold", italic="Sans", boldItalic="Bold")


def number(value: float, form: str = ".1f") -> str:
    """A formatted number; a dash for nan."""
    return "\u2013" if math.isnan(value) else format(value, form)


def head(canvas: Canvas, texts: Iterable[tuple[str, float]]) -> float:
    """Write paragraphs of given font sizes at the top of a page, with space for pictures; return the height below."""
    top = HEIGHT - EDGE
    for text, size in texts:
        top = paragraph(canvas, text, size, top, bottom=EDGE + _MIN_PICTURE_HEIGHT)
    return top


def paragraph(canvas: Canvas, text: str, size: float, top: float, bottom: float) -> float:
    """Write wrapped text below ``top``, truncated at ``bottom``; return the height below it."""
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import Paragraph

    style = ParagraphStyle("text", fontName="Sans", fontSize=size, leading=size * 1.22, splitLongWords=True)
    parts = Paragraph(text, style).split(INSIDE, top - bottom)
    if not parts:
        return top
    _, height = parts[0].wrap(INSIDE, top - bottom)
    parts[0].drawOn(canvas, EDGE, top - height)
    return float(top - height - 0.6 * MM)


def heading(canvas: Canvas, text: str, top: float) -> float:
    """Write an underlined heading; return the height below it."""
    canvas.setFont("Bold", 9)
    canvas.drawString(EDGE, top - 4 * MM, text[:100])
    canvas.setLineWidth(0.3)
    canvas.line(EDGE, top - 5 * MM, WIDTH - EDGE, top - 5 * MM)
    return top - 5.8 * MM


def draw_row(
    canvas: Canvas, row: PanelRow, shown: dict[str, float], top: float, width: float, left: float = EDGE
) -> float:
    """Draw a row of panels of equal width; return the height below it."""
    count = len(row.panels)
    panel_width = (width - GAP * (count - 1)) / count
    panel_height = max(panel_width * panel.size[1] / panel.size[0] for panel in row.panels)
    for i, panel in enumerate(row.panels):
        x = left + i * (panel_width + GAP)
        draw_panel(canvas, panel, shown, (x, top - panel_height, panel_width, panel_height))
    return top - panel_height - 2.8 * MM


def draw_panel(canvas: Canvas, panel: Panel, shown: dict[str, float], box: tuple[float, float, float, float]) -> None:
    """Draw the layers of a panel on top of each other in a box (left, bottom, width, height)."""
    from PIL import Image
    from reportlab.lib.utils import ImageReader

    x, y, width, height = box
    canvas.drawImage(ImageReader(Image.fromarray(panel.flat(shown))), x, y, width, height)
    canvas.setFillGray(1)
    canvas.setFont("Bold", 6)
    canvas.drawString(x + 1.5, y + height - 6.5, panel.ends[0])
    canvas.drawRightString(x + width - 1.5, y + height - 6.5, panel.ends[1])
    canvas.setFillGray(0)
    canvas.setFont("Sans", 5.5)
    canvas.drawCentredString(x + width / 2, y - 1.9 * MM, panel.caption)


def two_columns(
    canvas: Canvas, names: list[str], lines: list[list[str]], top: float, widths_mm: tuple[float, ...], *, free: float
) -> float:
    """Draw a table in two halves side by side, whose font leaves free space below; return the height below both.

    Parameters
    ----------
    names : list of str
        Head of each half.
    widths_mm : tuple of float
        Widths of the columns of each half.
    free : float
        Height of the free space, above the edge of the page.
    """
    half = math.ceil(len(lines) / 2)
    size = min(7.0, (top - EDGE - free) / (half + 2) / _LINE_HEIGHT)
    parts = enumerate((lines[:half], lines[half:]))
    return min(
        draw_table(canvas, [names, *part], EDGE + i * (INSIDE + 4 * MM) / 2, top, widths_mm, size) for i, part in parts
    )


def draw_table(
    canvas: Canvas, lines: list[list[str]], left: float, top: float, widths_mm: tuple[float, ...], size: float
) -> float:
    """Draw a table, the first line as its head; return the height below it. Text that is too wide is set smaller."""
    from reportlab.pdfbase.pdfmetrics import stringWidth

    step = size * _LINE_HEIGHT
    for row, line in enumerate(lines):
        baseline, x = top - step * (row + 0.8), left
        bold = row == 0 or not any(line[1:])
        canvas.setLineWidth(0.15)
        canvas.setStrokeGray(0.75)
        canvas.line(left, baseline - step * 0.2, left + sum(widths_mm) * MM, baseline - step * 0.2)
        for column, (text, width_mm) in enumerate(zip(line, widths_mm, strict=True)):
            font = "Bold" if bold else "Sans"
            scale = min(1.0, (width_mm * MM - 1) / max(stringWidth(text, font, size), 1))
            canvas.setFont(font, size * scale)
            if column == 0:
                canvas.drawString(x + (4 if text.startswith("  ") else 0), baseline, text.strip())
            else:
                canvas.drawRightString(x + width_mm * MM - 1, baseline, text)
            x += width_mm * MM
    canvas.setStrokeGray(0)
    return top - step * len(lines)
