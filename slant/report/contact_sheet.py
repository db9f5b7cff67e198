"""A contact sheet: many label maps in one picture, two slices each, for finding bad ones at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from slant.labels import LabelProtocol
from slant.report.overlay import ViewPlane, cut, labelled_box, view_grid
from slant.report.paint import AMBER, DIM, LIGHT, Picture, figure_png
from slant.volume import LabelMap, Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PLANES = (ViewPlane("axial", (0, 1, 2), 1), ViewPlane("coronal", (0, 2, 1), 1))
_PIXELS_PER_MM = 1.0
_CELL = (190, 400)  # width and height in pixels, text included
_COLUMNS, _TEXT, _DPI = 7, 34, 100  # _TEXT: height of the text above the slices in pixels
_OPACITY = 0.4


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """One scan on the sheet: texts, and slices of (rows, columns, 3) uint8; ``alert`` prints the note as a warning."""

    name: str
    note: str
    panels: tuple[Picture, ...]
    alert: bool = False


def thumbnail(scan: Volume, labels: LabelMap, protocol: LabelProtocol) -> tuple[Picture, ...]:
    """An axial and a coronal slice through the centre of the labels, with the regions in colour over the scan.

    The labels are region ids on the scan's grid; the subject's left is on the left.
    """
    channels = LabelMap(protocol.channels_from_ids(labels.data), labels.grid)
    colors = np.array([region.color for region in protocol.regions], dtype=np.float64)
    brain = scan.data[labels.data != 0]
    white = max(float(np.percentile(brain if brain.size else scan.data, 99.5)), 1e-30)
    box = labelled_box(channels)
    panels = []
    for plane in _PLANES:
        image, ids = cut(scan, channels, view_grid(plane, box, _PIXELS_PER_MM))
        gray = 255 * np.clip(image.data[:, :, 0].T / (1.2 * white), 0, 1)[..., None]
        labelled = (ids.data[:, :, 0].T > 0)[..., None]
        blended = np.where(labelled, (1 - _OPACITY) * gray + _OPACITY * colors[ids.data[:, :, 0].T], gray)
        panels.append(np.rint(blended).astype(np.uint8))
    return tuple(panels)


def draw_sheet(cells: Sequence[Thumbnail], title: str) -> bytes:
    """A PNG with all thumbnails in rows of seven; the same bytes for the same input."""
    from matplotlib.figure import Figure

    cell_width, cell_height = _CELL
    rows = -(-len(cells) // _COLUMNS)
    width, height = cell_width * _COLUMNS, cell_height * rows + _TEXT
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="black")
    _text(figure, (8, _TEXT / 2), title, 11, LIGHT)
    for index, cell in enumerate(cells):
        left, top = cell_width * (index % _COLUMNS) + 4, _TEXT + cell_height * (index // _COLUMNS)
        _text(figure, (left, top + 8), cell.name, 8, LIGHT)
        _text(figure, (left, top + 22), cell.note, 7, AMBER if cell.alert else DIM)
        top += _TEXT
        for panel in cell.panels:
            shown = panel[: cell_height - _TEXT, : cell_width - 8]
            figure.figimage(shown, xo=left, yo=height - top - shown.shape[0], origin="upper")
            top += shown.shape[0] + 4
    return figure_png(figure)


def _text(figure: Figure, position: tuple[float, float], text: str, points: float, color: str) -> None:
    """Write text at a position in pixels from the upper left corner."""
    width, height = (inches * _DPI for inches in figure.get_size_inches())
    style: dict[str, Any] = {"color": color, "family": "DejaVu Sans", "parse_math": False, "va": "center"}
    figure.text(position[0] / width, 1 - position[1] / height, text, size=points, **style)
