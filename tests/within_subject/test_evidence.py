"""Vote fractions are interpolated, added up and measured as plain loops over the voxels do."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from small_visits import certain_votes, random_votes

from slant.sparse_votes import KEPT, SparseVotes
from slant.within_subject import evidence as module
from slant.within_subject.evidence import Evidence, weighted_sum

SHAPE = (6, 7, 5)


def coordinates(count: int = 400) -> np.ndarray:
    """(3, N) points in and around the grid; the first ones are voxels."""
    random = np.random.default_rng(9)
    points = random.uniform(-2, 8, (3, count)).astype(np.float32)
    points[:, : count // 4] = np.rint(points[:, : count // 4])
    return points


def by_loops(parts: list[tuple[SparseVotes, np.ndarray, float]], point: int) -> np.ndarray:
    """Sum of the fractions of each channel at one point."""
    sums = np.zeros(256)
    for votes, points, weight in parts:
        at = np.clip(points[:, point].astype(float), 0, np.array(votes.shape) - 1)
        for corner in product((0, 1), repeat=3):
            voxel = np.floor(at).astype(int) + corner
            share = np.prod(np.clip(1 - np.abs(at - voxel), 0, 1))
            if share > 0:
                for channel, count in zip(votes.channels[*voxel], votes.counts[*voxel], strict=True):
                    sums[channel] += weight * share * count / votes.totals[*voxel]
    return sums


@pytest.mark.parametrize("block", [7, 4096])
def test_weighted_sums_agree_with_plain_loops(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    first = coordinates()
    parts = [
        (random_votes(SHAPE, 0), first, 0.5),
        (random_votes(SHAPE, 1), first + np.float32(0.3), 0.3),
        (random_votes(SHAPE, 2), first * np.float32(0.9), 0.2),
    ]
    channels, sums = weighted_sum([(Evidence.of(votes).sampled(points), w) for votes, points, w in parts])
    assert (channels.shape, channels.dtype, sums.dtype) == ((400, KEPT), np.uint8, np.float32)
    for point in range(400):
        expected = by_loops(parts, point)
        largest = np.sort(expected)[::-1][:KEPT]
        np.testing.assert_allclose(sums[point], largest, atol=1e-5)
        np.testing.assert_allclose(expected[channels[point]], sums[point], atol=1e-5)
        used = channels[point][sums[point] > 0]
        assert len(used) == len(set(used.tolist()))


def test_voxels_of_a_single_part_keep_their_votes() -> None:
    votes = random_votes(SHAPE)
    voxels = np.indices(SHAPE).reshape(3, -1).astype(np.float32)
    channels, sums = weighted_sum([(Evidence.of(votes).sampled(voxels), 1.0)])
    np.testing.assert_array_equal(channels.reshape(votes.channels.shape), votes.channels)
    np.testing.assert_array_equal(sums.reshape(votes.counts.shape), votes.counts / np.float32(8))


def test_ties_go_to_the_lowest_channel() -> None:
    one, other = (Evidence.of(certain_votes(np.full(SHAPE, channel))) for channel in (7, 3))
    points = coordinates(20)
    channels, sums = weighted_sum([(one.sampled(points), 0.5), (other.sampled(points), 0.5)])
    np.testing.assert_array_equal(channels, np.tile([3, 7, 0, 0], (20, 1)))
    np.testing.assert_allclose(sums, np.tile([0.5, 0.5, 0, 0], (20, 1)), atol=1e-6)


def test_outside_the_grid_the_nearest_voxels_count() -> None:
    evidence, points = Evidence.of(random_votes(SHAPE)), coordinates()
    nearest = np.clip(points, 0, np.array(SHAPE, np.float32)[:, None] - 1)
    for found, expected in zip(*(weighted_sum([(evidence.sampled(at), 1.0)]) for at in (points, nearest)), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_point_is_agreed_if_all_corners_are_certain_of_one_channel() -> None:
    channels = np.full(SHAPE, 4)
    channels[3:] = 5
    votes = certain_votes(channels)
    votes.channels[0, 0, 0, :2], votes.counts[0, 0, 0], votes.totals[0, 0, 0] = (4, 2), (3, 1, 0, 0), 4
    evidence = Evidence.of(votes)
    assert evidence.certain[0, 0, 0] == 255
    np.testing.assert_array_equal(evidence.certain.ravel()[1:], channels.ravel()[1:])
    points = np.array([[0.5, 0.5, 0.5], [1.5, 0.5, 0.5], [2.0, 1, 1], [2.5, 3, 3], [3.5, 3, 3], [9, 9, 9]], np.float32)
    assert evidence.sampled(points.T).agreed().tolist() == [255, 4, 255, 255, 5, 5]


def test_fractions_that_are_agreed_are_one() -> None:
    evidence = Evidence.of(certain_votes(np.full(SHAPE, 9)))
    channels, sums = weighted_sum([(evidence.sampled(coordinates()), weight) for weight in (0.3, 0.6, 0.1)])
    assert (channels == [9, 0, 0, 0]).all()
    assert (sums == [1, 0, 0, 0]).all()


# Volumes


def border_at(position: float, width: float) -> Evidence:
    """Channel 2 at x below the position and channel 1 above; over the width of the border the fractions change."""
    shape = (24, 3, 2)
    part = np.broadcast_to(np.clip(0.5 + (np.arange(24) - position) / width, 0, 1)[:, None, None], shape)
    channels, fractions = np.zeros((*shape, KEPT), np.uint8), np.zeros((*shape, KEPT), np.float32)
    channels[..., 0], fractions[..., 0] = np.where(part >= 0.5, 1, 2), np.maximum(part, 1 - part)
    second = fractions[..., 0] < 1
    channels[..., 1], fractions[..., 1] = np.where(second, 3 - channels[..., 0], 0), 1 - fractions[..., 0]
    return Evidence(channels, fractions)


@pytest.mark.parametrize("width", [4.0, 8.0, 12.0])
@pytest.mark.parametrize("position", np.linspace(10, 12, 9))
def test_a_border_that_moves_by_a_part_of_a_voxel_changes_the_volumes_in_proportion(
    position: float, width: float
) -> None:
    evidence = border_at(position, width)
    volumes = evidence.volumes(np.ones(evidence.channels.shape[:3], np.bool_))
    assert volumes[2] == pytest.approx(6 * (position + 0.5), abs=1e-4)
    assert volumes[1] == pytest.approx(6 * (23.5 - position), abs=1e-4)
    assert volumes.sum() == pytest.approx(24 * 6)


def test_volumes_of_certain_voxels_are_their_number() -> None:
    channels = np.random.default_rng(0).integers(0, 5, SHAPE)
    inside = np.random.default_rng(1).random(SHAPE) < 0.5
    found = Evidence.of(certain_votes(channels)).volumes(inside)
    np.testing.assert_array_equal(found, np.bincount(channels[inside], minlength=256))


def test_the_sum_of_the_volumes_is_the_number_of_voxels() -> None:
    inside = np.random.default_rng(1).random(SHAPE) < 0.5
    assert Evidence.of(random_votes(SHAPE)).volumes(inside).sum() == pytest.approx(inside.sum())
