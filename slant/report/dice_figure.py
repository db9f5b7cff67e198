"""The figure of an evaluation: Dice of groups and of regions in every scan, for one or two methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slant.report.paint import BLUE, VERMILION, figure_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = (BLUE, VERMILION)
_SHAPES = ("o", "D")
_DPI, _WIDTH, _ROW, _MARGIN = 120, 13.0, 0.19, 1.5  # dots per inch; then width, height per row and margin in inches
_MAX_NAME = 52  # characters


@dataclass(frozen=True)
class MethodDice:
    """Dice of every scan for one method, by group and by region; the first group is all regions together."""

    method: str
    groups: Mapping[str, tuple[float, ...]]
    regions: Mapping[str, tuple[float, ...]]


def draw_dice(methods: tuple[MethodDice, ...]) -> bytes:
    """A PNG with one dot per scan: groups with box plots on the left, regions on the right, the lowest at the bottom.

    With two methods, a line joins their means in every region, and regions are sorted by the first. The same bytes for
    the same input.
    """
    from matplotlib.figure import Figure

    order = sorted(methods[0].regions, key=lambda name: float(np.mean(methods[0].regions[name])))
    groups = list(methods[0].groups)[::-1]
    height = _MARGIN + _ROW * max(len(order), 24)
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25), sharex=True)
    for number, method in enumerate(methods):
        offset = (0.5 - number) * 0.4 if len(methods) > 1 else 0.0
        _box_plots(left, [method.groups.get(name, ()) for name in groups], number, offset)
        label = f"{_shortened(method.method)}: mean Dice {np.mean(method.groups[groups[-1]]):.3f}"
        _dots(right, [method.regions.get(name, ()) for name in order], number, label)
    if len(methods) > 1:
        _connect_means(right, methods, order)
    _label_axes(left, groups, "Mean Dice of the regions of a group")
    _label_axes(right, order, "Dice of each region, left and right pooled")
    scans = max(len(values) for values in methods[0].groups.values())
    right.legend(loc="upper left", fontsize=9, frameon=True, title=f"large: mean; small: single scans (n = {scans})")
    return figure_png(figure)


def _box_plots(axes: Axes, rows: list[tuple[float, ...]], number: int, offset: float) -> None:
    """Draw box plots (quartiles and range) for four or more scans, and every scan over them."""
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
        jitter = np.linspace(-0.09, 0.09, len(values)) if len(values) > 1 else np.zeros(len(values))
        shape = _SHAPES[number]
        axes.scatter(values, row + offset + jitter, s=22, marker=shape, color=color, alpha=0.7, linewidths=0, zorder=3)


def _dots(axes: Axes, rows: list[tuple[float, ...]], number: int, label: str) -> None:
    """Draw small transparent dots for scans and a large dot for their mean."""
    color, shape = _COLORS[number], _SHAPES[number]
    positions = [row for row, values in enumerate(rows) for _ in values]
    scans = [value for values in rows for value in values]
    axes.scatter(scans, positions, s=7, marker=shape, color=color, alpha=0.35, linewidths=0, zorder=2)
    means = [float(np.mean(values)) for values in rows if values]
    positions = [row for row, values in enumerate(rows) if values]
    axes.scatter(means, positions, s=34, marker=shape, color=color, zorder=4, label=label)


def _connect_means(axes: Axes, methods: tuple[MethodDice, ...], order: list[str]) -> None:
    for row, name in enumerate(order):
        ends = [float(np.mean(method.regions[name])) for method in methods if method.regions.get(name)]
        axes.plot(ends, [row] * len(ends), color="#777777", linewidth=1.2, zorder=1)


def _label_axes(axes: Axes, names: list[str], title: str) -> None:
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
    return text if len(text) <= _MAX_NAME else f"{text[: _MAX_NAME - 1]}…"
