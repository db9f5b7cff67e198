"""Slices of a scan as layers of pixels that a page lays on each other: an image below, labels or lines above."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slant.grid import Grid, transform_points
from slant.labels import LabelProtocol
from slant.report.overlay import LETTERS, PLANES, Box, Plane, cut, view_grid
from slant.report.paint import Picture, line_colors, outlines
from slant.volume import LabelMap, Volume

PIXELS_PER_MM = 1.6
_QUALITY = 82  # of WebP, 0 to 100
_SIDES = {True: "right", False: "left"}


@dataclass(frozen=True, eq=False)
class Layer:
    """Pixels of one layer.

    Attributes
    ----------
    pixels : (rows, columns) uint8 array
        Grey levels, or row numbers of ``colors``.
    colors : (N, 4) uint8 array, optional
        Red, green, blue and opacity; None for grey levels.
    """

    pixels: Picture
    colors: Picture | None = None

    @property
    def uri(self) -> str:
        """The layer as a data URI: grey levels as WebP, colours as PNG with a palette."""
        from PIL import Image

        buffer = io.BytesIO()
        if self.colors is None:
            Image.fromarray(self.pixels).save(buffer, "WEBP", quality=_QUALITY, method=4)
            return _uri("image/webp", buffer.getvalue())
        used, numbers = np.unique(self.pixels, return_inverse=True)
        image = Image.fromarray(numbers.reshape(self.pixels.shape).astype(np.uint8), mode="P")
        image.putpalette(self.colors[used, :3].tobytes())
        image.save(buffer, "PNG", optimize=True, transparency=self.colors[used, 3].tobytes())
        return _uri("image/png", buffer.getvalue())

    @property
    def rgba(self) -> NDArray[np.float64]:
        """(rows, columns, 4) red, green, blue and opacity from 0 to 1."""
        if self.colors is None:
            return np.dstack([*[self.pixels / 255] * 3, np.ones(self.pixels.shape)])
        return self.colors[self.pixels] / 255


@dataclass(frozen=True, eq=False)
class Panel:
    """One slice.

    Attributes
    ----------
    caption : str
        Where it lies.
    ends : tuple of 2 str
        Letters of what is on its left and right.
    layers : dict of str to Layer
        The lowest first, all of one size.
    """

    caption: str
    ends: tuple[str, str]
    layers: dict[str, Layer]

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        rows, columns = next(iter(self.layers.values())).pixels.shape
        return columns, rows

    def flat(self, shown: dict[str, float]) -> Picture:
        """(rows, columns, 3) uint8: the named layers on each other with these opacities."""
        columns, rows = self.size
        picture: NDArray[np.float64] = np.zeros((rows, columns, 3))
        for name, opacity in shown.items():
            rgba = self.layers[name].rgba
            alpha = rgba[..., 3:] * opacity
            picture = picture * (1 - alpha) + rgba[..., :3] * alpha
        return np.rint(255 * picture).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Row:
    """Slices along one plane."""

    name: str
    panels: tuple[Panel, ...]


def rows_of(
    layers_of: Callable[[Grid], dict[str, list[Layer]]],
    box: Box,
    *,
    radiological: bool,
    planes: tuple[Plane, ...] = PLANES,
    pixels_per_mm: float = PIXELS_PER_MM,
) -> tuple[Row, ...]:
    """Rows of panels that fill a box.

    Parameters
    ----------
    layers_of : callable
        From a view, see `slant.report.overlay.view_grid`, to the layers of its panels by name.
    box : tuple of 2 (3,) float64 arrays
        Corners in RAS+ mm.
    radiological : bool
        Whether left is on the right of axial and coronal panels.
    planes : tuple of Plane, optional
    pixels_per_mm : float, optional
    """
    rows = []
    for plane in planes:
        view = view_grid(plane, box, pixels_per_mm, radiological)
        layers = layers_of(view)
        first, last = LETTERS[plane.axes[0]][:: int(np.sign(view.ras_from_voxel[plane.axes[0], 0]))]
        panels = [
            Panel(_caption(plane, view, i), (first, last), {name: own[i] for name, own in layers.items()})
            for i in range(view.shape[2])
        ]
        rows.append(Row(plane.name, tuple(panels)))
    return tuple(rows)


def labelled_rows(
    base: Volume,
    channels: LabelMap,
    protocol: LabelProtocol,
    box: Box,
    shown: tuple[float, float],
    *,
    radiological: bool,
) -> tuple[Row, ...]:
    """Rows with the layers ``base``, ``fill`` (the look-up table's colours) and ``lines`` (lightened where dark).

    Parameters
    ----------
    base : Volume
    channels : LabelMap
        Channels of the protocol on any grid of the same space.
    protocol : LabelProtocol
    box : tuple of 2 (3,) float64 arrays
    shown : tuple of 2 float
        Intensities shown black and white.
    radiological : bool
    """
    fill = opaque(np.array([region.color for region in protocol.regions], dtype=np.uint8))
    bright = line_colors(protocol)

    def layers(view: Grid) -> dict[str, list[Layer]]:
        image, labels = cut(base, channels, view)
        found = labels.data.T
        return {
            "base": grays(image, shown),
            "fill": [Layer(panel, fill) for panel in found],
            "lines": [Layer(panel, opaque(bright)) for panel in outlines(found, bright).astype(np.uint8)],
        }

    return rows_of(layers, box, radiological=radiological)


def grays(image: Volume, shown: tuple[float, float]) -> list[Layer]:
    """Grey layers of a view, one a panel."""
    black, white = shown
    share = np.clip((image.data.T - black) / max(white - black, 1e-30), 0, 1)
    return [Layer(panel) for panel in np.rint(255 * share).astype(np.uint8)]


def opaque(colors: Picture) -> Picture:
    """(N, 4) colours of (N, 3) ones, the first transparent."""
    alpha = np.full((len(colors), 1), 255, dtype=np.uint8)
    alpha[0] = 0
    return np.hstack([colors, alpha])


def _caption(plane: Plane, view: Grid, panel: int) -> str:
    axis = plane.axes[2]
    position_mm = round(float(transform_points(view.ras_from_voxel, [[0, 0, panel]])[0, axis]), 1) + 0.0
    side = f" ({_SIDES[position_mm > 0]})" if axis == 0 and position_mm else ""
    return f"{'xyz'[axis]} = {position_mm:g} mm{side}"


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
