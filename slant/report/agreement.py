"""The figure of an evaluation shows Dice of groups and of regions, scan by scan, for one method or two."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = ("#0072B2", "#D55E00")  # blue and vermilion of Okabe & Ito, told apart by all readers
_SHAPES = ("o", "D")
_DPI, _WIDTH, _ROW, _MARGIN = 120, 13.0, 0.19, 1.5  # dots per inch, then inches
_LETTERS = 52


@dataclass(frozen=True)
class Marks:
    """Dice of one method.

    Attributes
    ----------
    method : str
    groups, regions : mapping of str to tuple of float
        By name, a value for every scan; groups in the order to show them, all regions together first.
    """

    method: str
    groups: Mapping[str, tuple[float, ...]]
    regions: Mapping[str, tuple[float, ...]]


def draw_agreement(methods: tuple[Marks, ...]) -> bytes:
    """Draw one dot for every scan: groups on the left with boxes, regions on the right, the worst at the bottom.

    Parameters
    ----------
    methods : tuple of Marks
        One or two. With two, a line joins their means in every region, and regions are sorted by the first.

    Returns
    -------
    bytes
        A PNG; the same bytes for the same input.
    """
    from matplotlib.figure import Figure

    order = sorted(methods[0].regions, key=lambda name: float(np.mean(methods[0].regions[name])))
    groups = list(methods[0].groups)[::-1]
    height = _MARGIN + _ROW * max(len(order), 24)
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25), sharex=True)
    for number, marks in enumerate(methods):
        offset = (0.5 - number) * 0.4 if len(methods) > 1 else 0.0
        _boxes(left, [marks.groups.get(name, ()) for name in groups], number, offset)
        label = f"{_shortened(marks.method)}: mean Dice {np.mean(marks.groups[groups[-1]]):.3f}"
        _dots(right, [marks.regions.get(name, ()) for name in order], number, label)
    if len(methods) > 1:
        _joins(right, methods, order)
    _finish(left, groups, "Mean Dice of the regions in a group")
    _finish(right, order, "Dice of a region, left and right pooled")
    scans = max(len(values) for values in methods[0].groups.values())
    right.legend(loc="upper left", fontsize=9, frameon=True, title=f"large: mean, small: each of {scans} scan(s)")
    return _png(figure)


def _boxes(axes: Axes, rows: list[tuple[float, ...]], number: int, offset: float) -> None:
    """Quartiles and range where there are enough scans, with every scan over them."""
    from matplotlib.colors import to_rgba

    for row, values in enumerate(rows):
        color = _COLORS[number]
        if len(values) >= 4:
            axes.boxplot(
                [values],
                positions=[row + offset],
                orientation="horizontal",
                widths=0.32,
                whis=(0, 100),
                showfliers=False,
                patch_artist=True,
                boxprops={"facecolor": to_rgba(color, 0.15), "edgecolor": color},
                medianprops={"color": color, "linewidth": 2},
                whiskerprops={"color": color},
                capprops={"color": color},
            )
        spread = np.linspace(-0.09, 0.09, len(values)) if len(values) > 1 else np.zeros(len(values))
        shape = _SHAPES[number]
        axes.scatter(values, row + offset + spread, s=22, marker=shape, color=color, alpha=0.7, linewidths=0, zorder=3)


def _dots(axes: Axes, rows: list[tuple[float, ...]], number: int, label: str) -> None:
    """Scans small and faint, their mean large."""
    color, shape = _COLORS[number], _SHAPES[number]
    places = [row for row, values in enumerate(rows) for _ in values]
    single = [value for values in rows for value in values]
    axes.scatter(single, places, s=7, marker=shape, color=color, alpha=0.35, linewidths=0, zorder=2)
    means = [float(np.mean(values)) for values in rows if values]
    places = [row for row, values in enumerate(rows) if values]
    axes.scatter(means, places, s=34, marker=shape, color=color, zorder=4, label=label)


def _joins(axes: Axes, methods: tuple[Marks, ...], order: list[str]) -> None:
    for row, name in enumerate(order):
        ends = [float(np.mean(marks.regions[name])) for marks in methods if marks.regions.get(name)]
        axes.plot(ends, [row] * len(ends), color="#777777", linewidth=1.2, zorder=1)


def _finish(axes: Axes, names: list[str], title: str) -> None:
    axes.set_yticks(range(len(names)), [_shortened(name) for name in names], fontsize=8 if len(names) > 30 else 10)
    axes.set_ylim(-0.8, len(names) - 0.2)
    axes.set_xlim(right=1.0)
    axes.set_xlabel("Dice")
    axes.set_title(title, fontsize=11)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _shortened(name: str) -> str:
    text = name.encode(errors="replace").decode().replace("$", r"\$")
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"


def _png(figure: object) -> bytes:
    """Encode without the name and version of the software; glyphs missing from the font become boxes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[arg-type, no-untyped-call]
    return buffer.getvalue()
