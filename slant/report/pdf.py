"""The report of a scan as a PDF of two A4 pages: pictures on the first, numbers on the second."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from slant.report import pdf_layout as layout
from slant.report.pdf_layout import MM, number
from slant.report.tables import SumLine, pair_lines, sum_lines, summary

if TYPE_CHECKING:
    from reportlab.pdfgen.canvas import Canvas

    from slant.io.record import Record
    from slant.report.contents import Contents

# Opacities of the layers that are drawn.
_LEVELS = {"intracranial": "", "brain": "", "tissue": "Tissues", "lobe": "Lobes and other structures"}

_LINES, _EDGES, _VOTES = {"base": 1.0, "lines": 1.0}, {"scan": 1.0, "template_edges": 1.0}, {"base": 1.0, "votes": 1.0}


def draw_pdf(shown: Contents) -> bytes:
    """The report as PDF; the same bytes for the same contents."""
    pages = partial(_pictures, shown), partial(_numbers, shown)
    return layout.document(f"{shown.title}, slant report", shown.settings.convention_text, pages)


def _pictures(shown: Contents, canvas: Canvas) -> None:
    record = shown.result.record
    software = f"slant {record.versions.get('slant', '?')}, model {record.model.name}"
    made = f"Brain segmentation by {software} · <b>{escape(shown.settings.convention_text)}</b>"
    texts = [(f"<b>{escape(shown.title)}</b>", 14.0), (made, 8.0)]
    texts += [(f"<b>Warning:</b> {escape(text)}", 8.0) for text in record.warnings] or [("✓ <b>No warnings.</b>", 8.0)]
    if shown.grade:
        texts.append((f"<b>Grade: {shown.grade}</b>", 9.0))
    texts += [(escape(f"{q.grade}: {q.label} {q.value}: {q.reason}"), 8.0) for q in shown.quality if q.grade != "pass"]
    texts += [(escape(" ".join(summary(shown.result, shown.regions))), 8.0)]
    texts += [(escape(text), 7.0) for text in shown.result.notes]
    top = layout.head(canvas, texts)
    scale = min(1.0, (top - layout.EDGE) / (240 * MM))
    top = layout.heading(canvas, "Regions", top)
    for row in shown.native:
        top = layout.draw_row(canvas, row, _LINES, top, layout.INSIDE * scale)
    top = layout.heading(canvas, "Registration to MNI305: scan with the edges of the template", top)
    left, lowest = layout.EDGE, top
    for row in shown.registration:
        width = (layout.INSIDE - 2 * layout.GAP * 4) / 3 * scale
        lowest = min(lowest, layout.draw_row(canvas, row, _EDGES, top, width, left))
        left += width + layout.GAP * 4
    top = layout.heading(canvas, "Vote fraction: dark blue just below 100 %, yellow at 50 % or less", lowest)
    for row in shown.votes:
        top = layout.draw_row(canvas, row, _VOTES, top, layout.INSIDE * 0.86 * scale)


def _numbers(shown: Contents, canvas: Canvas) -> None:
    top = layout.heading(canvas, f"{shown.title}: tissues and lobes", layout.HEIGHT - layout.EDGE)
    head = ("Structure", "Left cm³", "Right cm³", "All cm³", "% of eTIV", "Reference %", "Asymmetry %")
    top = layout.draw_table(
        canvas, [list(head), *_sums(sum_lines(shown.result))], layout.EDGE, top, (52, 22, 22, 22, 22, 28, 22), 7
    )
    top = layout.heading(canvas, "Regions", top - 2 * MM)
    lines = list(_pairs(pair_lines(shown.regions)))
    names = ["Region", "L cm³", "R cm³", "% eTIV", "As. %", "Votes %"]
    top = layout.two_columns(canvas, names, lines, top, (42, 11, 11, 9.5, 9.5, 10), free=16 * MM)
    _record(canvas, shown.result.record, top - 1 * MM)


def _sums(lines: tuple[SumLine, ...]) -> Iterator[list[str]]:
    """Lines of the table of sums, with the headings of the HTML report."""
    for level, title in _LEVELS.items():
        if title:
            yield [title, "", "", "", "", "", ""]
        for s in lines:
            if s.level == level:
                volumes = (number(s.left_cm3), number(s.right_cm3), number(s.both_cm3))
                low, high = s.reference_range
                reference = number(low) if math.isnan(low) else f"{number(low)}\u2013{number(high)}"
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
        votes = number(100 * pair.vote_fraction, ".0f")
        yield [name, *sides, number(pair.etiv_percent, ".2f"), number(pair.asymmetry_percent, "+.1f"), votes]


def _atlases(record: Record) -> list[str]:
    """Atlases that voted and the library that they are from, if there are any."""
    if record.atlases is None:
        return []
    library = (record.requested or {}).get("atlases", {}).get("sha256", "not known")
    return [f"Atlases that voted: {', '.join(record.atlases)}. SHA-256 of their library: {library}"]


def _record(canvas: Canvas, record: Record, top: float) -> None:
    top = layout.heading(canvas, "Record", top)
    timings = "; ".join(f"{timing.name} {timing.runtime_s:.1f} s" for timing in record.timings)
    texts = (
        f"Scan {record.input.path}, SHA-256 {record.input.sha256}",
        f"Model {record.model.name}, SHA-256 {record.model.sha256}",
        *_atlases(record),
        f"Settings: {', '.join(f'{k} {v}' for k, v in record.settings.items())}. "
        f"Versions: {', '.join(f'{k} {v}' for k, v in record.versions.items())}. Runtime: {timings}.",
        "Not a medical device. For research use only.",
    )
    for text in texts:
        top = layout.paragraph(canvas, escape(text.encode(errors="backslashreplace").decode()), 6, top, bottom=4 * MM)
