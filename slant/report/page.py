"""The HTML report of a scan: one self-contained file with a 3D view, which makes no network request."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from slant.config import ReportSettings
from slant.grid import Grid, axis_aligned_grid
from slant.io.results import Result
from slant.io.write import small_nifti
from slant.report.contents import Contents, contents
from slant.report.overlay import labelled_box
from slant.report.paint import base64_text, gray_fraction, gray_range
from slant.report.qc_figures import MIN_VOTE_FRACTION, base_in_native
from slant.report.rendering import plain_text, render, script_json
from slant.report.tables import LOW_VOTE_FRACTION, MAX_ASYMMETRY_PERCENT, pair_lines, sum_lines, summary
from slant.resample import pick_labels, resample
from slant.threads import ONE_THREAD, Threads
from slant.volume import LabelMap

_GRADE_SYMBOLS = {"pass": "✓", "review": "!", "fail": "✗"}

NIIVUE = Path(__file__).parent / "vendor" / "niivue-0.69.0.umd.js.gz"
"""NiiVue's bundle from the npm package @niivue/niivue, dist/niivue.umd.js, compressed; see NOTICE."""

_VOXEL_MM = 1.0
_MAX_VOXELS = 5_000_000  # about 3 MB in the report
_GRAY_STEP = 2  # every second of 256 grey levels: compresses a fifth better without a visible difference


def draw_page(shown: Contents, view: Viewer | None = None) -> bytes:
    """The HTML report; the same bytes for the same contents. ``view`` is its `viewer`, if it is already made."""
    result = shown.result
    record = plain_text(result.record.plain())
    return render(
        "scan.html.j2",
        name=shown.title,
        record=record,
        record_text=json.dumps(record, indent=2, ensure_ascii=False),
        convention_text=shown.settings.convention_text,
        radiological=shown.settings.radiological,
        warnings=plain_text(result.record.warnings),
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
        viewer=view or viewer(result),
        regions_json=script_json([{"name": r.row.name, "color": r.color} for r in shown.regions]),
        min_vote_fraction=MIN_VOTE_FRACTION,
        max_asymmetry=MAX_ASYMMETRY_PERCENT,
        low_vote_fraction=LOW_VOTE_FRACTION,
    )


def reports_of(result: Result, settings: ReportSettings, threads: Threads = ONE_THREAD) -> dict[str, bytes]:
    """Contents of the files ``report`` and, if requested, ``pdf``; see `slant.io.names.RESULT_FILES`.

    The figures and the 3D view are drawn by the threads.
    """
    view = threads.start(viewer, result)
    shown = contents(result, settings, threads=threads)
    reports = {"report": draw_page(shown, view.result())}
    if settings.pdf:
        from slant.report.pdf import draw_pdf

        reports["pdf"] = draw_pdf(shown)
    return reports


@dataclass(frozen=True)
class Viewer:
    """Parts of the 3D view in base64: grey levels and channels (``.nii.gz``, one native grid), and NiiVue (gzip)."""

    image: str
    labels: str
    niivue: str


def viewer(result: Result) -> Viewer:
    """The brain and its labels with voxels of 1 mm, or larger ones if there would be more than five million."""
    grid = _grid(result.labels)
    base = base_in_native(result)
    labels, brain = (pick_labels(mask, grid).data for mask in (result.labels, result.brain))
    fraction = gray_fraction(resample(base, grid).data, gray_range(base, result.labels))
    levels = np.where((brain != 0) | (labels != 0), _GRAY_STEP * np.rint(255 / _GRAY_STEP * fraction), 0)
    image = LabelMap(np.minimum(levels, 255).astype(np.uint8), grid)
    channels = LabelMap(result.protocol.channels_from_ids(labels), grid)
    return Viewer(base64_text(small_nifti(image)), base64_text(small_nifti(channels)), niivue())


@cache
def niivue() -> str:
    """The NiiVue bundle, compressed with gzip and encoded in base64."""
    return base64_text(NIIVUE.read_bytes())


def _grid(labels: LabelMap) -> Grid:
    low, high = labelled_box(labels)
    edge = max(_VOXEL_MM, float((np.prod(high - low) / _MAX_VOXELS) ** (1 / 3)))
    x, y, z = (int(n) for n in np.ceil((high - low) / edge))
    return axis_aligned_grid((x, y, z), edge, low + edge / 2)
