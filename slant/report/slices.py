"""Slices of a scan as image layers that a report stacks: the scan at the bottom, labels or outlines above it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from slant.grid import Grid, transform_points
from slant.labels import LabelProtocol
from slant.report.overlay import LETTERS, PLANES, Box, ViewPlane, cropped_labels, labelled_box, view_grid
from slant.report.paint import Picture, base64_text, gray_fraction, gray_range, line_colors, outlines, palette_png, webp
from slant.resample import label_sampler, resample
from slant.volume import LabelMap, Volume

PIXELS_PER_MM = 1.6
TEMPLATE_MIDLINE_MM = 0.0
"""RAS x of the midsagittal plane of the template."""

_QUALITY = 82  # of WebP, 0 to 100
_SIDES = {True: "right", False: "left"}
_MEDIAL_MM = 1.0  # closer slices to the midsagittal plane have no side


@dataclass(frozen=True, eq=False)
class Layer:
    """One image layer of a panel.

    Attributes
    ----------
    pixels : (rows, columns) uint8 array
        Grey levels, or row numbers of ``colors``.
    colors : (N, 4) uint8 array, optional
        Red, green, blue and opacity of each row number; None for grey levels.
    uri : str
        The layer as a data URI: grey levels as WebP, colours as PNG with a palette. It is made at once, by the thread
        that draws the layer.
    """

    pixels: Picture
    colors: Picture | None = None
    uri: str = field(init=False)

    def __post_init__(self) -> None:
        from PIL import Image

        if self.colors is None:
            uri = f"data:image/webp;base64,{base64_text(webp(Image.fromarray(self.pixels), _QUALITY))}"
        else:
            uri = f"data:image/png;base64,{base64_text(palette_png(self.pixels, self.colors))}"
        object.__setattr__(self, "uri", uri)

    @property
    def rgba(self) -> NDArray[np.float64]:
        """(rows, columns, 4) red, green, blue and opacity from 0 to 1."""
        if self.colors is None:
            return np.dstack([*[self.pixels / 255] * 3, np.ones(self.pixels.shape)])
        return self.colors[self.pixels] / 255


@dataclass(frozen=True, eq=False)
class Panel:
    """One slice with its layers from bottom to top, all of one size; ``ends`` are the letters of left and right."""

    caption: str
    ends: tuple[str, str]
    layers: dict[str, Layer]

    @property
    def size(self) -> tuple[int, int]:
        """Numbers of columns and rows."""
        rows, columns = next(iter(self.layers.values())).pixels.shape
        return columns, rows

    def flat(self, shown: dict[str, float]) -> Picture:
        """(rows, columns, 3) uint8: the layers named in ``shown``, stacked with the opacities given there."""
        columns, rows = self.size
        picture: NDArray[np.float64] = np.zeros((rows, columns, 3))
        for name, opacity in shown.items():
            rgba = self.layers[name].rgba
            alpha = rgba[..., 3:] * opacity
            picture = picture * (1 - alpha) + rgba[..., :3] * alpha
        return np.rint(255 * picture).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class PanelRow:
    """Slices of one orientation."""

    name: str
    panels: tuple[Panel, ...]


def rows_of(
    layers_of: Callable[[Grid], dict[str, list[Layer]]],
    box: Box,
    *,
    radiological: bool,
    planes: tuple[ViewPlane, ...] = PLANES,
    pixels_per_mm: float = PIXELS_PER_MM,
    midline_mm: float | None = None,
) -> tuple[PanelRow, ...]:
    """Rows of panels that fill a box.

    Parameters
    ----------
    layers_of : callable
        Function from a view, see `slant.report.overlay.view_grid`, to the layers of its panels by name.
    radiological : bool
        Whether the subject's left is on the right of axial and coronal panels.
    midline_mm : float or None
        RAS x of the midsagittal plane: `TEMPLATE_MIDLINE_MM` in template space, see `midline` for a scan, whose origin
        may be anywhere. If it is None, no side is written.
    """
    rows = []
    for plane in planes:
        view = view_grid(plane, box, pixels_per_mm, radiological)
        layers = layers_of(view)
        first, last = LETTERS[plane.axes[0]][:: int(np.sign(view.ras_from_voxel[plane.axes[0], 0]))]
        panels = [
            Panel(
                _caption(plane, view, i, midline_mm), (first, last), {name: stack[i] for name, stack in layers.items()}
            )
            for i in range(view.shape[2])
        ]
        rows.append(PanelRow(plane.name, tuple(panels)))
    return tuple(rows)


def labelled_rows(
    base: Volume, labels: LabelMap, protocol: LabelProtocol, *, radiological: bool
) -> tuple[PanelRow, ...]:
    """Rows of panels with the layers ``base``, ``fill`` (look-up table colours) and ``lines`` (lightened outlines)."""
    inside = cropped_labels(labels)
    channels = LabelMap(protocol.channels_from_ids(inside.data), inside.grid)
    shown, sample = gray_range(base, labels), label_sampler(channels)

    def layers(view: Grid) -> dict[str, list[Layer]]:
        fill, lines = label_layers(sample(view).data.T, protocol)
        return {"base": grays(resample(base, view), shown), "fill": fill, "lines": lines}

    return rows_of(layers, labelled_box(channels), radiological=radiological, midline_mm=midline(channels, protocol))


def midline(channels: LabelMap, protocol: LabelProtocol) -> float | None:
    """RAS x in mm halfway between the centres of all left and of all right regions of a map of channels.

    If one side is not labelled it is the centre of the regions on the midline; None if there are none of these either.
    """
    center_mm = {}
    for side in ("L", "R", "midline"):
        own = [i for i, region in enumerate(protocol.regions) if i and region.hemisphere == side]
        voxels = np.argwhere(np.isin(channels.data, own))
        if len(voxels):
            center_mm[side] = transform_points(channels.grid.ras_from_voxel, voxels.mean(axis=0)[None])[0, 0]
    if {"L", "R"} <= center_mm.keys():
        return float(center_mm["L"] + center_mm["R"]) / 2
    return center_mm.get("midline")


def grays(image: Volume, shown: tuple[float, float]) -> list[Layer]:
    """Grey layers of a view, one per panel."""
    return [Layer(panel) for panel in np.rint(255 * gray_fraction(image.data.T, shown)).astype(np.uint8)]


def label_layers(channels: NDArray[np.integer], protocol: LabelProtocol) -> tuple[list[Layer], list[Layer]]:
    """Layers of (panels, rows, columns) channels: filled with their colours, and their lightened outlines."""
    fill = _opaque(np.array([region.color for region in protocol.regions], dtype=np.uint8))
    bright = line_colors(protocol)
    lines = outlines(channels, bright).astype(np.uint8)
    return [Layer(panel, fill) for panel in channels], [Layer(panel, _opaque(bright)) for panel in lines]


def _opaque(colors: Picture) -> Picture:
    """(N, 4) colours with opacity from (N, 3) colours; the first is transparent."""
    alpha = np.full((len(colors), 1), 255, dtype=np.uint8)
    alpha[0] = 0
    return np.hstack([colors, alpha])


def _caption(plane: ViewPlane, view: Grid, panel: int, midline_mm: float | None) -> str:
    axis = plane.axes[2]
    position_mm = round(float(transform_points(view.ras_from_voxel, [[0, 0, panel]])[0, axis]), 1) + 0.0
    from_midline_mm = 0.0 if midline_mm is None else position_mm - midline_mm
    side = f" ({_SIDES[from_midline_mm > 0]})" if axis == 0 and abs(from_midline_mm) >= _MEDIAL_MM else ""
    return f"{'xyz'[axis]} = {position_mm:g} mm{side}"
