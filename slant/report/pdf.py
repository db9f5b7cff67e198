"""The page of a scan as two sheets of A4, by ReportLab: pictures on the first, numbers on the second."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from slant.report.tables import SumLine, pair_lines, sum_lines, summary

if TYPE_CHECKING:
    from reportlab.pdfgen.canvas import Canvas

    from slant.report.page import Contents
    from slant.report.slices import Panel, Row

_MM = 72 / 25.4
_WIDTH, _HEIGHT = 210 * _MM, 297 * _MM
_EDGE, _GAP = 10 * _MM, 0.7 * _MM
_INSIDE = _WIDTH - 2 * _EDGE
_LEAST_ROOM = 60 * _MM  # for pictures, however much is to be said
_LINES, _EDGES, _VOTES = {"base": 1.0, "lines": 1.0}, {"scan": 1.0, "template_edges": 1.0}, {"base": 1.0, "votes": 1.0}


def draw_pdf(shown: Contents) -> bytes:
    """The page as PDF; the same bytes for the same contents."""
    from reportlab.pdfgen.canvas import Canvas

    _fonts()
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=(_WIDTH, _HEIGHT), invariant=True, pageCompression=1)
    canvas.setTitle(f"{shown.title}, slant report")
    canvas.setAuthor("slant")
    canvas.setSubject(shown.convention_text)
    _pictures(canvas, shown)
    canvas.showPage()
    _numbers(canvas, shown)
    canvas.showPage()
    canvas.save()
    return buffer.getvalue()


@cache
def _fonts() -> None:
    """DejaVu, which comes with matplotlib, so that names in any of its scripts can be read."""
    from matplotlib import get_data_path
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    for name, file in (("Sans", "DejaVuSans.ttf"), ("Bold", "DejaVuSans-Bold.ttf")):
        pdfmetrics.registerFont(TTFont(name, f"{get_data_path()}/fonts/ttf/{file}"))
    pdfmetrics.registerFontFamily("Sans", normal="Sans", bold="Bold", italic="Sans", boldItalic="Bold")


def _pictures(canvas: Canvas, shown: Contents) -> None:
    top = _HEIGHT - _EDGE
    versions = shown.finished.record["versions"]
    model = shown.finished.record["model"]["name"]
    head = (
        f"Brain regions by slant {versions.get('slant', '?')}, model {model} · <b>{escape(shown.convention_text)}</b>"
    )
    texts = [(f"<b>{escape(shown.title)}</b>", 14.0), (head, 8.0)]
    texts += [(f"<b>Warning:</b> {escape(text)}", 8.0) for text in shown.warnings] or [("✓ <b>No warnings.</b>", 8.0)]
    if shown.grade:
        texts.append((f"<b>Grade: {shown.grade}</b>", 9.0))
    texts += [(escape(f"{q.grade}: {q.label} {q.value}. {q.reason}"), 8.0) for q in shown.quality if q.grade != "pass"]
    texts += [(escape(" ".join(summary(shown.finished, shown.regions))), 8.0)]
    texts += [(escape(text), 7.0) for text in shown.finished.notes]
    for text, size in texts:
        top = _paragraph(canvas, text, size, top, least=_EDGE + _LEAST_ROOM)
    room = top - _EDGE
    share = min(1.0, room / (240 * _MM))
    top = _heading(canvas, "Regions", top)
    for row in shown.home:
        top = _row(canvas, row, _LINES, top, _INSIDE * share)
    top = _heading(canvas, "Registration to MNI305: the scan with the template's edges", top)
    left, lowest = _EDGE, top
    for row in shown.registration:
        width = (_INSIDE - 2 * _GAP * 4) / 3 * share
        lowest = min(lowest, _row(canvas, row, _EDGES, top, width, left))
        left += width + _GAP * 4
    top = _heading(canvas, "Share of the votes: dark blue where a few tiles disagree, yellow where half do", lowest)
    for row in shown.votes:
        top = _row(canvas, row, _VOTES, top, _INSIDE * 0.86 * share)


def _numbers(canvas: Canvas, shown: Contents) -> None:
    top = _heading(canvas, f"{shown.title}: tissues and lobes", _HEIGHT - _EDGE)
    head = ("Part", "Left cm³", "Right cm³", "All cm³", "% of intracranial volume", "Asymmetry %")
    top = _table(canvas, [list(head), *_sums(sum_lines(shown.finished))], _EDGE, top, (58, 24, 24, 24, 36, 24), 7)
    top = _heading(canvas, "Regions", top - 2 * _MM)
    lines = list(_pairs(pair_lines(shown.regions)))
    half = math.ceil(len(lines) / 2)
    widths = (42, 11, 11, 9.5, 9.5, 10)
    head = ("Region", "L cm³", "R cm³", "% TIV", "As. %", "Votes %")
    size = min(7.0, (top - 26 * _MM) / (half + 2) / 1.32)
    parts = (lines[:half], lines[half:])
    ends = [
        _table(canvas, [list(head), *part], _EDGE + i * (_INSIDE + 4 * _MM) / 2, top, widths, size)
        for i, part in enumerate(parts)
    ]
    _record(canvas, shown.finished.record, min(ends) - 1 * _MM)


def _sums(lines: tuple[SumLine, ...]) -> Iterator[list[str]]:
    """Lines of the table of sums, with headings as on the page."""
    for level, heading in (
        ("intracranial", ""),
        ("brain", ""),
        ("tissue", "Tissues"),
        ("lobe", "Lobes and other parts"),
    ):
        if heading:
            yield [heading, "", "", "", "", ""]
        for s in lines:
            if s.level == level:
                volumes = (_n(s.left_cm3), _n(s.right_cm3), _n(s.both_cm3))
                yield [f"  {s.name}", *volumes, _n(s.tiv_percent), _n(s.asymmetry_percent, "+.1f")]


def _pairs(pairs: tuple[SumLine, ...]) -> Iterator[list[str]]:
    """Lines of the printed table, with a line for each lobe."""
    lobe = ""
    for pair in pairs:
        if pair.level != lobe:
            lobe = pair.level
            yield [lobe.capitalize(), "", "", "", "", ""]
        name = f"  {pair.name}" + (f" ⚑ {pair.flag}" if pair.flag else "")
        sides = [_n(pair.left_cm3, ".2f"), _n(pair.right_cm3, ".2f")]
        if math.isnan(pair.left_cm3):
            sides = [_n(pair.both_cm3, ".2f"), "midline"]
        numbers = (_n(pair.tiv_percent, ".2f"), _n(pair.asymmetry_percent, "+.1f"), _n(100 * pair.share, ".0f"))
        yield [name, *sides, *numbers]


def _record(canvas: Canvas, record: dict[str, Any], top: float) -> None:
    top = _heading(canvas, "Record", top)
    stages = "; ".join(f"{stage['name']} {stage['seconds']:.1f} s" for stage in record["stages"])
    texts = (
        f"Scan {record['input']['path']}, SHA-256 {record['input'].get('sha256', '?')}",
        f"Model {record['model']['name']}, SHA-256 {record['model'].get('sha256', '?')}",
        f"Settings: {', '.join(f'{k} {v}' for k, v in record['settings'].items())}. "
        f"Versions: {', '.join(f'{k} {v}' for k, v in record['versions'].items())}. {stages}.",
        "Not a medical device. For research only.",
    )
    for text in texts:
        top = _paragraph(canvas, escape(text.encode(errors="backslashreplace").decode()), 6, top, least=4 * _MM)


def _n(value: float, form: str = ".1f") -> str:
    return "\u2013" if math.isnan(value) else format(value, form)


def _paragraph(canvas: Canvas, text: str, size: float, top: float, least: float) -> float:
    """Write wrapped text under a height, cut where no room is left; return what is under it."""
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import Paragraph

    style = ParagraphStyle("text", fontName="Sans", fontSize=size, leading=size * 1.22, splitLongWords=True)
    parts = Paragraph(text, style).split(_INSIDE, top - least)
    if not parts:
        return top
    _, height = parts[0].wrap(_INSIDE, top - least)
    parts[0].drawOn(canvas, _EDGE, top - height)
    return float(top - height - 0.6 * _MM)


def _heading(canvas: Canvas, text: str, top: float) -> float:
    canvas.setFont("Bold", 9)
    canvas.drawString(_EDGE, top - 4 * _MM, text[:100])
    canvas.setLineWidth(0.3)
    canvas.line(_EDGE, top - 5 * _MM, _WIDTH - _EDGE, top - 5 * _MM)
    return top - 5.8 * _MM


def _row(canvas: Canvas, row: Row, shown: dict[str, float], top: float, width: float, left: float = _EDGE) -> float:
    """Draw a row of panels of equal width; return what is under it."""
    count = len(row.panels)
    wide = (width - _GAP * (count - 1)) / count
    high = max(wide * panel.size[1] / panel.size[0] for panel in row.panels)
    for i, panel in enumerate(row.panels):
        _panel(canvas, panel, shown, (left + i * (wide + _GAP), top - high, wide, high))
    return top - high - 2.8 * _MM


def _panel(canvas: Canvas, panel: Panel, shown: dict[str, float], box: tuple[float, float, float, float]) -> None:
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
    canvas.drawCentredString(x + wide / 2, y - 1.9 * _MM, panel.caption)


def _table(
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
        canvas.line(left, base - step * 0.2, left + sum(widths_mm) * _MM, base - step * 0.2)
        for column, (text, width_mm) in enumerate(zip(line, widths_mm, strict=True)):
            font = "Bold" if bold else "Sans"
            fit = min(1.0, (width_mm * _MM - 1) / max(stringWidth(text, font, size), 1))
            canvas.setFont(font, size * fit)
            if column == 0:
                canvas.drawString(x + (4 if text.startswith("  ") else 0), base, text.strip())
            else:
                canvas.drawRightString(x + width_mm * _MM - 1, base, text)
            x += width_mm * _MM
    canvas.setStrokeGray(0)
    return top - step * len(lines)
