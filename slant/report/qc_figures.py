"""Figures for quality control of each step: registration, bias field and vote fraction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.grid import Grid
from slant.io.results import Result
from slant.report.overlay import ViewPlane, labelled_box
from slant.report.paint import AMBER_MASK, Picture, gray_range
from slant.report.slices import TEMPLATE_MIDLINE_MM, Layer, PanelRow, grays, rows_of
from slant.resample import pick_labels, resample, resample_brain
from slant.template import Template
from slant.volume import LabelMap, Volume

_THREE = tuple(ViewPlane(name, axes, 3) for name, axes in (("axial", (0, 1, 2)), ("coronal", (0, 2, 1))))
_REGISTRATION = (*_THREE, ViewPlane("sagittal", (1, 2, 0), 3))
_VOTES = (ViewPlane("axial", (0, 1, 2), 6), ViewPlane("coronal", (0, 2, 1), 6))
_STEPS = 100
MIN_VOTE_FRACTION = 0.5
"""Lower end of the colour scale of the vote fraction."""

_MIN_LOG_RANGE = 0.05  # half-width of the colour scale of the log bias field, at least
_ROUNDING = 1e-5  # tolerance, in normalized intensity
_DARK = 0.05  # fraction of the median of the brain, below which noise hides the field
_BLUR_MM = 1.0


@dataclass(frozen=True, eq=False)
class BiasCheck:
    """The bias field, with the brain before and after its correction.

    Attributes
    ----------
    rows : tuple of PanelRow
        Slices with the layers ``before``, ``field`` and ``after``.
    low, high : float
        Values of the field at the ends of the colour scale.
    extent : tuple of 2 float
        1st and 99th percentile of the field in the brain.
    """

    rows: tuple[PanelRow, ...]
    low: float
    high: float
    extent: tuple[float, float]


def registration_rows(
    result: Result, registered: Volume, template: Template, *, radiological: bool
) -> tuple[PanelRow, ...]:
    """Slices with the layers ``template``, ``scan`` (see `scan_in_template`), ``template_edges`` and ``scan_edges``."""
    edges = {"template_edges": template.image, "scan_edges": result.image}
    levels = {name: tissue_levels(image) for name, image in edges.items()}
    limits = {"template": _range(template.image), "scan": gray_range(registered, result.template_labels)}
    images = {"template": template.image, "scan": registered}

    def layers(view: Grid) -> dict[str, list[Layer]]:
        made = {name: grays(resample(image, view), limits[name]) for name, image in images.items()}
        for name, image in edges.items():
            lines = contours(resample(image, view), levels[name])
            made[name] = [Layer(panel, AMBER_MASK) for panel in lines]
        return made

    box = labelled_box(template.brain)
    return rows_of(
        layers,
        box,
        radiological=radiological,
        planes=_REGISTRATION,
        pixels_per_mm=1.3,
        midline_mm=TEMPLATE_MIDLINE_MM,
    )


def scan_in_template(result: Result) -> Volume:
    """The scan resampled to the template, or the preprocessed image if the scan is not available."""
    if result.scan is None:
        return result.image
    return resample(result.scan.volume, result.image.grid, source_from_target=result.native_from_template)


def tissue_levels(brain: Volume) -> tuple[float, float, float]:
    """Thresholds between air, CSF, gray and white matter of an image that is 0 outside the brain (Otsu 1979)."""
    values = brain.data[brain.data > 0]
    if values.size == 0:
        return 0.5, 0.5, 0.5
    counts, edges = np.histogram(values, bins=64, range=(0, float(np.percentile(values, 99.9)) or 1.0))
    centers = (edges[1:] + edges[:-1]) / 2
    n, mass = np.append(0, counts.cumsum()).astype(float), np.append(0, (counts * centers).cumsum())

    def between_class(i: int, j: int) -> float:
        return float((mass[j] - mass[i]) ** 2 / (n[j] - n[i])) if n[j] > n[i] else 0.0

    pairs = [(i, j) for i in range(1, 63) for j in range(i + 1, 64)]
    i, j = max(pairs, key=lambda ij: between_class(0, ij[0]) + between_class(*ij) + between_class(ij[1], 64))
    return float(centers[0]), float(edges[i]), float(edges[j])


def contours(view: Volume, levels: tuple[float, ...]) -> Picture:
    """(panels, rows, columns) uint8: 1 where the smoothed image crosses one of the levels."""
    sigma = _BLUR_MM / view.grid.voxel_size_mm[0]
    smooth = ndimage.gaussian_filter(view.data.T, (0, sigma, sigma))
    lines: NDArray[np.bool_] = np.zeros(smooth.shape, dtype=np.bool_)
    for level in levels:
        above = smooth > level
        lines[:, :, :-1] |= above[:, :, 1:] != above[:, :, :-1]
        lines[:, :-1] |= above[:, 1:] != above[:, :-1]
    return lines.astype(np.uint8)


def bias_check(result: Result, registered: Volume, *, radiological: bool) -> BiasCheck | None:
    """Slices of the bias field, computed from the scan, the preprocessed image and the linear map of their intensities.

    None if the record has no linear map or the scan is not available. For ``registered`` see `scan_in_template`.
    """
    line = result.record.intensity
    if result.scan is None or line is None or not line.slope:
        return None
    registered = _as_preprocessed(result, result.scan.volume, registered)
    corrected = Volume((result.image.data - line.intercept) / line.slope, result.image.grid)
    inside = _brain_in_template(result, registered, corrected)
    brain = inside.data != 0
    if not brain.any():
        return None
    logs = np.log(registered.data[brain] / corrected.data[brain])
    low, high = (float(edge) for edge in np.percentile(logs, (1, 99)))
    log_range = max(_MIN_LOG_RANGE, -low, high)
    steps: Picture = np.zeros(brain.shape, dtype=np.uint8)
    steps[brain] = np.rint(1 + (_STEPS - 1) * np.clip(logs.astype(np.float64) / log_range + 1, 0, 2) / 2)
    numbers = LabelMap(steps, corrected.grid)
    before, after = registered.masked(inside), corrected.masked(inside)
    shown = _range(before), _range(after)

    def layers(view: Grid) -> dict[str, list[Layer]]:
        colors = color_scale()
        return {
            "before": grays(resample(before, view), shown[0]),
            "field": [Layer(panel, colors) for panel in pick_labels(numbers, view).data.T],
            "after": grays(resample(after, view), shown[1]),
        }

    planes = tuple(ViewPlane(plane.name, plane.axes, 1) for plane in _REGISTRATION)
    box = labelled_box(inside)
    rows = rows_of(
        layers, box, radiological=radiological, planes=planes, pixels_per_mm=1.3, midline_mm=TEMPLATE_MIDLINE_MM
    )
    bottom, top, first, last = (float(np.exp(edge)) for edge in (-log_range, log_range, low, high))
    return BiasCheck(rows, bottom, top, (first, last))


def _as_preprocessed(result: Result, scan: Volume, registered: Volume) -> Volume:
    """The scan in template space, interpolated as the preprocessed image: by splines if that is masked by the brain."""
    outside = result.image.data[result.template_brain.data == 0]
    if outside.size and np.ptp(outside) > 0:
        return registered
    return resample_brain(scan, result.brain, result.image.grid, source_from_target=result.native_from_template)


def _brain_in_template(result: Result, registered: Volume, corrected: Volume) -> LabelMap:
    """Brain voxels where the bias field can be computed: not dark, and above the minimum of the preprocessed image."""
    brain = result.template_brain.data != 0
    minimum = result.image.data[brain].min(initial=np.inf)
    brain = brain & (registered.data > 0) & (result.image.data > minimum + _ROUNDING)
    typical = np.median(corrected.data[brain]) if brain.any() else 1.0
    return LabelMap(brain & (corrected.data > _DARK * typical), corrected.grid)


def votes_rows(result: Result, *, radiological: bool) -> tuple[PanelRow, ...]:
    """Slices of the scan (layer ``base``) with the vote fraction (``votes``), transparent where all votes agree."""
    base = base_in_native(result)
    shown = gray_range(base, result.labels)
    steps = LabelMap(_disagreement_steps(result), result.labels.grid)
    colors = color_scale()
    colors[1:, 3] = np.linspace(40, 255, len(colors) - 1)

    def layers(view: Grid) -> dict[str, list[Layer]]:
        votes = [Layer(panel, colors) for panel in pick_labels(steps, view).data.T]
        return {"base": grays(resample(base, view), shown), "votes": votes}

    box = labelled_box(result.labels)
    return rows_of(layers, box, radiological=radiological, planes=_VOTES, pixels_per_mm=1.1)


def _disagreement_steps(result: Result) -> Picture:
    """(X, Y, Z) uint8: step of the colour scale, 0 at a vote fraction of 1, the last at `MIN_VOTE_FRACTION` or less."""
    fraction = np.where(result.labels.data != 0, result.confidence.data, 1)
    steps = np.rint(_STEPS * np.clip((1 - fraction) / (1 - MIN_VOTE_FRACTION), 0, 1))
    return np.asarray(steps, dtype=np.uint8)


def base_in_native(result: Result) -> Volume:
    """The scan, or the preprocessed image resampled to native space if the scan is not available."""
    if result.scan is not None:
        return result.scan.volume
    template_from_native = np.asarray(np.linalg.inv(result.native_from_template), dtype=np.float64)
    return resample(result.image, result.labels.grid, source_from_target=template_from_native)


def color_scale() -> Picture:
    """(101, 4) uint8 RGBA: transparent, then 100 steps of cividis, a colour-blind safe map (Nunez et al. 2018)."""
    from matplotlib import colormaps

    colors = np.zeros((_STEPS + 1, 4), dtype=np.uint8)
    colors[1:] = np.rint(255 * colormaps["cividis"](np.linspace(0, 1, _STEPS)))
    return colors


def _range(brain: Volume) -> tuple[float, float]:
    """Intensities shown black and white for an image that is 0 outside the brain."""
    inside = brain.data[brain.data > 0]
    return 0.0, float(1.1 * np.percentile(inside, 99)) if inside.size else 1.0
