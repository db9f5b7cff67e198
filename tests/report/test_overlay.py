"""The overlay picture: correct sides, positions in mm, and the same bytes for the same input."""

from __future__ import annotations

import io
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from slant.errors import GeometryError, ProtocolError
from slant.grid import Grid, axis_aligned_grid, transform_points
from slant.labels import LabelProtocol, Region
from slant.report import overlay
from slant.report.overlay import PLANES, cut, draw_overlay, labelled_box, paint, view_grid
from slant.report.paint import line_colors
from slant.volume import LabelMap, Volume

AXIAL, CORONAL, SAGITTAL = PLANES
LEFT, RIGHT = 5, 8
RED, GRAY, BLUE = (255, 0, 0), (150, 150, 150), (0, 0, 255)


@pytest.fixture
def protocol() -> LabelProtocol:
    rows = [(0, "background", "bg", "midline", "background", (0, 0, 0))]
    rows += [(LEFT, "Left Half", "L-Ha", "L", "gray", RED), (RIGHT, "Right Half", "R-Ha", "R", "gray", BLUE)]
    regions = [Region(i, name, short, side, tissue, "all", color) for i, name, short, side, tissue, color in rows]
    return LabelProtocol("halves", tuple(regions))


@pytest.fixture
def texts(monkeypatch) -> list:
    """Texts, with their boxes in pixels, of the figures drawn during the test."""
    seen, png = [], overlay.figure_png

    def spy(figure):
        data = png(figure)
        seen.extend((text.get_text(), text.get_window_extent()) for text in figure.texts)
        return data

    monkeypatch.setattr(overlay, "figure_png", spy)
    return seen


def world_of(grid: Grid) -> NDArray[np.float64]:
    """(X, Y, Z, 3) RAS+ mm of every voxel."""
    return transform_points(grid.ras_from_voxel, np.moveaxis(np.indices(grid.shape), 0, -1).reshape(-1, 3)).reshape(
        *grid.shape, 3
    )


def halves(grid: Grid) -> tuple[Volume, LabelMap]:
    """A scan that brightens along every axis, with a right and a left half inside a border of background."""
    coordinates = world_of(grid)
    ids = np.where(coordinates[..., 0] > grid.center_ras_mm[0], RIGHT, LEFT).astype(np.int16)
    ids[[0, -1]], ids[:, [0, -1]], ids[:, :, [0, -1]] = 0, 0, 0
    return Volume(coordinates.sum(axis=-1) + 100, grid), LabelMap(ids, grid)


def pixels(png: bytes) -> NDArray[np.uint8]:
    from matplotlib.image import imread

    return np.rint(255 * imread(io.BytesIO(png))[..., :3]).astype(np.uint8)


@pytest.mark.parametrize("plane", [AXIAL, CORONAL])
@pytest.mark.parametrize("radiological", [False, True])
@pytest.mark.parametrize("oblique", [False, True])
def test_right_is_on_the_right_unless_radiological(oblique_grid, plane, radiological, oblique):
    grid = oblique_grid if oblique else axis_aligned_grid((7, 8, 9), 2.0, (-100, 3, 40))
    scan, labels = halves(grid)
    labels = LabelMap(np.where(labels.data == RIGHT, RIGHT, 0), grid)
    view = view_grid(plane, labelled_box(halves(grid)[1]), 2.0, radiological)
    columns = np.nonzero(cut(scan, labels, view)[1].data)[0]
    center = (view.shape[0] - 1) / 2
    assert (columns.mean() > center) != radiological


def test_left_and_right_in_the_picture(protocol):
    scan, labels = halves(axis_aligned_grid((16, 18, 20), 5.0, (-40, -45, -50)))
    neurological = pixels(draw_overlay(scan, labels, protocol, "a")).astype(int)
    radiological = pixels(draw_overlay(scan, labels, protocol, "a", radiological=True)).astype(int)
    for picture, right_is_right in ((neurological, True), (radiological, False)):
        first_panel = picture[:300, :280]
        red = np.nonzero((first_panel[..., 0] - first_panel[..., 2]) > 60)[1].mean()
        blue = np.nonzero((first_panel[..., 2] - first_panel[..., 0]) > 60)[1].mean()
        assert (blue > red) == right_is_right


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("radiological", [False, True])
def test_view_shows_the_scan_at_the_coordinates_of_its_grid(oblique_grid, plane, radiological):
    scan, labels = halves(oblique_grid)
    low, high = labelled_box(labels)
    view = view_grid(plane, (low + 15, high - 15), 1.7, radiological)
    gray, ids = cut(scan, labels, view)
    coordinates = world_of(view)
    voxels = transform_points(oblique_grid.voxel_from_ras, coordinates.reshape(-1, 3)).reshape(coordinates.shape)
    inside = ((voxels > 0) & (voxels < np.array(oblique_grid.shape) - 1)).all(axis=-1)
    assert inside.any()
    np.testing.assert_allclose(gray.data[inside], coordinates[inside].sum(axis=-1) + 100, atol=1e-3)
    near_center = (np.abs(voxels - np.rint(voxels)) < 0.2).all(axis=-1) & inside
    expected = labels.data[tuple(np.rint(voxels[near_center]).astype(int).T)]
    assert len(set(expected)) >= 2
    np.testing.assert_array_equal(ids.data[near_center], expected)


@pytest.mark.parametrize("plane", PLANES)
def test_view_has_square_pixels_over_the_whole_box(plane):
    box = (np.array([-70.0, -100, -50]), np.array([72.0, 77, 85]))
    view = view_grid(plane, box, 2.0)
    column, row, through = plane.axes
    assert view.voxel_size_mm[:2] == (0.5, 0.5)
    assert view.shape == (2 * (box[1] - box[0])[column], 2 * (box[1] - box[0])[row], plane.panels)
    upper_left, next_slice = transform_points(view.ras_from_voxel, [[-0.5, -0.5, 0], [-0.5, -0.5, 1]])
    np.testing.assert_allclose(upper_left[[column, row]], [box[0][column], box[1][row]])
    assert float(upper_left[through]).is_integer()
    assert float(next_slice[through] - upper_left[through]).is_integer()
    last = transform_points(view.ras_from_voxel, [[0, 0, plane.panels - 1]])[0]
    assert box[0][through] < upper_left[through] < next_slice[through] < last[through] < box[1][through]


def test_thin_box_has_slices_at_fractions_of_a_mm():
    positions = world_of(view_grid(AXIAL, (np.zeros(3), np.full(3, 7.0)), 1.0))[0, 0, :, 2]
    np.testing.assert_allclose(positions, [1, 2, 3, 4, 5, 6])
    positions = world_of(view_grid(AXIAL, (np.zeros(3), np.full(3, 3.5)), 1.0))[0, 0, :, 2]
    np.testing.assert_allclose(positions, [0.5, 1, 1.5, 2, 2.5, 3])


def test_box_surrounds_the_labels(oblique_grid):
    _, labels = halves(oblique_grid)
    low, high = labelled_box(labels)
    points = world_of(oblique_grid)[labels.data != 0]
    assert (low < points.min(axis=0) - 4).all()
    assert (high > points.max(axis=0) + 4).all()
    assert (high - low >= 40 - 1e-9).all()


def test_box_is_that_of_all_labelled_voxels(oblique_grid):
    blob = np.random.default_rng(0).random(oblique_grid.shape) > 0.98
    points = world_of(oblique_grid)[blob]
    low, high = labelled_box(LabelMap(blob, oblique_grid))
    margin = np.maximum(5 + max(oblique_grid.voxel_size_mm) / 2, (40 - np.ptp(points, axis=0)) / 2)
    np.testing.assert_allclose([low, high], [points.min(axis=0) - margin, points.max(axis=0) + margin])


def test_outlines_are_one_pixel_wide_in_the_more_vivid_colour():
    colors = np.array([(0, 0, 0), RED, GRAY], dtype=np.uint8)
    rows = ["......", ".112..", ".112..", "...22."]
    ids = np.array([[".12".index(c) for c in row] for row in rows], dtype=np.uint8).T[..., None]
    grid = Grid(ids.shape, np.eye(4))
    painted = paint(Volume(np.full(ids.shape, 3.0), grid), LabelMap(ids, grid), (0.0, 5.0), colors)
    names = {(153, 153, 153): ".", RED: "r", GRAY: "g"}
    found = ["".join(names[tuple(pixel)] for pixel in row) for row in painted[0].tolist()]
    assert painted.shape == (1, 4, 6, 3)
    assert found == [".rrg..", "r.rg..", "rrrgg.", "..g.g."]


def test_grey_runs_from_black_to_white():
    values = np.array([-1.0, 0, 2, 4, 9]).reshape(5, 1, 1)
    grid = Grid(values.shape, np.eye(4))
    nothing = LabelMap(np.zeros(values.shape, dtype=np.uint8), grid)
    painted = paint(Volume(values, grid), nothing, (0.0, 4.0), np.zeros((1, 3), dtype=np.uint8))
    assert painted[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]
    flat = paint(Volume(values, grid), nothing, (4.0, 4.0), np.zeros((1, 3), dtype=np.uint8))
    assert flat[0, 0, :, 0].tolist() == [0, 0, 0, 0, 255]


def test_dark_colours_are_lightened_and_bright_ones_kept(protocol):
    _, red, blue = line_colors(protocol).tolist()
    assert red[0] == 255
    assert blue[2] == 255
    assert blue[0] == blue[1] > 60
    yellow = LabelProtocol("one", (protocol.regions[0], Region(3, "Y", "Y", "midline", "csf", "all", (255, 245, 9))))
    assert line_colors(yellow)[1].tolist() == [255, 245, 9]


def test_the_png_has_the_same_bytes_without_software_or_date(oblique_grid, protocol):
    scan, labels = halves(oblique_grid)
    png = draw_overlay(scan, labels, protocol, "sub-01", ("coil moved",))
    assert png == draw_overlay(scan, labels, protocol, "sub-01", ("coil moved",))
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert b"tEXt" not in png
    assert b"tIME" not in png
    assert pixels(png).shape[1] == 1600


@pytest.mark.parametrize(
    "shape_voxels", [((16, 18, 20), (5.0, 5.0, 5.0)), ((3, 3, 60), (1.0, 1.0, 4.0)), ((90, 70, 3), (2.0, 2.0, 5.0))]
)
def test_texts_do_not_overlap_and_are_inside(protocol, texts, shape_voxels):
    shape, voxel_mm = shape_voxels
    scan, labels = halves(Grid(shape, np.diag([*voxel_mm, 1.0])))
    png = draw_overlay(scan, labels, protocol, "Ünïcode $x_1$ 日 (two)\n" + 40 * "long", ("a word " * 60, "cut"))
    height, width, _ = pixels(png).shape
    for name, box in texts:
        assert box.x0 >= 0, name
        assert box.y0 >= 0, name
        assert box.x1 <= width, name
        assert box.y1 <= height, name
    for (one, box), (other, box2) in combinations(texts, 2):
        assert not box.overlaps(box2), (one, other)


def test_convention_letters_and_positions_are_written(protocol, texts):
    scan, labels = halves(axis_aligned_grid((16, 18, 20), 5.0, (-40, -45, -50)))
    draw_overlay(scan, labels, protocol, "sub-01", ("coil moved",))
    words = [word for word, _ in texts]
    assert words[0] == "sub-01"
    assert words[1].startswith("2 of 2 regions  ·  neurological: left is on the left")
    assert words[2] == "Warning: coil moved"
    assert [words.count(letter) for letter in "LRPA"] == [12, 12, 5, 5]
    sagittal = [word for word in words if word.startswith("x = ")]
    assert sagittal == ["x = -28 mm", "x = -15 mm", "x = -2 mm", "x = 11 mm", "x = 24 mm"]
    left, right = (next(box.x0 for word, box in texts if word == letter) for letter in "LR")
    assert left < right
    texts.clear()
    draw_overlay(scan, labels, protocol, "sub-01", radiological=True)
    left, right = (next(box.x0 for word, box in texts if word == letter) for letter in "LR")
    assert right < left
    assert any("radiological: left is on the right" in word for word, _ in texts)


def test_a_scan_without_labels_has_a_warning(oblique_grid, protocol, texts):
    scan, labels = halves(oblique_grid)
    png = draw_overlay(scan, LabelMap(np.zeros_like(labels.data), labels.grid), protocol, "empty")
    assert "Warning: no region was found" in [word for word, _ in texts]
    assert pixels(png)[100:].max() > 0


def test_constant_scan_is_drawn(oblique_grid, protocol):
    _, labels = halves(oblique_grid)
    scan = Volume(np.zeros(oblique_grid.shape), oblique_grid)
    assert pixels(draw_overlay(scan, labels, protocol, "flat")).any()


def test_labels_on_another_grid_are_rejected(oblique_grid, protocol):
    scan, labels = halves(oblique_grid)
    elsewhere = LabelMap(labels.data, Grid(oblique_grid.shape, np.eye(4)))
    with pytest.raises(GeometryError, match="expected them on the scan's grid of shape"):
        draw_overlay(scan, elsewhere, protocol, "elsewhere")


def test_an_unknown_id_is_rejected(oblique_grid, protocol):
    scan, labels = halves(oblique_grid)
    unknown = LabelMap(np.where(labels.data == LEFT, 7, labels.data), labels.grid)
    with pytest.raises(ProtocolError, match="outside protocol 'halves': 7"):
        draw_overlay(scan, unknown, protocol, "unknown")


def test_importing_does_not_load_matplotlib():
    code = "import sys, slant.report.overlay; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_the_picture_of_a_real_scan_has_less_than_three_megabytes(data_dir: Path):
    import nibabel as nib

    from slant.io.resources import load_protocol

    folder, braincolor = data_dir / "miccai2012-train", load_protocol()
    t1w, dseg = (
        nib.as_closest_canonical(nib.load(folder / f"1000_{kind}.nii.gz"))  # type: ignore[attr-defined]
        for kind in ("T1w", "dseg")
    )
    grid = Grid(t1w.shape, t1w.affine)
    ids = np.asarray(dseg.dataobj).astype(np.int16)
    labels = LabelMap(np.where(np.isin(ids, braincolor.ids), ids, 0), grid)
    png = draw_overlay(Volume(np.asarray(t1w.dataobj, dtype=np.float32), grid), labels, braincolor, "1000")
    assert 200_000 < len(png) < 3_000_000
    colorful = np.ptp(pixels(png).astype(int), axis=-1) > 40
    assert 0.01 < colorful.mean() < 0.2
