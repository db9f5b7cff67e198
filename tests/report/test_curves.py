"""Training curves: which logs are drawn, and their colors."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from slant.report import curves
from slant.report.curves import draw_curves


def log(path: Path, dice: float | None = None) -> None:
    """Write the table of a stage of three steps, of half an hour each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "learning_rate": 1e-3}
    table |= {"hours": [0.5, 1.0, 1.5], "val_dice": [None, None, dice]}
    pd.DataFrame(table).to_csv(path, sep="\t", index=False)


def drawn(folder: Path) -> Figure:
    """The figure that `draw_curves` writes."""
    with patch.object(curves, "figure_png", return_value=b"PNG") as png:
        assert draw_curves(folder) == folder / "curves.png"
    return png.call_args.args[0]


def test_no_curves_without_tables(tmp_path: Path) -> None:
    assert draw_curves(tmp_path) is None
    assert draw_curves(tmp_path / "absent") is None


def test_stages_and_tiles_have_a_curve_and_a_color_each(tmp_path: Path) -> None:
    stages = ["pretrain", "slices-axial", "slices-coronal", "slices-sagittal", "whole"]
    for name in stages:
        log(tmp_path / f"{name}.tsv", 0.5)
    for tile in ("1_1_1", "2_1_1", "1_2_1", "2_2_1"):
        log(tmp_path / "toy" / f"{tile}.tsv")
    log(tmp_path / "out-of-fold2" / "slices-axial-0.tsv")
    losses, scores, by_hour = drawn(tmp_path).axes
    names = [*stages, "toy 1_1_1", "toy 1_2_1", "toy 2_1_1", "toy 2_2_1"]
    assert sorted(line.get_label() for line in losses.lines) == sorted(names)
    assert len({line.get_color() for line in losses.lines}) == len(names)
    for axes, x in ((scores, 3), (by_hour, 1.5)):
        assert {line.get_label() for line in axes.lines if line.get_xdata().tolist() == [x]} == set(stages)
    assert sorted(text.get_text() for text in losses.get_legend().get_texts()) == sorted(names)


@pytest.mark.parametrize("dice", [None, 0.5])
def test_many_tiles_share_a_color_and_a_name(tmp_path: Path, dice: float | None) -> None:
    log(tmp_path / "whole.tsv", dice)
    for tile in range(1, 7):
        log(tmp_path / "toy" / f"{tile}_1_1.tsv")
    losses, *others = drawn(tmp_path).axes
    assert [line.get_color() for line in losses.lines].count("0.6") == 6
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["whole", "tiles"]
    for axes in others:
        assert [text.get_text() for text in axes.texts] == (
            [] if dice else ["not measured\n(set validate_every and a fold)"]
        )


def test_an_unreadable_log_is_left_out(tmp_path: Path) -> None:
    log(tmp_path / "whole.tsv")
    (tmp_path / "pretrain.tsv").write_text("a\tb\n1\t2\n")
    losses, *_ = drawn(tmp_path).axes
    assert [line.get_label() for line in losses.lines] == ["whole"]


def test_a_log_of_an_earlier_version_has_no_hours(tmp_path: Path) -> None:
    log(tmp_path / "whole.tsv", 0.5)
    table = pd.read_csv(tmp_path / "whole.tsv", sep="\t").drop(columns="hours")
    table.to_csv(tmp_path / "whole.tsv", sep="\t", index=False)
    _, scores, by_hour = drawn(tmp_path).axes
    assert scores.lines[0].get_xdata().tolist() == [3]
    assert np.isnan(by_hour.lines[0].get_xdata()).all()
