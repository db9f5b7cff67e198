"""Resampling agrees with a voxel-by-voxel reference implementation on oblique, left-handed grids."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from affines import MAPS, TEMPLATE, affine, centered, voxels_around
from scipy import ndimage

from slant.errors import SettingsError
from slant.grid import Grid, axis_aligned_grid, transform_points
from slant.resample import label_sampler, pick_labels, pick_values, resample, resample_brain
from slant.volume import LabelMap, Volume

FIELD = np.random.default_rng(0).normal(size=(7, 8, 9)).astype(np.float32)


def _patches(seed: int, dtype: type = np.uint8) -> LabelMap:
    """A label map of random blocks, half of them background."""
    coarse = np.random.default_rng(seed).choice([0, 0, 0, 4, 11, 207], size=(3, 3, 3))
    labels = np.kron(coarse, np.ones((3, 3, 3), dtype=int))[:7, :8, :9]
    return LabelMap(labels.astype(dtype), TEMPLATE)


def test_pick_labels_takes_the_nearest_voxel(oblique_grid):
    labels = _patches(8)
    picked = pick_labels(labels, oblique_grid, MAPS[3])
    values = pick_values(labels.data, TEMPLATE, oblique_grid, MAPS[3], outside=1)
    for voxel in np.ndindex(oblique_grid.shape):
        ras = transform_points(MAPS[3] @ oblique_grid.ras_from_voxel, [voxel])
        index = np.floor(transform_points(TEMPLATE.voxel_from_ras, ras)[0] + 0.5).astype(int)
        inside = (index >= 0).all() and (index < TEMPLATE.shape).all()
        assert picked.data[voxel] == (labels.data[tuple(index)] if inside else 0)
        assert values[voxel] == (labels.data[tuple(index)] if inside else 1)
    assert picked.grid is oblique_grid


def test_pick_labels_never_creates_a_new_label(oblique_grid):
    labels = _patches(9)
    assert set(pick_labels(labels, oblique_grid, MAPS[2]).ids) <= set(labels.ids) | {0}


def test_halfway_cases_go_to_the_higher_index():
    labels = LabelMap(np.arange(504, dtype=np.int16).reshape(7, 8, 9), TEMPLATE)
    picked = pick_labels(labels, TEMPLATE, affine((0, 0, 0), 1, (0.5, 0.5 - 1e-12, 0)))
    np.testing.assert_array_equal(picked.data[:-1, :-1], labels.data[1:, 1:])


@pytest.mark.parametrize("order", [0, 1, 3])
def test_coinciding_voxels_keep_their_values(oblique_grid, order):
    volume = Volume(FIELD, oblique_grid)
    source_from_target = affine((3, 2, 1), 0.9, (0.1, 0.2, 0.3))
    native_grid = Grid(oblique_grid.shape, np.linalg.inv(source_from_target) @ oblique_grid.ras_from_voxel)
    same = resample(volume, native_grid, source_from_target=source_from_target, order=order)
    np.testing.assert_array_equal(same.data, volume.data)
    assert same.grid is native_grid
    assert not np.shares_memory(same.data, volume.data)


def test_an_image_that_is_linear_in_world_space_is_interpolated_exactly(oblique_grid):
    def field(grid: Grid, matrix: np.ndarray) -> np.ndarray:
        points = transform_points(matrix @ grid.ras_from_voxel, np.argwhere(np.ones(grid.shape)))
        return (points @ [1.0, -2.0, 0.5] + 3).reshape(grid.shape)

    wide = axis_aligned_grid((40, 41, 42), 1.5, (-30, -31, -32))
    small = Grid((5, 6, 7), affine((10, 20, 30), 0.5, (1, 2, 3)))
    found = resample(Volume(field(wide, np.eye(4)), wide), small, source_from_target=MAPS[3])
    np.testing.assert_allclose(found.data, field(small, MAPS[3]), atol=1e-4)


def test_outside_is_zero_and_border_voxels_keep_their_values():
    volume = Volume(np.full((7, 8, 9), 6.0), TEMPLATE)
    wider = axis_aligned_grid((9, 10, 11), 1.0, (-4, -5, -6 + 1e-12))
    found = resample(volume, wider)
    assert (found.data[1:-1, 1:-1, 1:-1] == 6).all()
    assert found.data.sum() == pytest.approx(6 * 504)


def test_an_unknown_order_is_refused():
    with pytest.raises(SettingsError, match="0 to 5, found 6"):
        resample(Volume(FIELD, TEMPLATE), TEMPLATE, order=6)


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1), (2, 0, 1)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("size_mm", [0.4, 1.0, 2.5])
def test_parallel_axes_give_the_same_nearest_labels(axes, signs, size_mm):
    labels, matrix = _patches(3), np.zeros((4, 4))
    matrix[list(axes), range(3)], matrix[3, 3] = np.array(signs) * size_mm, 1
    matrix[:3, 3] = np.add(TEMPLATE.center_ras_mm, (0.3, -0.5, 0.25)) - matrix[:3, :3] @ (5, 4, 4.5)
    grid = Grid((11, 9, 10), matrix)
    voxels = (TEMPLATE.voxel_from_ras @ matrix @ np.vstack([np.indices(grid.shape).reshape(3, -1), np.ones(990)]))[:3]
    nearest = np.floor(voxels + 0.5 + 1e-9).astype(int)
    inside = ((nearest >= 0) & (nearest < np.array(TEMPLATE.shape)[:, None])).all(axis=0)
    expected = np.where(inside, labels.data[tuple(np.where(inside, nearest, 0))], 0).reshape(grid.shape)
    np.testing.assert_array_equal(pick_labels(labels, grid).data, expected)
    assert inside.any()
    assert pick_labels(labels, grid).data.dtype == labels.data.dtype


def test_a_grid_outside_the_labels_has_none():
    assert not pick_labels(_patches(3), axis_aligned_grid((3, 4, 5), 1.0, (50, 0, 0))).data.any()


# Labels by a vote


def _oracle(labels: LabelMap, grid: Grid) -> np.ndarray:
    """The vote of the eight voxels around each voxel, one voxel at a time."""
    winners = np.zeros(grid.shape, int)
    for voxel in np.ndindex(grid.shape):
        votes: Counter[int] = Counter()
        for index, weight in voxels_around(labels.grid, grid.ras_from_voxel, voxel):
            votes[0 if index is None else int(labels.data[index])] += weight
        winners[voxel] = max(votes, key=lambda label: (votes[label], -label))
    return winners


@pytest.mark.parametrize("matrix", MAPS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_a_sampler_gives_the_labels_of_the_vote(oblique_grid, matrix, dtype):
    labels = _patches(4, dtype)
    sample, wide = label_sampler(labels), centered(oblique_grid, (11, 9, 6))
    for grid in (Grid((9, 7, 8), matrix), Grid((5, 6, 3), matrix), Grid(wide.shape, matrix @ wide.ras_from_voxel)):
        found = sample(grid)
        np.testing.assert_array_equal(found.data, _oracle(labels, grid))
        assert found.data.dtype == dtype
        assert found.grid is grid
        assert len(found.ids) > 1


@pytest.mark.parametrize("shift", [(0.5, 0, 0), (0.5, 0.5, 0), (0.5, 0.5, 0.5), (-0.5, 0.25, 0.5), (0.1, 0.2, 0.3)])
def test_ties_of_the_vote_go_to_the_lowest_label(shift):
    labels = LabelMap(np.random.default_rng(3).choice([0, 4, 11, 207], size=(7, 8, 9)), TEMPLATE)
    grid = Grid(TEMPLATE.shape, affine((0, 0, 0), 1, shift) @ TEMPLATE.ras_from_voxel)
    np.testing.assert_array_equal(label_sampler(labels)(grid).data, _oracle(labels, grid))


def test_slabs_of_the_vote_join_without_a_seam(monkeypatch, oblique_grid):
    sample = label_sampler(_patches(7))
    whole = sample(oblique_grid)
    monkeypatch.setattr("slant.resample._SLAB_VOXELS", 100)
    np.testing.assert_array_equal(sample(oblique_grid).data, whole.data)


def test_the_vote_is_background_outside_and_where_there_are_no_labels(oblique_grid):
    assert not label_sampler(_patches(3))(axis_aligned_grid((3, 4, 5), 1.0, (50, 0, 0))).data.any()
    assert not label_sampler(LabelMap(np.zeros((7, 8, 9), np.uint8), TEMPLATE))(oblique_grid).data.any()


# Brains


def _head() -> tuple[Volume, LabelMap]:
    """A smooth head on an oblique grid of 48 x 50 x 44 voxels, and a mask in one corner of it."""
    rng = np.random.default_rng(11)
    values = ndimage.gaussian_filter(rng.random((48, 50, 44)), 1.5)
    grid = Grid(values.shape, affine((5, -8, 12), 1, (-20, -22, -18)))
    mask = np.zeros(values.shape, np.uint8)
    mask[2:9, 3:8, 1:7] = 1
    return Volume(100 * (values - values.min()) / np.ptp(values), grid), LabelMap(mask, grid)


def test_a_brain_is_interpolated_by_cubic_splines_as_the_whole_scan_would_be():
    scan, mask = _head()
    grid = axis_aligned_grid((60, 60, 60), 0.9, (-27, -27, -27))
    found = resample_brain(scan, mask, grid, source_from_target=np.eye(4))
    whole, linear = (resample(scan, grid, order=order) for order in (3, 1))
    inside = pick_labels(mask, grid).data != 0
    assert inside.sum() > 200
    np.testing.assert_allclose(found.data[inside], whole.data[inside], atol=1e-3)
    assert np.abs(found.data - linear.data)[inside].max() > 1
    assert (found.data == 0).mean() > 0.5, "far from the brain nothing is resampled"


def test_values_of_a_brain_stay_between_those_of_the_scan():
    scan, mask = _head()
    step = Volume(np.where(np.arange(48)[:, None, None] < 5, 0, 100) + np.zeros(scan.data.shape), scan.grid)
    fine = scan.grid.with_voxels_mm(0.4)
    spline = resample(step, fine, order=3).data
    assert spline.min() < -5
    found = resample_brain(step, mask, fine, source_from_target=np.eye(4)).data
    assert (found.min(), found.max()) == (0, 100)


def test_no_brain_is_an_empty_image():
    scan, mask = _head()
    empty = LabelMap(np.zeros_like(mask.data), mask.grid)
    assert not resample_brain(scan, empty, TEMPLATE, source_from_target=np.eye(4)).data.any()
