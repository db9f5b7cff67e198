"""The report that compares two segmentations of a scan: where they differ, and by how much in every region.

As PDF it has two A4 pages: pictures on the first, regions on the second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import numpy as np

from slant.config import ReportSettings
from slant.grid import Grid
from slant.labels import LabelProtocol
from slant.report import pdf_layout as layout
from slant.report.overlay import labelled_box
from slant.report.paint import AMBER_MASK, gray_range
from slant.report.pdf_layout import MM, number
from slant.report.rendering import plain_text, render, script_json
from slant.report.slices import Layer, PanelRow, grays, label_layers, midline, rows_of
from slant.resample import label_sampler, resample
from slant.volume import LabelMap, Volume

if TYPE_CHECKING:
    from reportlab.pdfgen.canvas import Canvas

_ONE_SIDED = ((True, False), (False, True))
_LAYERS = (
    ("Voxels with different labels, in amber", {"base": 1.0, "diff": 0.9}),
    ("Outlines of A", {"base": 1.0, "a_lines": 1.0}),
    ("Outlines of B", {"base": 1.0, "b_lines": 1.0}),
)


@dataclass(frozen=True)
class RegionChange:
    """Volumes in mm3 of one region in two segmentations, and their Dice; nan if the first lacks the region."""

    id: int
    name: str
    abbreviation: str
    hemisphere: str
    dice: float
    first_mm3: float
    second_mm3: float

    @property
    def percent(self) -> float:
        """Change of the volume in percent of the first; nan if the first is 0."""
        return 100 * (self.second_mm3 / self.first_mm3 - 1) if self.first_mm3 else math.nan


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two segmentations of one scan.

    Attributes
    ----------
    sources : tuple of 2 mapping
        Provenance of both segmentations: path, SHA-256, model.
    first, second : LabelMap
        Channels of the protocol on one grid.
    scan : Volume or None
        Background image, on any grid of the same space.
    notes : tuple of str
        Sentences for the reader, for example about resampling.
    """

    name: str
    sources: tuple[Mapping[str, str], Mapping[str, str]]
    first: LabelMap
    second: LabelMap
    protocol: LabelProtocol
    regions: tuple[RegionChange, ...]
    scan: Volume | None
    notes: tuple[str, ...] = ()

    @property
    def differing(self) -> float:
        """Fraction of the voxels labelled in either map whose labels differ."""
        labelled = (self.first.data != 0) | (self.second.data != 0)
        return float((self.first.data != self.second.data).sum() / max(labelled.sum(), 1))


def draw_comparison(comparison: Comparison, settings: ReportSettings) -> bytes:
    """The HTML report; the same bytes for the same input."""
    lines = [(region, "#" + bytes(comparison.protocol.by_id(region.id).color).hex()) for region in comparison.regions]
    return render(
        "comparison.html.j2",
        name=plain_text(comparison.name),
        sources=plain_text([dict(source) for source in comparison.sources]),
        convention_text=settings.convention_text,
        radiological=settings.radiological,
        summary=summary(comparison),
        notes=comparison.notes,
        rows=comparison_rows(comparison, radiological=settings.radiological),
        regions=lines,
        regions_json=script_json([{"name": region.name, "color": color} for region, color in lines]),
        scan_shown=comparison.scan is not None,
    )


def summary(comparison: Comparison) -> tuple[str, ...]:
    """Sentences that summarize a comparison."""
    known = [region.dice for region in comparison.regions if not math.isnan(region.dice)]
    texts = [f"{100 * comparison.differing:.2f} % of the labelled voxels have different labels."]
    if known:
        texts.append(f"Mean Dice: {sum(known) / len(known):.4f}, over the {len(known)} regions in A.")
        worst = min((r for r in comparison.regions if not math.isnan(r.dice)), key=lambda r: r.dice)
        texts.append(f"Lowest Dice: {worst.dice:.3f}, {worst.name}.")
    changed = [region for region in comparison.regions if abs(region.percent) >= 0.005]
    if changed:
        largest = max(changed, key=lambda r: abs(r.percent))
        texts.append(f"Largest change of volume: {largest.percent:+.1f} %, {largest.name}.")
    only = [[r.name for r in comparison.regions if (r.first_mm3 > 0, r.second_mm3 > 0) == pair] for pair in _ONE_SIDED]
    texts += [f"Only in {side}: {', '.join(names)}." for side, names in zip("AB", only, strict=True) if names]
    return tuple(texts)


def comparison_rows(comparison: Comparison, *, radiological: bool) -> tuple[PanelRow, ...]:
    """Rows of slices with the layers ``base``, ``fill a``, ``fill b``, ``a_lines``, ``b_lines`` and ``diff``."""
    either = LabelMap(np.maximum(comparison.first.data, comparison.second.data), comparison.first.grid)
    base = comparison.scan or Volume(np.zeros(comparison.first.grid.shape, np.float32), comparison.first.grid)
    same_grid = base.grid.same_as(either.grid)
    low, high = np.percentile(base.data[::2, ::2, ::2], (2, 99.5))
    shown = gray_range(base, either) if same_grid else (float(low), float(high))
    samplers = label_sampler(comparison.first), label_sampler(comparison.second)

    def layers(view: Grid) -> dict[str, list[Layer]]:
        first, second = (sample(view) for sample in samplers)
        by_name = {"base": grays(resample(base, view), shown)}
        for side, labels in (("a", first.data.T), ("b", second.data.T)):
            by_name[f"fill {side}"], by_name[f"{side}_lines"] = label_layers(labels, comparison.protocol)
        by_name["diff"] = [Layer(panel, AMBER_MASK) for panel in (first.data != second.data).T.astype(np.uint8)]
        return by_name

    midline_mm = midline(comparison.first, comparison.protocol)
    return rows_of(layers, labelled_box(either), radiological=radiological, midline_mm=midline_mm)


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
