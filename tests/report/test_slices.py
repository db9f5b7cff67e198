"""The captions of sagittal slices name the side of the brain, wherever the origin of the scan lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy import toy_found, toy_model, toy_scan, voted_result

from slant.grid import Grid
from slant.io.templates import load_template
from slant.report.qc_figures import registration_rows, scan_in_template
from slant.report.slices import PanelRow, labelled_rows, midline, rows_of
from slant.volume import LabelMap, Volume


def moved(grid: Grid, x_mm: float) -> Grid:
    """The grid with its origin shifted."""
    matrix = grid.ras_from_voxel.copy()
    matrix[0, 3] += x_mm
    return replace(grid, ras_from_voxel=matrix)


def sagittal(x_mm: float, *, radiological: bool = False) -> PanelRow:
    grid = moved(toy_scan().volume.grid, x_mm)
    base, labels = Volume(toy_scan().volume.data, grid), LabelMap(toy_found().labels.data, grid)
    rows = labelled_rows(base, labels, toy_model().protocol, radiological=radiological)
    return next(row for row in rows if row.name == "sagittal")


@pytest.mark.parametrize("x_mm", [0, 300, -300])
def test_half_of_the_sagittal_slices_are_left_and_half_right(x_mm) -> None:
    sides = [panel.caption.partition(" mm")[2] for panel in sagittal(x_mm).panels]
    assert sides in (
        [" (left)"] * 2 + [""] + [" (right)"] * 2,
        [" (left)"] * 3 + [" (right)"] * 2,
        [" (left)"] * 2 + [" (right)"] * 3,
    )
    assert sagittal(x_mm).panels[0].caption.startswith("x = ")


def test_the_midline_lies_between_left_and_right_regions_also_of_an_incomplete_brain() -> None:
    protocol, grid = toy_model().protocol, Grid((40, 8, 8), np.eye(4))
    side = {s: next(c for c, r in enumerate(protocol.regions) if r.hemisphere == s) for s in ("L", "R")}
    data = np.zeros(grid.shape, np.uint8)
    data[2:10], data[10:18] = side["L"], side["R"]
    assert midline(LabelMap(data, grid), protocol) == 9.5
    left = np.where(data == side["R"], 0, data)
    assert midline(LabelMap(left, grid), protocol) is None
    left[9:12] = next(c for c, r in enumerate(protocol.regions) if c and r.hemisphere == "midline")
    assert midline(LabelMap(left, grid), protocol) == 10


def test_slices_have_no_side_if_the_midline_is_not_known() -> None:
    box = np.full(3, -40.0), np.full(3, 40.0)
    rows = rows_of(lambda _: {}, box, radiological=False)
    assert all(panel.caption.endswith(" mm") for row in rows for panel in row.panels)


def test_slices_in_template_space_have_sides() -> None:
    result = voted_result()
    rows = registration_rows(result, scan_in_template(result), load_template(), radiological=False)
    assert [panel.caption.partition(" mm")[2] for panel in rows[-1].panels] == [" (left)", "", " (right)"]
