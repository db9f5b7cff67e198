"""The HTML report of a scan: one self-contained file that makes no network request."""

from __future__ import annotations

import json
import math

from slant.config import ReportSettings
from slant.io.results import Result
from slant.report.contents import Contents, contents
from slant.report.qc_figures import MIN_VOTE_FRACTION
from slant.report.rendering import plain_text, render, script_json
from slant.report.tables import LOW_VOTE_FRACTION, MAX_ASYMMETRY_PERCENT, pair_lines, sum_lines, summary
from slant.report.viewer import viewer

_GRADE_SYMBOLS = {"pass": "✓", "review": "!", "fail": "✗"}


def draw_page(shown: Contents) -> bytes:
    """The HTML report; the same bytes for the same contents."""
    result = shown.result
    record = plain_text(result.record.plain())
    return render(
        "scan.html.j2",
        name=shown.title,
        record=record,
        record_text=json.dumps(record, indent=2, ensure_ascii=False),
        convention_text=shown.settings.convention_text,
        radiological=shown.settings.radiological,
        warnings=plain_text(shown.warnings),
        notes=plain_text(result.notes),
        summary=summary(result, shown.regions),
        quality=shown.quality,
        grade=shown.grade,
        graded=result.quality is not None,
        reference_about=plain_text(result.quality.compared_with if result.quality else ""),
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
        sums=sum_lines(result),
        viewer=viewer(result),
        regions_json=script_json([{"name": r.row.name, "color": r.color} for r in shown.regions]),
        min_vote_fraction=MIN_VOTE_FRACTION,
        max_asymmetry=MAX_ASYMMETRY_PERCENT,
        low_vote_fraction=LOW_VOTE_FRACTION,
    )


def reports_of(result: Result, settings: ReportSettings) -> dict[str, bytes]:
    """Contents of the files ``report`` and, if requested, ``pdf``; see `slant.io.names.RESULT_FILES`."""
    shown = contents(result, settings)
    reports = {"report": draw_page(shown)}
    if settings.pdf:
        from slant.report.pdf import draw_pdf

        reports["pdf"] = draw_pdf(shown)
    return reports
