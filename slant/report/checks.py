"""Pictures by which each step is judged: registration, bias field, and the share of the votes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.grid import Grid
from slant.io.finished import Finished
from slant.report.overlay import Plane, labelled_box
from slant.report.paint import Picture, gray_range
from slant.report.slices import Layer, Row, grays, rows_of
from slant.resample import pick_labels, resample
from slant.template import Template
from slant.volume import LabelMap, Volume

_THREE = tuple(Plane(name, axes, 3) for name, axes in (("axial", (0, 1, 2)), ("coronal", (0, 2, 1))))
_REGISTRATION = (*_THREE, Plane("sagittal", (1, 2, 0), 3))
_VOTES = (Plane("axial", (0, 1, 2), 6), Plane("coronal", (0, 2, 1), 6))
_EDGE_COLORS = np.array([[0, 0, 0, 0], [255, 176, 0, 255]], dtype=np.uint8)  # the amber of IBM's safe palette
_STEPS = 100
LEAST_SHARE = 0.5
"""Share of the votes at and under which the last colour is drawn."""

_LEAST_FIELD = 0.05  # a flatter field is drawn as flat
_ROUNDING = 1e-5  # units of the networks
_DARK = 0.05  # of the brain's median, under which noise hides the field
_BLURRED_MM = 1.0


@dataclass(frozen=True, eq=False)
class BiasCheck:
    """The bias field, with the brain before and after it was taken away.

    Attributes
    ----------
    rows : tuple of Row
        With the layers ``before``, ``field`` and ``after``.
    low, high : float
        Fields shown in the first and the last colour.
    extent : tuple of 2 float
        Field under and over which 1 % of the brain lies.
    """

    rows: tuple[Row, ...]
    low: float
    high: float
    extent: tuple[float, float]


def registration_rows(finished: Finished, moved: Volume, template: Template, *, radiological: bool) -> tuple[Row, ...]:
    """The scan in the template's space, and the template, each with the edges of both.

    Parameters
    ----------
    finished : Finished
    moved : Volume
        See `scan_in_template`.
    template : Template
    radiological : bool

    Returns
    -------
    tuple of Row
        With the layers ``template``, ``scan``, ``template_edges`` and ``scan_edges``.
    """
    edges = {"template_edges": template.image, "scan_edges": finished.image}
    levels = {name: tissue_levels(image) for name, image in edges.items()}
    white = {"template": _range(template.image), "scan": gray_range(moved, finished.template_labels)}
    images = {"template": template.image, "scan": moved}

    def layers(view: Grid) -> dict[str, list[Layer]]:
        made = {name: grays(resample(image, view), white[name]) for name, image in images.items()}
        for name, image in edges.items():
            lines = contours(resample(image, view), levels[name])
            made[name] = [Layer(panel, _EDGE_COLORS) for panel in lines]
        return made

    box = labelled_box(template.brain)
    return rows_of(layers, box, radiological=radiological, planes=_REGISTRATION, pixels_per_mm=1.3)


def scan_in_template(finished: Finished) -> Volume:
    """The scan in the template's space, or what the networks saw where there is no scan."""
    if finished.scan is None:
        return finished.image
    return resample(finished.scan, finished.image.grid, source_from_target=finished.home_from_template)


def tissue_levels(brain: Volume) -> tuple[float, float, float]:
    """Intensities between air, fluid, gray and white matter of an image that is 0 outside the brain (Otsu 1979)."""
    values = brain.data[brain.data > 0]
    if values.size == 0:
        return 0.5, 0.5, 0.5
    counts, edges = np.histogram(values, bins=64, range=(0, float(np.percentile(values, 99.9)) or 1.0))
    middles = (edges[1:] + edges[:-1]) / 2
    n, mass = np.append(0, counts.cumsum()).astype(float), np.append(0, (counts * middles).cumsum())

    def spread(i: int, j: int) -> float:
        return float((mass[j] - mass[i]) ** 2 / (n[j] - n[i])) if n[j] > n[i] else 0.0

    pairs = [(i, j) for i in range(1, 63) for j in range(i + 1, 64)]
    i, j = max(pairs, key=lambda ij: spread(0, ij[0]) + spread(*ij) + spread(ij[1], 64))
    return float(middles[0]), float(edges[i]), float(edges[j])


def contours(view: Volume, levels: tuple[float, ...]) -> Picture:
    """(panels, rows, columns) uint8: 1 where the image crosses a level, with what is too small to see smoothed away."""
    sigma = _BLURRED_MM / view.grid.voxel_size_mm[0]
    smooth = ndimage.gaussian_filter(view.data.T, (0, sigma, sigma))
    lines: NDArray[np.bool_] = np.zeros(smooth.shape, dtype=np.bool_)
    for level in levels:
        above = smooth > level
        lines[:, :, :-1] |= above[:, :, 1:] != above[:, :, :-1]
        lines[:, :-1] |= above[:, 1:] != above[:, :-1]
    return lines.astype(np.uint8)


def bias_check(finished: Finished, moved: Volume, *, radiological: bool) -> BiasCheck | None:
    """The bias field as it follows from scan, network input and the line between their intensities.

    Parameters
    ----------
    finished : Finished
    moved : Volume
        See `scan_in_template`.
    radiological : bool

    Returns
    -------
    BiasCheck or None
        None if the record has no such line or the scan is not there.
    """
    line = finished.record.get("intensity")
    if finished.scan is None or line is None or not line["slope"]:
        return None
    corrected = Volume((finished.image.data - line["intercept"]) / line["slope"], finished.image.grid)
    inside = _brain_in_template(finished, moved, corrected)
    if not inside.data.any():
        return None
    logs = np.zeros(moved.data.shape)
    known = np.log(moved.data[inside.data != 0] / corrected.data[inside.data != 0])
    logs[inside.data != 0] = known
    low, high = (float(edge) for edge in np.percentile(known, (1, 99)))
    reach = max(_LEAST_FIELD, -low, high)
    steps = np.rint(1 + (_STEPS - 1) * np.clip(logs / reach + 1, 0, 2) / 2)
    numbers = LabelMap(np.where(inside.data != 0, steps, 0).astype(np.uint8), corrected.grid)
    before, after = moved.masked(inside), corrected.masked(inside)
    shown = _range(before), _range(after)

    def layers(view: Grid) -> dict[str, list[Layer]]:
        colors = color_scale()
        return {
            "before": grays(resample(before, view), shown[0]),
            "field": [Layer(panel, colors) for panel in pick_labels(numbers, view).data.T],
            "after": grays(resample(after, view), shown[1]),
        }

    planes = tuple(Plane(plane.name, plane.axes, 1) for plane in _REGISTRATION)
    box = labelled_box(inside)
    rows = rows_of(layers, box, radiological=radiological, planes=planes, pixels_per_mm=1.3)
    return BiasCheck(rows, float(np.exp(-reach)), float(np.exp(reach)), (float(np.exp(low)), float(np.exp(high))))


def _brain_in_template(finished: Finished, moved: Volume, corrected: Volume) -> LabelMap:
    """Where the scan's intensities can be divided: neither dark nor at the floor of the network input."""
    brain = pick_labels(finished.brain, corrected.grid, finished.home_from_template).data != 0
    floor = finished.image.data[brain].min(initial=np.inf)
    brain = brain & (moved.data > 0) & (finished.image.data > floor + _ROUNDING)
    typical = np.median(corrected.data[brain]) if brain.any() else 1.0
    return LabelMap(brain & (corrected.data > _DARK * typical), corrected.grid)


def votes_rows(finished: Finished, *, radiological: bool) -> tuple[Row, ...]:
    """The share of the votes on the scan: clear where all agree.

    Returns
    -------
    tuple of Row
        With the layers ``base`` and ``votes``.
    """
    base = base_at_home(finished)
    shown = gray_range(base, finished.labels)
    doubt = LabelMap(_doubt(finished), finished.labels.grid)
    colors = color_scale()
    colors[1:, 3] = np.linspace(40, 255, len(colors) - 1)

    def layers(view: Grid) -> dict[str, list[Layer]]:
        votes = [Layer(panel, colors) for panel in pick_labels(doubt, view).data.T]
        return {"base": grays(resample(base, view), shown), "votes": votes}

    box = labelled_box(finished.labels)
    return rows_of(layers, box, radiological=radiological, planes=_VOTES, pixels_per_mm=1.1)


def _doubt(finished: Finished) -> Picture:
    """(X, Y, Z) uint8: 0 where a label has all votes, up to the last colour where it has a half or fewer."""
    share = np.where(finished.labels.data != 0, finished.confidence.data, 1)
    steps = np.rint(_STEPS * np.clip((1 - share) / (1 - LEAST_SHARE), 0, 1))
    return np.asarray(steps, dtype=np.uint8)


def base_at_home(finished: Finished) -> Volume:
    """The scan, or what the networks saw carried to the scan's grid where there is no scan."""
    if finished.scan is not None:
        return finished.scan
    template_from_home = np.asarray(np.linalg.inv(finished.home_from_template), dtype=np.float64)
    return resample(finished.image, finished.labels.grid, source_from_target=template_from_home)


def color_scale() -> Picture:
    """(101, 4) uint8: nothing, then 100 steps of cividis, which all readers see alike (Nunez et al. 2018)."""
    from matplotlib import colormaps

    colors = np.zeros((_STEPS + 1, 4), dtype=np.uint8)
    colors[1:] = np.rint(255 * colormaps["cividis"](np.linspace(0, 1, _STEPS)))
    return colors


def _range(brain: Volume) -> tuple[float, float]:
    """Black and white for an image that is 0 outside the brain."""
    inside = brain.data[brain.data > 0]
    return 0.0, float(1.1 * np.percentile(inside, 99)) if inside.size else 1.0
