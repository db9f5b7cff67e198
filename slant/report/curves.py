"""A picture of how a training went: loss, and Dice of people held out, by step."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

_WINDOW = 25  # steps that a point of the smooth curve averages
_STAGES = {"whole": "C0", "pretrain": "C1"}
_MANY = 4  # tables of tiles that still get a line each in the legend


def draw_curves(folder: Path) -> Path | None:
    """Draw the tables of a run's stages, ``pretrain.tsv`` and ``whole.tsv`` in the folder, ``MODEL/TILE.tsv`` below it.

    Parameters
    ----------
    folder : Path
        Of one split.

    Returns
    -------
    Path or None
        ``curves.png`` in the folder; None if nothing was trained yet.
    """
    tables = {
        path: _read(path) for path in sorted([*(folder / f"{s}.tsv" for s in _STAGES), *folder.glob("*/*_*_*.tsv")])
    }
    tables = {path: table for path, table in tables.items() if len(table)}
    if not tables:
        return None
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    tiles = [path for path in tables if path.parent != folder]
    for index, path in enumerate(tables):
        table, alone = tables[path], path.parent == folder
        color = _STAGES[path.stem] if alone else f"C{2 + index % 8}" if len(tiles) <= _MANY else "0.6"
        name = path.stem if alone else f"{path.parent.name} {path.stem}"
        smooth = table["loss"].rolling(_WINDOW, min_periods=1).mean()
        losses.plot(table["step"], smooth, color=color, label=name, linewidth=1.6 if alone else 0.8)
        judged = table.dropna(subset="dice_held_out")
        scores.plot(judged["step"], judged["dice_held_out"], "o-", color=color, label=name, markersize=3)
    losses.set(xlabel="step", ylabel=f"loss, mean of {_WINDOW} steps")
    scores.set(xlabel="step", ylabel="mean Dice of people held out, template space")
    _legend(losses, many=len(tiles) > _MANY)
    if not scores.has_data() or not any(len(np.atleast_1d(line.get_xdata())) for line in scores.lines):
        scores.text(0.5, 0.5, "not measured\n(set validate, and a fold)", ha="center", transform=scores.transAxes)
    path = folder / "curves.png"
    _write(figure, path)
    return path


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame()
    table = pd.read_csv(path, sep="\t")
    wanted = {"step", "loss", "dice_held_out"}
    return table if wanted <= set(table.columns) else pd.DataFrame()


def _legend(axes: object, *, many: bool) -> None:
    handles, names = axes.get_legend_handles_labels()  # type: ignore[attr-defined]
    shown = [(h, n) for h, n in zip(handles, names, strict=True) if not (many and h.get_color() == "0.6")]
    if many:
        shown.append((Line2D([], [], color="0.6"), "tiles"))
    axes.legend(*zip(*shown, strict=True), frameon=False)  # type: ignore[attr-defined]


def _write(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content.getvalue())
    partial.replace(path)
