"""The report of a scan as a PDF of two A4 pages: pictures on the first, numbers on the second."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from slant.report.pdf_layout import (
    EDGE,
    GAP,
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
from slant.report.tables import SumLine, pair_lines, sum_lines, summary

if TYPE_CHECKING:
    from reportlab.pdfgen.canvas import Canvas

    from slant.report.page import Contents

# Opacities of the layers that are drawn.
_LINES, _EDGES, _VOTES = {"base": 1.0, "lines": 1.0}, {"scan": 1.0, "template_edges": 1.0}, {"base": 1.0, "votes": 1.0}


def draw_pdf(shown: Contents) -> bytes:
    """The report as PDF; the same bytes for the same contents."""
    buffer = io.BytesIO()
    canvas = new_canvas(buffer, f"{shown.title}, slant report", shown.convention_text)
    _pictures(canvas, shown)
    canvas.showPage()
    _numbers(canvas, shown)
    canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _pictures(canvas: Canvas, shown: Contents) -> None:
    """Draw the first page."""
    top = HEIGHT - EDGE
    versions = shown.finished.record["versions"]
    model = shown.finished.record["model"]["name"]
    software = f"slant {versions.get('slant', '?')}, model {model}"
    head = f"Brain segmentation by {software} · <b>{escape(shown.convention_text)}</b>"
    texts = [(f"<b>{escape(shown.title)}</b>", 14.0), (head, 8.0)]
    texts += [(f"<b>Warning:</b> {escape(text)}", 8.0) for text in shown.warnings] or [("✓ <b>No warnings.</b>", 8.0)]
    if shown.grade:
        texts.append((f"<b>Grade: {shown.grade}</b>", 9.0))
    texts += [(escape(f"{q.grade}: {q.label} {q.value}: {q.reason}"), 8.0) for q in shown.quality if q.grade != "pass"]
    texts += [(escape(" ".join(summary(shown.finished, shown.regions))), 8.0)]
    texts += [(escape(text), 7.0) for text in shown.finished.notes]
    for text, size in texts:
        top = paragraph(canvas, text, size, top, bottom=EDGE + MIN_PICTURE_HEIGHT)
    scale = min(1.0, (top - EDGE) / (240 * MM))
    top = heading(canvas, "Regions", top)
    for row in shown.native:
        top = draw_row(canvas, row, _LINES, top, INSIDE * scale)
    top = heading(canvas, "Registration to MNI305: scan with the edges of the template", top)
    left, lowest = EDGE, top
    for row in shown.registration:
        width = (INSIDE - 2 * GAP * 4) / 3 * scale
        lowest = min(lowest, draw_row(canvas, row, _EDGES, top, width, left))
        left += width + GAP * 4
    top = heading(canvas, "Vote fraction: dark blue where a few votes disagree, yellow at 50 % or less", lowest)
    for row in shown.votes:
        top = draw_row(canvas, row, _VOTES, top, INSIDE * 0.86 * scale)


def _numbers(canvas: Canvas, shown: Contents) -> None:
    """Draw the second page."""
    top = heading(canvas, f"{shown.title}: tissues and lobes", HEIGHT - EDGE)
    head = ("Structure", "Left cm³", "Right cm³", "All cm³", "% of eTIV", "Reference %", "Asymmetry %")
    top = draw_table(
        canvas, [list(head), *_sums(sum_lines(shown.finished))], EDGE, top, (52, 22, 22, 22, 22, 28, 22), 7
    )
    top = heading(canvas, "Regions", top - 2 * MM)
    lines = list(_pairs(pair_lines(shown.regions)))
    half = math.ceil(len(lines) / 2)
    widths = (42, 11, 11, 9.5, 9.5, 10)
    names = ("Region", "L cm³", "R cm³", "% eTIV", "As. %", "Votes %")
    size = min(7.0, (top - 26 * MM) / (half + 2) / LINE_HEIGHT)
    parts = (lines[:half], lines[half:])
    ends = [
        draw_table(canvas, [list(names), *part], EDGE + i * (INSIDE + 4 * MM) / 2, top, widths, size)
        for i, part in enumerate(parts)
    ]
    _record(canvas, shown.finished.record, min(ends) - 1 * MM)


def _sums(lines: tuple[SumLine, ...]) -> Iterator[list[str]]:
    """Lines of the table of sums, with the headings of the HTML report."""
    for level, title in (
        ("intracranial", ""),
        ("brain", ""),
        ("tissue", "Tissues"),
        ("lobe", "Lobes and other structures"),
    ):
        if title:
            yield [title, "", "", "", "", "", ""]
        for s in lines:
            if s.level == level:
                volumes = (number(s.left_cm3), number(s.right_cm3), number(s.both_cm3))
                reference = (
                    "\u2013".join(map(number, s.reference_range))
                    if not math.isnan(s.reference_range[0])
                    else number(math.nan)
                )
                yield [f"  {s.name}", *volumes, number(s.etiv_percent), reference, number(s.asymmetry_percent, "+.1f")]


def _pairs(pairs: tuple[SumLine, ...]) -> Iterator[list[str]]:
    """Lines of the table of regions, with a heading for each lobe."""
    lobe = ""
    for pair in pairs:
        if pair.level != lobe:
            lobe = pair.level
            yield [lobe.capitalize(), "", "", "", "", ""]
        name = f"  {pair.name}" + (f" ⚑ {pair.flag}" if pair.flag else "")
        sides = [number(pair.left_cm3, ".2f"), number(pair.right_cm3, ".2f")]
        if math.isnan(pair.left_cm3):
            sides = [number(pair.both_cm3, ".2f"), "midline"]
        numbers = (
            number(pair.etiv_percent, ".2f"),
            number(pair.asymmetry_percent, "+.1f"),
            number(100 * pair.vote_fraction, ".0f"),
        )
        yield [name, *sides, *numbers]


def _record(canvas: Canvas, record: dict[str, Any], top: float) -> None:
    top = heading(canvas, "Record", top)
    timings = "; ".join(f"{timing['name']} {timing['runtime_s']:.1f} s" for timing in record["timings"])
    texts = (
        f"Scan {record['input']['path']}, SHA-256 {record['input'].get('sha256', '?')}",
        f"Model {record['model']['name']}, SHA-256 {record['model'].get('sha256', '?')}",
        f"Settings: {', '.join(f'{k} {v}' for k, v in record['settings'].items())}. "
        f"Versions: {', '.join(f'{k} {v}' for k, v in record['versions'].items())}. Runtime: {timings}.",
        "Not a medical device. For research use only.",
    )
    for text in texts:
        top = paragraph(canvas, escape(text.encode(errors="backslashreplace").decode()), 6, top, bottom=4 * MM)
