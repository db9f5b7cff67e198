"""Training curves: loss by step, and Dice of held-out subjects by step and by hour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from slant.files import write_atomic
from slant.report.paint import figure_png

_WINDOW = 25  # steps averaged for each point of the smoothed loss
_STAGES = {"whole": "C0", "pretrain": "C1", "slices-sagittal": "C6", "slices-coronal": "C8", "slices-axial": "C9"}
_MAX_LEGEND_TILES = 4  # with more tiles, the legend has one entry for all of them


def draw_curves(folder: Path) -> Path | None:
    """Draw the training logs in the work folder of a split: ``whole.tsv`` and others of stages, and ``MODEL/TILE.tsv``.

    The networks that are trained without a fold of the subjects are not drawn.

    Returns the path of ``curves.png`` in the folder; None if there is no training log yet.
    """
    tables = {
        path: _read(path) for path in sorted([*(folder / f"{s}.tsv" for s in _STAGES), *folder.glob("*/*_*_*.tsv")])
    }
    tables = {path: table for path, table in tables.items() if len(table)}
    if not tables:
        return None
    figure = Figure(figsize=(14, 4.5), dpi=110, layout="constrained")
    losses, scores, by_hour = figure.subplots(1, 3)
    tiles = [path for path in tables if path.parent != folder]
    for path, table in tables.items():
        is_stage = path.parent == folder
        color = _STAGES[path.stem] if is_stage else _color_of_tile(tiles.index(path), len(tiles))
        name = path.stem if is_stage else f"{path.parent.name} {path.stem}"
        smooth = table["loss"].rolling(_WINDOW, min_periods=1).mean()
        losses.plot(table["step"], smooth, color=color, label=name, linewidth=1.6 if is_stage else 0.8)
        validated = table.dropna(subset="val_dice")
        for axes, x in ((scores, "step"), (by_hour, "hours")):
            axes.plot(validated[x], validated["val_dice"], "o-", color=color, label=name, markersize=3)
    losses.set(xlabel="step", ylabel=f"loss, mean of {_WINDOW} steps")
    scores.set(xlabel="step", ylabel="mean Dice of held-out subjects, template space")
    by_hour.set(xlabel="hours of training, without validation", ylabel="mean Dice of held-out subjects, template space")
    _legend(losses, merge_tiles=len(tiles) > _MAX_LEGEND_TILES)
    for axes in (scores, by_hour):
        if not any(len(np.atleast_1d(line.get_xdata())) for line in axes.lines):
            axes.text(0.5, 0.5, "not measured\n(set validate_every and a fold)", ha="center", transform=axes.transAxes)
    path = folder / "curves.png"
    write_atomic(path, figure_png(figure))
    return path


def _color_of_tile(index: int, count: int) -> str:
    """Color of a tile: its own, unlike those of the stages, if the legend names it."""
    return f"C{2 + index}" if count <= _MAX_LEGEND_TILES else "0.6"


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame()
    table = pd.read_csv(path, sep="\t")
    columns = {"step", "loss", "val_dice"}
    if not columns <= set(table.columns):
        return pd.DataFrame()
    return table if "hours" in table else table.assign(hours=np.nan)  # of an earlier version


def _legend(axes: object, *, merge_tiles: bool) -> None:
    handles, names = axes.get_legend_handles_labels()  # type: ignore[attr-defined]
    shown = [(h, n) for h, n in zip(handles, names, strict=True) if not (merge_tiles and h.get_color() == "0.6")]
    if merge_tiles:
        shown.append((Line2D([], [], color="0.6"), "tiles"))
    axes.legend(*zip(*shown, strict=True), frameon=False)  # type: ignore[attr-defined]
