"""Resampling agrees with a voxel-by-voxel reference implementation on oblique, left-handed grids."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from slant.errors import GeometryError, SettingsError
from slant.grid import Grid, axis_aligned_grid, transform_points
from slant.resample import label_sampler, pick_labels, resample, resample_labels
from slant.volume import LabelMap, Volume

TEMPLATE = axis_aligned_grid((7, 8, 9), 1.0, (-3, -4, -5))
FIELD = np.random.default_rng(0).normal(size=(7, 8, 9)).astype(np.float32)


def _affine(
    angles_deg: tuple[float, float, float], scale: float, translation_mm: tuple[float, float, float]
) -> np.ndarray:
    matrix = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        one, other = [a for a in range(3) if a != axis]
        rotation = np.eye(4)
        rotation[[one, one, other, other], [one, other, one, other]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        matrix = rotation @ matrix
    matrix[:3] *= scale
    matrix[:3, 3] = translation_mm
    return matrix


MAPS = [
    np.eye(4),
    _affine((0, 0, 0), 1, (0.5, -0.5, 1.5)),
    _affine((10, -20, 30), 0.7, (0.3, 0.2, -0.4)),
    _affine((-5, 40, 15), 1.3, (1, -2, 0.1)),
]


def _patches(seed: int, dtype: type = np.uint8) -> tuple[LabelMap, Volume]:
    """A label map of random blocks, half of them background, with a vote fraction of 1 in about half the voxels."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 0, 0, 4, 11, 207], size=(3, 3, 3))
    labels = np.kron(coarse, np.ones((3, 3, 3), dtype=int))[:7, :8, :9]
    fraction = np.where(rng.random((7, 8, 9)) < 0.5, 1, rng.integers(1, 27, (7, 8, 9)) / 27)
    return LabelMap(labels.astype(dtype), TEMPLATE), Volume(fraction, TEMPLATE)


def _oracle(
    labels: LabelMap, fraction: Volume, native_grid: Grid, template_from_native: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The vote of the eight corners, one voxel at a time."""
    winners, confidence = np.zeros(native_grid.shape, int), np.zeros(native_grid.shape)
    for voxel in np.ndindex(native_grid.shape):
        ras = transform_points(template_from_native @ native_grid.ras_from_voxel, [voxel])
        point = np.round(transform_points(labels.grid.voxel_from_ras, ras)[0], 9)
        votes: dict[int, float] = {}
        confidences: dict[int, float] = {}
        for corner in product((0, 1), repeat=3):
            index = np.floor(point).astype(int) + corner
            weight = float(np.prod(1 - np.abs(point - index)))
            inside = (index >= 0).all() and (index < labels.grid.shape).all()
            label = int(labels.data[tuple(index)]) if inside else 0
            votes[label] = votes.get(label, 0.0) + weight
            own = float(fraction.data[tuple(index)]) if inside else 1.0
            confidences[label] = confidences.get(label, 0.0) + weight * own
        largest = max(votes.values())
        winners[voxel] = min(label for label, weight in votes.items() if weight > largest - 1e-9)
        confidence[voxel] = confidences[winners[voxel]]
    return winners, confidence


@pytest.mark.parametrize("number", range(len(MAPS)))
@pytest.mark.parametrize("seed", [1, 2])
def test_multilabel_interpolation_agrees_with_the_oracle_on_an_oblique_grid(oblique_grid, number, seed):
    labels, fraction = _patches(seed)
    matrix = oblique_grid.ras_from_voxel.copy()
    matrix[:3, 3] -= oblique_grid.center_ras_mm
    native_grid = Grid((11, 9, 6), matrix)
    found, confidence = resample_labels(labels, fraction, native_grid, MAPS[number])
    expected, expected_confidence = _oracle(labels, fraction, native_grid, MAPS[number])
    np.testing.assert_array_equal(found.data, expected)
    np.testing.assert_allclose(confidence.data, expected_confidence, atol=1e-6)
    assert found.data.dtype == np.uint8
    assert confidence.data.dtype == np.float32
    assert found.grid is native_grid
    assert confidence.grid is native_grid
    assert len(found.ids) > 1


@pytest.mark.parametrize("shift", [(0.5, 0, 0), (0.5, 0.5, 0), (0.5, 0.5, 0.5), (-0.5, 0.25, 0.5), (0.1, 0.2, 0.3)])
def test_ties_go_to_the_lowest_label_as_in_the_oracle(shift):
    rng = np.random.default_rng(3)
    labels = LabelMap(rng.choice([0, 4, 11, 207], size=(7, 8, 9)), TEMPLATE)
    fraction = Volume(np.ones((7, 8, 9)), TEMPLATE)
    template_from_native = _affine((0, 0, 0), 1, shift)
    found, confidence = resample_labels(labels, fraction, TEMPLATE, template_from_native)
    expected, expected_confidence = _oracle(labels, fraction, TEMPLATE, template_from_native)
    np.testing.assert_array_equal(found.data, expected)
    np.testing.assert_allclose(confidence.data, expected_confidence, atol=1e-6)


def test_multilabel_interpolation_of_one_row():
    row = axis_aligned_grid((4, 1, 1), 1.0, (0, 0, 0))
    labels = LabelMap(np.array([7, 7, 3, 5], np.uint8).reshape(4, 1, 1), row)
    fraction = Volume(np.array([1, 0.5, 0.75, 1]).reshape(4, 1, 1), row)
    native_grid = axis_aligned_grid((8, 1, 1), 0.5, (-0.25, 0, 0))
    found, confidence = resample_labels(labels, fraction, native_grid, np.eye(4))
    assert found.data.ravel().tolist() == [7, 7, 7, 7, 3, 3, 5, 5]
    expected = [0.75, 0.875, 0.625, 0.375, 0.5625, 0.5625, 0.75, 0.75]
    assert confidence.data.ravel().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("method", ["multilabel", "nearest"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_identity_is_exact_in_spite_of_rounding(method, dtype, oblique_grid):
    labels, fraction = _patches(4, dtype)
    labels, fraction = LabelMap(labels.data, oblique_grid), Volume(fraction.data, oblique_grid)
    template_from_native = _affine((33, 21, -7), 0.77, (5.1, 7.3, -3.7))
    native_grid = Grid(oblique_grid.shape, np.linalg.inv(template_from_native) @ oblique_grid.ras_from_voxel)
    found, confidence = resample_labels(labels, fraction, native_grid, template_from_native)
    np.testing.assert_array_equal(found.data, labels.data)
    np.testing.assert_array_equal(confidence.data, fraction.data)
    assert found.data.dtype == dtype


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_permuted_and_flipped_axes_preserve_every_voxel(flip):
    labels, fraction = _patches(5)
    matrix = np.diag([*flip, 1.0])[[1, 2, 0, 3]]
    matrix[:3, 3] = [TEMPLATE.center_ras_mm[a] for a in range(3)]
    native_grid = Grid((11, 11, 11), matrix @ np.array([[1, 0, 0, -5], [0, 1, 0, -5], [0, 0, 1, -5], [0, 0, 0, 1]]))
    shift = np.eye(4)
    shift[:3, 3] = transform_points(TEMPLATE.ras_from_voxel, [[3, 4, 4]])[0] - TEMPLATE.center_ras_mm
    found, confidence = resample_labels(labels, fraction, native_grid, shift)
    for value in (4, 11, 207):
        assert (found.data == value).sum() == (labels.data == value).sum()
    assert (1 - confidence.data).sum() == pytest.approx((1 - fraction.data).sum(), rel=1e-5)


@pytest.mark.parametrize("method", ["multilabel", "nearest"])
def test_outside_the_template_is_background_with_confidence_one(method):
    labels = LabelMap(np.full((7, 8, 9), 4, np.uint8), TEMPLATE)
    fraction = Volume(np.full((7, 8, 9), 0.5), TEMPLATE)
    native_grid = axis_aligned_grid((3, 3, 3), 1.0, (100, 100, 100))
    found, confidence = resample_labels(labels, fraction, native_grid, np.eye(4), method)
    assert not found.data.any()
    assert (confidence.data == 1).all()


def test_an_empty_template_gives_background_with_confidence_one(oblique_grid):
    labels, fraction = LabelMap(np.zeros((7, 8, 9), np.uint8), TEMPLATE), Volume(np.ones((7, 8, 9)), TEMPLATE)
    found, confidence = resample_labels(labels, fraction, oblique_grid, np.eye(4))
    assert not found.data.any()
    assert (confidence.data == 1).all()


def test_nearest_interpolation_takes_label_and_vote_fraction_of_one_voxel():
    labels, fraction = _patches(6)
    shift = _affine((0, 0, 0), 1, (0.4, -0.3, 0.2))
    found, confidence = resample_labels(labels, fraction, TEMPLATE, shift, "nearest")
    np.testing.assert_array_equal(found.data, labels.data)
    np.testing.assert_array_equal(confidence.data, fraction.data)


def test_several_slabs_join_without_a_seam(monkeypatch, oblique_grid):
    labels, fraction = _patches(7)
    whole = resample_labels(labels, fraction, oblique_grid, MAPS[2])
    monkeypatch.setattr("slant.resample._SLAB_VOXELS", 100)
    in_slabs = resample_labels(labels, fraction, oblique_grid, MAPS[2])
    for one, other in zip(whole, in_slabs, strict=True):
        np.testing.assert_array_equal(one.data, other.data)


def test_pick_labels_takes_the_nearest_voxel(oblique_grid):
    labels, _ = _patches(8)
    picked = pick_labels(labels, oblique_grid, MAPS[3])
    for voxel in np.ndindex(oblique_grid.shape):
        ras = transform_points(MAPS[3] @ oblique_grid.ras_from_voxel, [voxel])
        index = np.floor(transform_points(TEMPLATE.voxel_from_ras, ras)[0] + 0.5).astype(int)
        inside = (index >= 0).all() and (index < TEMPLATE.shape).all()
        assert picked.data[voxel] == (labels.data[tuple(index)] if inside else 0)
    assert picked.grid is oblique_grid


def test_pick_labels_never_creates_a_new_label(oblique_grid):
    labels, _ = _patches(9)
    assert set(pick_labels(labels, oblique_grid, MAPS[2]).ids) <= set(labels.ids) | {0}


def test_halfway_cases_go_to_the_higher_index():
    labels = LabelMap(np.arange(504, dtype=np.int16).reshape(7, 8, 9), TEMPLATE)
    picked = pick_labels(labels, TEMPLATE, _affine((0, 0, 0), 1, (0.5, 0.5 - 1e-12, 0)))
    np.testing.assert_array_equal(picked.data[:-1, :-1], labels.data[1:, 1:])


@pytest.mark.parametrize("order", [0, 1, 3])
def test_coinciding_voxels_keep_their_values(oblique_grid, order):
    volume = Volume(FIELD, oblique_grid)
    source_from_target = _affine((3, 2, 1), 0.9, (0.1, 0.2, 0.3))
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
    small = Grid((5, 6, 7), _affine((10, 20, 30), 0.5, (1, 2, 3)))
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


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(SettingsError, match="'multilabel' or 'nearest', found 'linear'"):
        resample_labels(*_patches(1), TEMPLATE, np.eye(4), "linear")  # type: ignore[arg-type]


def test_labels_and_vote_fraction_on_different_grids_are_refused(oblique_grid):
    labels, fraction = _patches(1)
    with pytest.raises(GeometryError, match="not on the labels' grid"):
        resample_labels(labels, Volume(fraction.data, oblique_grid), TEMPLATE, np.eye(4))


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1), (2, 0, 1)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("size_mm", [0.4, 1.0, 2.5])
def test_parallel_axes_give_the_same_nearest_labels(axes, signs, size_mm):
    labels, matrix = _patches(3)[0], np.zeros((4, 4))
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
    assert not pick_labels(_patches(3)[0], axis_aligned_grid((3, 4, 5), 1.0, (50, 0, 0))).data.any()


@pytest.mark.parametrize("matrix", MAPS)
def test_a_sampler_gives_the_labels_of_the_vote(matrix):
    labels, ones = _patches(4)[0], Volume(np.ones(TEMPLATE.shape), TEMPLATE)
    sample = label_sampler(labels)
    for shape in ((9, 7, 8), (5, 6, 3)):
        grid = Grid(shape, matrix)
        np.testing.assert_array_equal(sample(grid).data, resample_labels(labels, ones, grid, np.eye(4))[0].data)
