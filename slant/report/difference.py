"""The page that compares two segmentations of one scan: where they differ, and how much in every region."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from slant.config import PageSettings
from slant.grid import Grid
from slant.labels import LabelProtocol
from slant.report.overlay import cut, labelled_box
from slant.report.page import environment, plain_text, script_json, side_text
from slant.report.paint import gray_range, line_colors, outlines
from slant.report.slices import Layer, Row, grays, opaque, rows_of
from slant.resample import IDENTITY, labels_to_home
from slant.volume import LabelMap, Volume

_AMBER = np.array([[0, 0, 0, 0], [255, 176, 0, 255]], dtype=np.uint8)


@dataclass(frozen=True)
class RegionChange:
    """One region in both segmentations.

    Attributes
    ----------
    id : int
    name, abbreviation, hemisphere : str
    dice : float
        nan where the first lacks the region.
    first_mm3, second_mm3 : float
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
        """Change of the volume in percent of the first; nan where that is 0."""
        return 100 * (self.second_mm3 / self.first_mm3 - 1) if self.first_mm3 else math.nan


@dataclass(frozen=True, eq=False)
class Difference:
    """Two segmentations of one scan.

    Attributes
    ----------
    name : str
        Of the scan.
    sources : tuple of 2 mapping
        Of both segmentations, what is known by what it is: path, SHA-256, model.
    first, second : LabelMap
        Channels of the protocol on one grid.
    protocol : LabelProtocol
    regions : tuple of RegionChange
    scan : Volume or None
        Shown under the labels, on any grid of the same space.
    notes : tuple of str
        What else a reader must know, in plain words.
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
        """Share of the voxels with a label in either map whose labels differ."""
        labelled = (self.first.data != 0) | (self.second.data != 0)
        return float((self.first.data != self.second.data).sum() / max(labelled.sum(), 1))


def draw_difference(found: Difference, settings: PageSettings) -> bytes:
    """The page as HTML; the same bytes for the same input."""
    lines = [(region, "#" + bytes(found.protocol.by_id(region.id).color).hex()) for region in found.regions]
    text = (
        environment()
        .get_template("difference.html.j2")
        .render(
            name=plain_text(found.name),
            sources=plain_text([dict(source) for source in found.sources]),
            convention_text=side_text(settings),
            radiological=settings.radiological,
            summary=summary(found),
            notes=found.notes,
            rows=difference_rows(found, radiological=settings.radiological),
            regions=lines,
            regions_json=script_json([{"name": region.name, "color": color} for region, color in lines]),
            scan_shown=found.scan is not None,
        )
    )
    return text.encode(errors="replace")


def summary(found: Difference) -> tuple[str, ...]:
    """What a reader should know first, in plain words."""
    known = [region.dice for region in found.regions if not math.isnan(region.dice)]
    texts = [f"{100 * found.differing:.2f} % of the labelled voxels have another label."]
    if known:
        texts.append(f"The mean Dice is {sum(known) / len(known):.4f}, over {len(known)} regions that A has.")
        worst = min((r for r in found.regions if not math.isnan(r.dice)), key=lambda r: r.dice)
        texts.append(f"The lowest Dice is that of {worst.name}, {worst.dice:.3f}.")
    moved = [region for region in found.regions if abs(region.percent) >= 0.005]
    if moved:
        most = max(moved, key=lambda r: abs(r.percent))
        texts.append(f"The volume that changed most is that of {most.name}, by {most.percent:+.1f} %.")
    only = [[r.name for r in found.regions if (r.first_mm3 > 0, r.second_mm3 > 0) == has] for has in _ONE_SIDED]
    texts += [f"Only {side} has {', '.join(names)}." for side, names in zip("AB", only, strict=True) if names]
    return tuple(texts)


_ONE_SIDED = ((True, False), (False, True))


def difference_rows(found: Difference, *, radiological: bool) -> tuple[Row, ...]:
    """Rows with the layers ``base``, ``fill a``, ``fill b``, ``a_lines``, ``b_lines`` and ``diff``."""
    either = LabelMap(np.maximum(found.first.data, found.second.data), found.first.grid)
    base = found.scan or Volume(np.zeros(found.first.grid.shape, np.float32), found.first.grid)
    on_grid = base if base.grid.same_as(either.grid) else None
    shown = gray_range(base, either) if on_grid else _whole_range(base)
    fill = opaque(np.array([region.color for region in found.protocol.regions], dtype=np.uint8))
    bright = line_colors(found.protocol)

    def layers(view: Grid) -> dict[str, list[Layer]]:
        image, first = cut(base, found.first, view)
        sure = Volume(np.ones(found.second.grid.shape, dtype=np.float32), found.second.grid)
        second = labels_to_home(found.second, sure, view, IDENTITY)[0]
        made = {"base": grays(image, shown)}
        for side, labels in (("a", first.data.T), ("b", second.data.T)):
            made[f"fill {side}"] = [Layer(panel, fill) for panel in labels]
            lines = outlines(labels, bright).astype(np.uint8)
            made[f"{side}_lines"] = [Layer(panel, opaque(bright)) for panel in lines]
        made["diff"] = [Layer(panel, _AMBER) for panel in (first.data != second.data).T.astype(np.uint8)]
        return made

    return rows_of(layers, labelled_box(either), radiological=radiological)


def _whole_range(scan: Volume) -> tuple[float, float]:
    low, high = np.percentile(scan.data[::2, ::2, ::2], (2, 99.5))
    return float(low), float(high)
