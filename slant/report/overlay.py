"""The overlay picture shows a scan with the outlines of its regions on axial, coronal and sagittal slices.

A *view* is a grid whose first axis runs along the columns of a panel (left to right), the second along its rows (top to
bottom) and the third from panel to panel. A *box* is given by two opposite corners in RAS+ mm. Slices are parallel to
the scanner axes, so that letters and positions are exact for oblique and anisotropic scans too.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.errors import GeometryError
from slant.grid import Grid, transform_points
from slant.labels import LabelProtocol
from slant.report.paint import AMBER, DIM, LIGHT, Picture, figure_png, gray_fraction, gray_range, line_colors, outlines
from slant.resample import label_sampler, resample
from slant.volume import LabelMap, Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Box = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Lower and upper corner, (3,) float64, in RAS+ mm."""


@dataclass(frozen=True)
class ViewPlane:
    """Orientation of a row of panels.

    Attributes
    ----------
    axes : tuple of 3 int
        Scanner axes (0 right, 1 anterior, 2 superior) along the columns, along the rows and across the slices.
    panels : int
        Number of slices.
    """

    name: str
    axes: tuple[int, int, int]
    panels: int


PLANES = (ViewPlane("axial", (0, 1, 2), 6), ViewPlane("coronal", (0, 2, 1), 6), ViewPlane("sagittal", (1, 2, 0), 5))

_WIDTH, _MAX_PANELS_HEIGHT = 1600, 1200  # pixels: width of the picture, maximum height of all panels together
_EDGE, _GAP, _CAPTION, _ROW_NAME = 14, 6, 24, 22  # pixels around, between, below and left of panels
_TITLE, _LINE = 60, 20  # height in pixels of title and subtitle, and of one line of warnings
_MAX_LINE, _MAX_TITLE = 180, 110  # characters
_MARGIN_MM, _MIN_EDGE_MM = 5.0, 40.0  # margin around the labels, minimum length of every edge of the box
_DPI, _HEIGHT_STEP = 100, 25  # dots per inch; quarters of an inch are exact in binary
LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))


def draw_overlay(
    scan: Volume,
    labels: LabelMap,
    protocol: LabelProtocol,
    title: str,
    warnings: tuple[str, ...] = (),
    *,
    radiological: bool = False,
) -> bytes:
    """A PNG of the outlines of all regions on axial, coronal and sagittal slices, evenly spaced over the labels.

    It is 1600 pixels wide; the same bytes for the same input.

    Parameters
    ----------
    labels : LabelMap
        Region ids on the scan's grid, 0 for background. If there is no region, the whole scan is shown with a warning.
    protocol : LabelProtocol
        Source of the colours; colours too dark to be seen on a scan are lightened.
    warnings : tuple of str, optional
        Texts printed below the title.
    radiological : bool, optional
        Whether to show the subject's left on the right of axial and coronal panels, instead of on the left.

    Raises
    ------
    GeometryError
        If scan and labels are not on the same grid.
    ProtocolError
        If an id does not belong to the protocol.
    """
    from matplotlib.figure import Figure

    if not labels.grid.same_as(scan.grid):
        raise GeometryError(
            f"found labels on a grid of shape {labels.grid.shape}, expected them on the scan's grid of shape "
            f"{scan.grid.shape} with the same affine; resample them first"
        )
    inside = cropped_labels(labels)
    channels = LabelMap(protocol.channels_from_ids(inside.data), inside.grid)
    box = labelled_box(channels)
    found = np.count_nonzero(np.bincount(channels.data.ravel())[1:])
    texts = warnings if found else ("no region was found", *warnings)
    notes = [line for text in texts for line in textwrap.wrap(f"Warning: {text}", _MAX_LINE)]
    layout = _Layout.around(box, header=_TITLE + _LINE * len(notes))
    shown, sample = gray_range(scan, labels), label_sampler(channels)
    figure = Figure(figsize=(_WIDTH / _DPI, layout.height / _DPI), dpi=_DPI, facecolor="black")
    _write_header(figure, title, notes, f"{found} of {len(protocol) - 1} regions", radiological)
    for plane, top in zip(PLANES, layout.tops, strict=True):
        view = view_grid(plane, box, layout.pixels_per_mm, radiological)
        lefts = layout.lefts(plane, view)
        panels = paint(resample(scan, view), sample(view), shown, line_colors(protocol))
        for left, panel in zip(lefts, panels, strict=True):
            figure.figimage(panel, xo=left, yo=layout.height - top - panel.shape[0], origin="upper")
        _write_row(figure, plane, view, top, lefts)
    return figure_png(figure)


def labelled_box(labels: LabelMap) -> Box:
    """Box around all labelled voxels, or around all voxels if none is labelled, with a margin.

    No edge of the box is shorter than 40 mm, so that its panels have space for their letters.
    """
    labelled = labels.data != 0
    voxels = _ends_of_lines(labelled if labelled.any() else np.ones_like(labelled))
    points_mm = transform_points(labels.grid.ras_from_voxel, voxels)
    low, high = points_mm.min(axis=0), points_mm.max(axis=0)
    margin_mm = np.maximum(_MARGIN_MM + max(labels.grid.voxel_size_mm) / 2, (_MIN_EDGE_MM - (high - low)) / 2)
    return low - margin_mm, high + margin_mm


def view_grid(plane: ViewPlane, box: Box, pixels_per_mm: float, radiological: bool = False) -> Grid:
    """The grid of a row of panels that fill a box, with evenly spaced slices.

    Its shape is (columns, rows, panels). Columns run to the right (to the left if radiological) or to anterior, rows
    downwards, panels to the right, anterior or superior. Slices lie at whole mm unless they are closer than 2 mm.
    """
    low, high = box
    column, row, through = plane.axes
    step_mm = (high[through] - low[through]) / (plane.panels + 1)
    first_mm = low[through] + step_mm
    if step_mm >= 2:
        first_mm = np.rint((low[through] + high[through] - np.rint(step_mm) * (plane.panels - 1)) / 2)
        step_mm = np.rint(step_mm)
    flipped = radiological and column == 0
    matrix = np.zeros((4, 4))
    matrix[column, 0] = (-1 if flipped else 1) / pixels_per_mm
    matrix[row, 1] = -1 / pixels_per_mm
    matrix[through, 2] = step_mm
    half = 0.5 / pixels_per_mm
    matrix[column, 3] = high[column] - half if flipped else low[column] + half
    matrix[[row, through, 3], 3] = high[row] - half, first_mm, 1
    columns, rows = (max(1, int((high[axis] - low[axis]) * pixels_per_mm)) for axis in (column, row))
    return Grid((columns, rows, plane.panels), matrix)


def cut(scan: Volume, labels: LabelMap, view: Grid) -> tuple[Volume, LabelMap]:
    """Scan and labels on a view, with trilinear and multilabel interpolation."""
    return resample(scan, view), label_sampler(labels)(view)


def paint(scan: Volume, channels: LabelMap, shown: tuple[float, float], colors: Picture) -> Picture:
    """Panels of a view, (panels, rows, columns, 3) uint8: the scan in grey below outlines one pixel wide.

    A pixel belongs to an outline if its right or lower neighbour has another label. It has the most vivid colour of
    the regions that meet there, so that the cortex is preferred to the grey of white matter.

    Parameters
    ----------
    scan : Volume
        Scan on a view of shape (columns, rows, panels).
    channels : LabelMap
        Row numbers of ``colors`` on the same view, 0 for the background.
    shown : tuple of 2 float
        Intensities shown black and white.
    colors : (N, 3) uint8 array
        Red, green, blue.
    """
    picture = np.repeat(np.rint(255 * gray_fraction(scan.data.T, shown)).astype(np.uint8)[..., None], 3, axis=-1)
    lines = outlines(channels.data.T, colors)
    picture[lines > 0] = colors[lines[lines > 0]]
    return picture


@dataclass(frozen=True)
class _Layout:
    """Positions in pixels from the upper left corner of the picture."""

    pixels_per_mm: float
    tops: tuple[int, ...]
    height: int

    @classmethod
    def around(cls, box: Box, header: int) -> _Layout:
        """Layout with the largest scale at which every row of panels fits the width, and all rows fit the height."""
        size_mm = box[1] - box[0]
        free = [_WIDTH - 2 * _EDGE - _ROW_NAME - _GAP * (p.panels - 1) for p in PLANES]
        fits = [pixels / (size_mm[p.axes[0]] * p.panels) for pixels, p in zip(free, PLANES, strict=True)]
        heights_mm = np.array([size_mm[plane.axes[1]] for plane in PLANES])
        scale = float(min(*fits, _MAX_PANELS_HEIGHT / heights_mm.sum()))
        ends = header + np.cumsum(np.ceil(heights_mm * scale).astype(int) + _CAPTION)
        height = -(-int(ends[-1] + _EDGE // 2) // _HEIGHT_STEP) * _HEIGHT_STEP
        return cls(scale, (header, *(int(end) for end in ends[:-1])), height)

    @staticmethod
    def lefts(plane: ViewPlane, view: Grid) -> tuple[int, ...]:
        """Left edges of the panels of a row, evenly spaced over the width."""
        start = _EDGE + _ROW_NAME
        slot = (_WIDTH - _EDGE - start + _GAP) / plane.panels
        return tuple(int(start + slot * i + (slot - _GAP - view.shape[0]) / 2) for i in range(plane.panels))


def _ends_of_lines(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """(N, 3) first and last voxel of a mask along each line of its third axis; all others lie between two of these."""
    lines = np.argwhere(mask.any(axis=2))
    along = mask[tuple(lines.T)]
    first, last = along.argmax(axis=1), mask.shape[2] - 1 - along[:, ::-1].argmax(axis=1)
    return np.concatenate([np.column_stack([lines, end]) for end in (first, last)])


def cropped_labels(labels: LabelMap) -> LabelMap:
    """Label map cropped to its labels; unchanged if it has none."""
    boxes = ndimage.find_objects((labels.data != 0).view(np.uint8))
    return LabelMap(labels.data[boxes[0]], labels.grid.cropped(boxes[0])) if boxes else labels


def _write(figure: Figure, position: tuple[float, float], text: str, size: float, **style: object) -> None:
    """Write text at a position in pixels from the upper left corner, independent of the user's matplotlib settings."""
    x, y = position[0] / _WIDTH, 1 - position[1] / (figure.get_figheight() * _DPI)
    all_style = {"color": LIGHT, "family": "DejaVu Sans", "parse_math": False, "va": "center", **style}
    figure.text(x, y, text, size=size * 72 / _DPI, **all_style)  # type: ignore[arg-type]


def _write_header(figure: Figure, title: str, notes: list[str], regions: str, radiological: bool) -> None:
    side = "radiological: left is on the right" if radiological else "neurological: left is on the left"
    name = " ".join(title.split())
    if len(name) > _MAX_TITLE:
        name = f"{name[: _MAX_TITLE // 2]} … {name[-_MAX_TITLE // 2 :]}"
    _write(figure, (_EDGE, 20), name, 20, weight="bold")
    subtitle = f"{regions}  ·  {side}  ·  sagittal slices from left to right  ·  positions in mm (RAS+)"
    _write(figure, (_EDGE, 44), subtitle, 14, color=DIM)
    for line, note in enumerate(notes):
        _write(figure, (_EDGE, _TITLE + _LINE * (line + 0.4)), note, 14, color=AMBER)


def _write_row(figure: Figure, plane: ViewPlane, view: Grid, top: int, lefts: tuple[int, ...]) -> None:
    """Write the name of the row, and side letters and position of every panel."""
    from matplotlib.patheffects import withStroke

    columns, rows, _ = view.shape
    halo = {"weight": "bold", "path_effects": [withStroke(linewidth=3, foreground="black")]}
    _write(figure, (_EDGE + 6, top + rows / 2), plane.name, 16, color=DIM, rotation=90, ha="center")
    ends = LETTERS[plane.axes[0]][:: int(np.sign(view.ras_from_voxel[plane.axes[0], 0]))]
    for panel, left in enumerate(lefts):
        for end, x in zip(ends, (left + 11, left + columns - 11), strict=True):
            _write(figure, (x, top + 12), end, 15, ha="center", **halo)
        position_mm = transform_points(view.ras_from_voxel, [[0, 0, panel]])[0, plane.axes[2]]
        caption = f"{'xyz'[plane.axes[2]]} = {round(position_mm, 1) + 0.0:g} mm"
        _write(figure, (left + columns / 2, top + rows + 10), caption, 14, color=DIM, ha="center")
