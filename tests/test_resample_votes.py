"""Votes in native space agree with exact fractions, voxel by voxel, on oblique, left-handed grids."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from affines import MAPS, TEMPLATE, affine, centered, voxels_around
from small_visits import certain_votes

from slant import resample_votes as module
from slant.errors import GeometryError, SettingsError
from slant.grid import Grid, axis_aligned_grid, transform_points
from slant.resample import label_sampler
from slant.resample_votes import resample_votes
from slant.sparse_votes import KEPT, SparseVotes, most_frequent
from slant.volume import LabelMap


def _votes(seed: int) -> SparseVotes:
    """Blocks in which all votes agree, half of them background, and voxels with other votes, more than are kept."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.choice([0, 0, 0, 4, 11, 207], size=(3, 3, 3)), np.ones((3, 3, 3), int))[:7, :8, :9].ravel()
    others = rng.choice([0, 4, 11, 60, 99, 207], size=(6, blocks.size))
    channels = np.where(rng.random(blocks.size) < 0.5, blocks, others).astype(np.uint8)
    weights = rng.integers(1, 10, channels.shape, dtype=np.uint8)
    channels, counts = (part.reshape(*TEMPLATE.shape, KEPT) for part in most_frequent(channels, KEPT, weights))
    return SparseVotes(channels, counts, weights.sum(axis=0, dtype=np.uint8).reshape(TEMPLATE.shape))


def _votes_of(*voxels: dict[int, int]) -> SparseVotes:
    """A row of voxels with these votes for each channel, from the most frequent one."""
    arrays = np.zeros((2, len(voxels), 1, 1, KEPT), np.uint8)
    for i, voxel in enumerate(voxels):
        arrays[:, i, 0, 0, : len(voxel)] = [*voxel.keys()], [*voxel.values()]
    return SparseVotes(*arrays, arrays[1].sum(axis=-1, dtype=np.uint8))


def _oracle(
    votes: SparseVotes, grid: Grid, native_grid: Grid, template_from_native: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Channel with the largest interpolated fraction, and this fraction, one voxel at a time."""
    winners, largest = np.zeros(native_grid.shape, int), np.zeros(native_grid.shape)
    for voxel in np.ndindex(native_grid.shape):
        parts: Counter[int] = Counter()
        for index, weight in voxels_around(grid, template_from_native @ native_grid.ras_from_voxel, voxel):
            if index is None:
                parts[0] += weight
                continue
            for channel, count in zip(votes.channels[index].tolist(), votes.counts[index].tolist(), strict=True):
                parts[channel] += weight * Fraction(count, int(votes.totals[index]))
        winners[voxel] = max(parts, key=lambda channel: (parts[channel], -channel))
        largest[voxel] = float(parts[int(winners[voxel])])
    return winners, largest


def _assert_exact(votes: SparseVotes, native_grid: Grid, template_from_native: np.ndarray) -> None:
    channels, fraction = resample_votes(votes, TEMPLATE, native_grid, template_from_native)
    expected, expected_fraction = _oracle(votes, TEMPLATE, native_grid, template_from_native)
    np.testing.assert_array_equal(channels, expected)
    np.testing.assert_allclose(fraction, expected_fraction, atol=1e-6)
    assert (channels.dtype, fraction.dtype) == (np.uint8, np.float32)
    assert fraction.max() <= 1
    assert len(np.unique(channels)) > 2


@pytest.mark.parametrize("number", range(len(MAPS)))
@pytest.mark.parametrize("seed", [1, 2])
def test_interpolated_votes_agree_with_the_oracle_on_an_oblique_grid(oblique_grid, number, seed):
    _assert_exact(_votes(seed), centered(oblique_grid, (11, 9, 6)), MAPS[number])


@pytest.mark.parametrize("shift", [(0.5, 0, 0), (0.5, 0.5, 0), (0.5, 0.5, 0.5), (-0.5, 0.25, 0.5), (0.1, 0.2, 0.3)])
def test_ties_go_to_the_lowest_channel_as_in_the_oracle(shift):
    """Between voxels with one vote each there are many ties."""
    channels = np.random.default_rng(3).choice([0, 4, 11, 207], size=TEMPLATE.shape)
    _assert_exact(certain_votes(channels), TEMPLATE, affine((0, 0, 0), 1, shift))


def test_interpolated_votes_of_one_row():
    votes = _votes_of({7: 1}, {3: 1, 7: 1}, {3: 3, 5: 1}, {5: 1})
    row, native_grid = axis_aligned_grid((4, 1, 1), 1.0, (0, 0, 0)), axis_aligned_grid((8, 1, 1), 0.5, (-0.25, 0, 0))
    channels, fraction = resample_votes(votes, row, native_grid, np.eye(4))
    assert channels.ravel().tolist() == [7, 7, 7, 3, 3, 3, 5, 5]
    assert fraction.ravel().tolist() == pytest.approx([0.75, 0.875, 0.625, 0.5625, 0.6875, 0.5625, 0.8125, 0.75])


def test_a_channel_that_is_second_in_all_voxels_around_a_point_can_win_there():
    """A vote of the winners of the voxels would know nothing of it."""
    votes = _votes_of({1: 5, 6: 4}, {3: 5, 6: 4}, {1: 5, 6: 4})
    row, between = axis_aligned_grid((3, 1, 1), 1.0, (0, 0, 0)), axis_aligned_grid((2, 1, 1), 1.0, (0.5, 0, 0))
    channels, fraction = resample_votes(votes, row, between, np.eye(4))
    assert channels.ravel().tolist() == [6, 6]
    assert fraction.ravel().tolist() == pytest.approx([4 / 9, 4 / 9])
    assert label_sampler(LabelMap(votes.winners, row))(between).data.ravel().tolist() == [1, 1]


def test_narrow_winners_count_less_than_sure_ones():
    votes = _votes_of({8: 255}, {1: 128, 8: 127})
    row, near = axis_aligned_grid((2, 1, 1), 1.0, (0, 0, 0)), axis_aligned_grid((1, 1, 1), 1.0, (0.9, 0, 0))
    channels, fraction = resample_votes(votes, row, near, np.eye(4))
    assert channels.item() == 8
    assert fraction.item() == pytest.approx(0.1 + 0.9 * 127 / 255)
    assert label_sampler(LabelMap(votes.winners, row))(near).data.item() == 1


@pytest.mark.parametrize("method", ["multilabel", "nearest"])
def test_identity_is_exact_in_spite_of_rounding(method, oblique_grid):
    votes, template_from_native = _votes(4), affine((33, 21, -7), 0.77, (5.1, 7.3, -3.7))
    native_grid = Grid(oblique_grid.shape, np.linalg.inv(template_from_native) @ oblique_grid.ras_from_voxel)
    channels, fraction = resample_votes(votes, oblique_grid, native_grid, template_from_native, method)
    np.testing.assert_array_equal(channels, votes.winners)
    np.testing.assert_array_equal(fraction, votes.fraction)


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_permuted_and_flipped_axes_preserve_every_voxel(flip):
    votes = _votes(5)
    matrix = np.diag([*flip, 1.0])[[1, 2, 0, 3]]
    matrix[:3, 3] = [TEMPLATE.center_ras_mm[a] for a in range(3)]
    native_grid = Grid((11, 11, 11), matrix @ np.array([[1, 0, 0, -5], [0, 1, 0, -5], [0, 0, 1, -5], [0, 0, 0, 1]]))
    shift = np.eye(4)
    shift[:3, 3] = transform_points(TEMPLATE.ras_from_voxel, [[3, 4, 4]])[0] - TEMPLATE.center_ras_mm
    channels, fraction = resample_votes(votes, TEMPLATE, native_grid, shift)
    outside = np.zeros(11**3 - votes.winners.size)
    np.testing.assert_array_equal(np.sort(channels, axis=None), np.sort([*outside, *votes.winners.ravel()]))
    np.testing.assert_array_equal(np.sort(fraction, axis=None), np.sort([*outside + 1, *votes.fraction.ravel()]))


@pytest.mark.parametrize("method", ["multilabel", "nearest"])
def test_outside_the_template_is_background_with_fraction_one(method):
    native_grid = axis_aligned_grid((3, 3, 3), 1.0, (100, 100, 100))
    half = SparseVotes(*np.full((2, *TEMPLATE.shape, KEPT), 4, np.uint8), np.full(TEMPLATE.shape, 16, np.uint8))
    channels, fraction = resample_votes(half, TEMPLATE, native_grid, np.eye(4), method)
    assert not channels.any()
    assert (fraction == 1).all()


def test_an_empty_template_gives_background_with_fraction_one(oblique_grid):
    channels, fraction = resample_votes(certain_votes(np.zeros(TEMPLATE.shape)), TEMPLATE, oblique_grid, np.eye(4))
    assert not channels.any()
    assert (fraction == 1).all()


def test_nearest_interpolation_takes_channel_and_fraction_of_one_voxel():
    votes, shift = _votes(6), affine((0, 0, 0), 1, (0.4, -0.3, 0.2))
    channels, fraction = resample_votes(votes, TEMPLATE, TEMPLATE, shift, "nearest")
    np.testing.assert_array_equal(channels, votes.winners)
    np.testing.assert_array_equal(fraction, votes.fraction)


def test_slabs_and_blocks_join_without_a_seam(monkeypatch, oblique_grid):
    whole = resample_votes(_votes(7), TEMPLATE, oblique_grid, MAPS[2])
    monkeypatch.setattr("slant.resample._SLAB_VOXELS", 100)
    monkeypatch.setattr(module, "BLOCK", 7)
    in_parts = resample_votes(_votes(7), TEMPLATE, oblique_grid, MAPS[2])
    assert [array.tobytes() for array in whole] == [array.tobytes() for array in in_parts]


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(SettingsError, match="'multilabel' or 'nearest', found 'linear'"):
        resample_votes(_votes(1), TEMPLATE, TEMPLATE, np.eye(4), "linear")


@pytest.mark.parametrize("method", ["multilabel", "nearest"])
def test_votes_that_are_not_on_the_template_grid_are_refused(method):
    votes = _votes(1)
    with pytest.raises(GeometryError, match=r"votes on \(7, 8, 9\) voxels of 1 mm are not on .* of \(7, 9, 8\) voxels"):
        resample_votes(votes, axis_aligned_grid((7, 9, 8), 1.0, (0, 0, 0)), TEMPLATE, np.eye(4), method)
    coarse = SparseVotes(votes.channels, votes.counts, votes.totals, 2)
    with pytest.raises(GeometryError, match=r"votes on \(7, 8, 9\) voxels of 2 mm are not on the template grid"):
        resample_votes(coarse, TEMPLATE, TEMPLATE, np.eye(4), method)
