"""The HTML report that compares two segmentations of a scan: where they differ, and by how much in every region."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from slant.config import ReportSettings
from slant.grid import Grid
from slant.labels import LabelProtocol
from slant.report.overlay import cut, labelled_box
from slant.report.paint import gray_range, line_colors, outlines
from slant.report.palette import AMBER_MASK
from slant.report.rendering import plain_text, render, script_json
from slant.report.slices import Layer, PanelRow, grays, opaque, rows_of
from slant.resample import IDENTITY, resample_labels
from slant.volume import LabelMap, Volume

_ONE_SIDED = ((True, False), (False, True))


@dataclass(frozen=True)
class RegionChange:
    """Dice and volumes of one region in two segmentations.

    Attributes
    ----------
    dice : float
        Dice of both segmentations; nan if the first lacks the region.
    first_mm3, second_mm3 : float
        Volumes in both segmentations.
    """

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
    name : str
        Name of the scan.
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
    shown = gray_range(base, either) if same_grid else _gray_range_without_labels(base)
    fill = opaque(np.array([region.color for region in comparison.protocol.regions], dtype=np.uint8))
    bright = line_colors(comparison.protocol)

    def layers(view: Grid) -> dict[str, list[Layer]]:
        image, first = cut(base, comparison.first, view)
        ones = Volume(np.ones(comparison.second.grid.shape, dtype=np.float32), comparison.second.grid)
        second = resample_labels(comparison.second, ones, view, IDENTITY)[0]
        by_name = {"base": grays(image, shown)}
        for side, labels in (("a", first.data.T), ("b", second.data.T)):
            by_name[f"fill {side}"] = [Layer(panel, fill) for panel in labels]
            lines = outlines(labels, bright).astype(np.uint8)
            by_name[f"{side}_lines"] = [Layer(panel, opaque(bright)) for panel in lines]
        by_name["diff"] = [Layer(panel, AMBER_MASK) for panel in (first.data != second.data).T.astype(np.uint8)]
        return by_name

    return rows_of(layers, labelled_box(either), radiological=radiological)


def _gray_range_without_labels(scan: Volume) -> tuple[float, float]:
    low, high = np.percentile(scan.data[::2, ::2, ::2], (2, 99.5))
    return float(low), float(high)
