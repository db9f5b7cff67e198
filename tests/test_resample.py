"""Resampling agrees with a voxel-by-voxel oracle on oblique, left-handed grids."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from slant.errors import GeometryError, SettingsError
from slant.grid import Grid, axis_aligned_grid, transform_points
from slant.resample import labels_to_home, pick_labels, resample
from slant.volume import LabelMap, Volume

TEMPLATE = axis_aligned_grid((7, 8, 9), 1.0, (-3, -4, -5))
FIELD = np.random.default_rng(0).normal(size=(7, 8, 9)).astype(np.float32)


def _turned(angles_deg: tuple[float, float, float], scale: float, shift_mm: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        one, other = [a for a in range(3) if a != axis]
        turn = np.eye(4)
        turn[[one, one, other, other], [one, other, one, other]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        matrix = turn @ matrix
    matrix[:3] *= scale
    matrix[:3, 3] = shift_mm
    return matrix


MAPS = [
    np.eye(4),
    _turned((0, 0, 0), 1, (0.5, -0.5, 1.5)),
    _turned((10, -20, 30), 0.7, (0.3, 0.2, -0.4)),
    _turned((-5, 40, 15), 1.3, (1, -2, 0.1)),
]


def _patches(seed: int, dtype: type = np.uint8) -> tuple[LabelMap, Volume]:
    """A label map of random blocks, half of them background, with a share of 1 in about half the voxels."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 0, 0, 4, 11, 207], size=(3, 3, 3))
    labels = np.kron(coarse, np.ones((3, 3, 3), dtype=int))[:7, :8, :9]
    share = np.where(rng.random((7, 8, 9)) < 0.5, 1, rng.integers(1, 27, (7, 8, 9)) / 27)
    return LabelMap(labels.astype(dtype), TEMPLATE), Volume(share, TEMPLATE)


def _oracle(labels: LabelMap, share: Volume, home: Grid, template_from_home: np.ndarray) -> tuple[np.ndarray, ...]:
    """The vote of the eight corners, a voxel at a time."""
    found, confidence = np.zeros(home.shape, int), np.zeros(home.shape)
    for voxel in np.ndindex(home.shape):
        ras = transform_points(template_from_home @ home.ras_from_voxel, [voxel])
        place = np.round(transform_points(labels.grid.voxel_from_ras, ras)[0], 9)
        votes: dict[int, float] = {}
        sure: dict[int, float] = {}
        for corner in product((0, 1), repeat=3):
            at = np.floor(place).astype(int) + corner
            weight = float(np.prod(1 - np.abs(place - at)))
            inside = (at >= 0).all() and (at < labels.grid.shape).all()
            label = int(labels.data[tuple(at)]) if inside else 0
            votes[label] = votes.get(label, 0.0) + weight
            sure[label] = sure.get(label, 0.0) + weight * (float(share.data[tuple(at)]) if inside else 1.0)
        most = max(votes.values())
        found[voxel] = min(label for label, weight in votes.items() if weight > most - 1e-9)
        confidence[voxel] = sure[found[voxel]]
    return found, confidence


@pytest.mark.parametrize("number", range(len(MAPS)))
@pytest.mark.parametrize("seed", [1, 2])
def test_the_vote_home_is_the_oracles_on_an_oblique_grid(oblique_grid, number, seed):
    labels, share = _patches(seed)
    matrix = oblique_grid.ras_from_voxel.copy()
    matrix[:3, 3] -= oblique_grid.center_ras_mm
    home = Grid((11, 9, 6), matrix)
    found, confidence = labels_to_home(labels, share, home, MAPS[number])
    wanted, wanted_confidence = _oracle(labels, share, home, MAPS[number])
    np.testing.assert_array_equal(found.data, wanted)
    np.testing.assert_allclose(confidence.data, wanted_confidence, atol=1e-6)
    assert found.data.dtype == np.uint8
    assert confidence.data.dtype == np.float32
    assert found.grid is home
    assert confidence.grid is home
    assert len(found.ids) > 1


@pytest.mark.parametrize("shift", [(0.5, 0, 0), (0.5, 0.5, 0), (0.5, 0.5, 0.5), (-0.5, 0.25, 0.5), (0.1, 0.2, 0.3)])
def test_ties_go_to_the_lowest_label_as_in_the_oracle(shift):
    rng = np.random.default_rng(3)
    labels = LabelMap(rng.choice([0, 4, 11, 207], size=(7, 8, 9)), TEMPLATE)
    share = Volume(np.ones((7, 8, 9)), TEMPLATE)
    template_from_home = _turned((0, 0, 0), 1, shift)
    found, confidence = labels_to_home(labels, share, TEMPLATE, template_from_home)
    wanted, wanted_confidence = _oracle(labels, share, TEMPLATE, template_from_home)
    np.testing.assert_array_equal(found.data, wanted)
    np.testing.assert_allclose(confidence.data, wanted_confidence, atol=1e-6)


def test_one_row_by_eye():
    row = axis_aligned_grid((4, 1, 1), 1.0, (0, 0, 0))
    labels = LabelMap(np.array([7, 7, 3, 5], np.uint8).reshape(4, 1, 1), row)
    share = Volume(np.array([1, 0.5, 0.75, 1]).reshape(4, 1, 1), row)
    home = axis_aligned_grid((8, 1, 1), 0.5, (-0.25, 0, 0))
    found, confidence = labels_to_home(labels, share, home, np.eye(4))
    assert found.data.ravel().tolist() == [7, 7, 7, 7, 3, 3, 5, 5]
    wanted = [0.75, 0.875, 0.625, 0.375, 0.5625, 0.5625, 0.75, 0.75]
    assert confidence.data.ravel().tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("method", ["vote", "nearest"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_identity_is_exact_in_spite_of_rounding(method, dtype, oblique_grid):
    labels, share = _patches(4, dtype)
    labels, share = LabelMap(labels.data, oblique_grid), Volume(share.data, oblique_grid)
    there = _turned((33, 21, -7), 0.77, (5.1, 7.3, -3.7))
    home = Grid(oblique_grid.shape, np.linalg.inv(there) @ oblique_grid.ras_from_voxel)
    found, confidence = labels_to_home(labels, share, home, there)
    np.testing.assert_array_equal(found.data, labels.data)
    np.testing.assert_array_equal(confidence.data, share.data)
    assert found.data.dtype == dtype


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_turned_axes_carry_every_voxel_along(flip):
    labels, share = _patches(5)
    matrix = np.diag([*flip, 1.0])[[1, 2, 0, 3]]
    matrix[:3, 3] = [TEMPLATE.center_ras_mm[a] for a in range(3)]
    home = Grid((11, 11, 11), matrix @ np.array([[1, 0, 0, -5], [0, 1, 0, -5], [0, 0, 1, -5], [0, 0, 0, 1]]))
    shift = np.eye(4)
    shift[:3, 3] = transform_points(TEMPLATE.ras_from_voxel, [[3, 4, 4]])[0] - TEMPLATE.center_ras_mm
    found, confidence = labels_to_home(labels, share, home, shift)
    for value in (4, 11, 207):
        assert (found.data == value).sum() == (labels.data == value).sum()
    assert (1 - confidence.data).sum() == pytest.approx((1 - share.data).sum(), rel=1e-5)


@pytest.mark.parametrize("method", ["vote", "nearest"])
def test_outside_the_template_is_sure_background(method):
    labels = LabelMap(np.full((7, 8, 9), 4, np.uint8), TEMPLATE)
    share = Volume(np.full((7, 8, 9), 0.5), TEMPLATE)
    home = axis_aligned_grid((3, 3, 3), 1.0, (100, 100, 100))
    found, confidence = labels_to_home(labels, share, home, np.eye(4), method)
    assert not found.data.any()
    assert (confidence.data == 1).all()


def test_an_empty_template_gives_sure_background(oblique_grid):
    labels, share = LabelMap(np.zeros((7, 8, 9), np.uint8), TEMPLATE), Volume(np.ones((7, 8, 9)), TEMPLATE)
    found, confidence = labels_to_home(labels, share, oblique_grid, np.eye(4))
    assert not found.data.any()
    assert (confidence.data == 1).all()


def test_nearest_home_picks_label_and_share_of_one_voxel():
    labels, share = _patches(6)
    shift = _turned((0, 0, 0), 1, (0.4, -0.3, 0.2))
    found, confidence = labels_to_home(labels, share, TEMPLATE, shift, "nearest")
    np.testing.assert_array_equal(found.data, labels.data)
    np.testing.assert_array_equal(confidence.data, share.data)


def test_several_slabs_join_without_a_seam(monkeypatch, oblique_grid):
    labels, share = _patches(7)
    whole = labels_to_home(labels, share, oblique_grid, MAPS[2])
    monkeypatch.setattr("slant.resample._SLAB_VOXELS", 100)
    pieces = labels_to_home(labels, share, oblique_grid, MAPS[2])
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_array_equal(one.data, other.data)


def test_picking_finds_the_nearest_voxel(oblique_grid):
    labels, _ = _patches(8)
    picked = pick_labels(labels, oblique_grid, MAPS[3])
    for voxel in np.ndindex(oblique_grid.shape):
        ras = transform_points(MAPS[3] @ oblique_grid.ras_from_voxel, [voxel])
        at = np.floor(transform_points(TEMPLATE.voxel_from_ras, ras)[0] + 0.5).astype(int)
        inside = (at >= 0).all() and (at < TEMPLATE.shape).all()
        assert picked.data[voxel] == (labels.data[tuple(at)] if inside else 0)
    assert picked.grid is oblique_grid


def test_picking_never_makes_a_new_label(oblique_grid):
    labels, _ = _patches(9)
    assert set(pick_labels(labels, oblique_grid, MAPS[2]).ids) <= set(labels.ids) | {0}


def test_halfway_picks_the_higher_index():
    labels = LabelMap(np.arange(504, dtype=np.int16).reshape(7, 8, 9), TEMPLATE)
    picked = pick_labels(labels, TEMPLATE, _turned((0, 0, 0), 1, (0.5, 0.5 - 1e-12, 0)))
    np.testing.assert_array_equal(picked.data[:-1, :-1], labels.data[1:, 1:])


@pytest.mark.parametrize("order", [0, 1, 3])
def test_the_same_place_is_the_same_data(oblique_grid, order):
    volume = Volume(FIELD, oblique_grid)
    there = _turned((3, 2, 1), 0.9, (0.1, 0.2, 0.3))
    home = Grid(oblique_grid.shape, np.linalg.inv(there) @ oblique_grid.ras_from_voxel)
    same = resample(volume, home, source_from_target=there, order=order)
    np.testing.assert_array_equal(same.data, volume.data)
    assert same.grid is home
    assert not np.shares_memory(same.data, volume.data)


def test_a_field_that_is_linear_in_the_world_stays_so(oblique_grid):
    def field(grid: Grid, matrix: np.ndarray) -> np.ndarray:
        places = transform_points(matrix @ grid.ras_from_voxel, np.argwhere(np.ones(grid.shape)))
        return (places @ [1.0, -2.0, 0.5] + 3).reshape(grid.shape)

    wide = axis_aligned_grid((40, 41, 42), 1.5, (-30, -31, -32))
    small = Grid((5, 6, 7), _turned((10, 20, 30), 0.5, (1, 2, 3)))
    found = resample(Volume(field(wide, np.eye(4)), wide), small, source_from_target=MAPS[3])
    np.testing.assert_allclose(found.data, field(small, MAPS[3]), atol=1e-4)


def test_outside_is_zero_and_the_border_kept():
    volume = Volume(np.full((7, 8, 9), 6.0), TEMPLATE)
    wider = axis_aligned_grid((9, 10, 11), 1.0, (-4, -5, -6 + 1e-12))
    found = resample(volume, wider)
    assert (found.data[1:-1, 1:-1, 1:-1] == 6).all()
    assert found.data.sum() == pytest.approx(6 * 504)


def test_an_unknown_order_is_refused():
    with pytest.raises(SettingsError, match="0 to 5, found 6"):
        resample(Volume(FIELD, TEMPLATE), TEMPLATE, order=6)


def test_an_unknown_way_home_is_refused():
    with pytest.raises(SettingsError, match="'vote' or 'nearest', found 'linear'"):
        labels_to_home(*_patches(1), TEMPLATE, np.eye(4), "linear")  # type: ignore[arg-type]


def test_labels_and_share_from_two_grids_are_refused(oblique_grid):
    labels, share = _patches(1)
    with pytest.raises(GeometryError, match="not on the labels' grid"):
        labels_to_home(labels, Volume(share.data, oblique_grid), TEMPLATE, np.eye(4))
