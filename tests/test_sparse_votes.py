"""The kept channels and counts agree with counting every channel, and arrays of another form are refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from slant.errors import LayoutError
from slant.sparse_votes import KEPT, SparseVotes, most_frequent

SHAPE = (2, 3, 4)


def _ranking(counted: Counter[int]) -> list[tuple[int, int]]:
    """Channels of one voxel with their numbers of votes, most frequent first, ties by the lowest channel."""
    ranked = sorted((+counted).items(), key=lambda item: (-item[1], item[0]))
    return [*ranked, *[(0, 0)] * KEPT][:KEPT]


def _arrays(**changed: np.ndarray) -> dict[str, np.ndarray]:
    arrays = {
        "channels": np.zeros((*SHAPE, KEPT), np.uint8),
        "counts": np.zeros((*SHAPE, KEPT), np.uint8),
        "totals": np.ones(SHAPE, np.uint8),
    }
    return arrays | changed


@pytest.mark.parametrize("highest", [1, 5, 255])
@pytest.mark.parametrize("voters", [1, 2, 3, 7, 27, 255])
def test_the_most_frequent_channels_agree_with_a_counter(voters, highest):
    votes = np.random.default_rng(voters).integers(0, highest + 1, (voters, 50), dtype=np.uint8)
    channels, counts = most_frequent(votes, KEPT)
    assert channels.dtype == counts.dtype == np.uint8
    for column, channel, count in zip(votes.T, channels, counts, strict=True):
        assert list(zip(channel.tolist(), count.tolist(), strict=True)) == _ranking(Counter(column.tolist()))


@pytest.mark.parametrize("highest", [1, 5, 255])
@pytest.mark.parametrize("voters", [1, 2, 3, 7, 54])
def test_the_most_frequent_of_weighted_votes_agree_with_a_counter(voters, highest):
    """Some weights are 0, and in the first voxel, one channel has all 255 votes."""
    rng = np.random.default_rng(voters)
    votes = rng.integers(0, highest + 1, (voters, 50), dtype=np.uint8)
    weights = rng.multinomial(255, np.full(voters, 1 / voters), 50).T * (rng.random((voters, 50)) < 0.7)
    votes[:, 0], weights[:, 0] = highest, 0
    weights[-1, 0] = 255
    channels, counts = most_frequent(votes, KEPT, weights.astype(np.uint8))
    assert channels.dtype == counts.dtype == np.uint8
    for column, weight, channel, count in zip(votes.T, weights.T, channels, counts, strict=True):
        expected: Counter[int] = Counter()
        for vote, number in zip(column.tolist(), weight.tolist(), strict=True):
            expected[vote] += number
        assert list(zip(channel.tolist(), count.tolist(), strict=True)) == _ranking(expected)


def test_most_frequent_of_a_few_votes_by_eye():
    votes = np.array([[9, 5, 255], [4, 5, 0], [9, 5, 255], [4, 5, 0], [7, 5, 255]], np.uint8)
    channels, counts = most_frequent(votes, KEPT)
    assert channels.tolist() == [[4, 9, 7, 0], [5, 0, 0, 0], [255, 0, 0, 0]]
    assert counts.tolist() == [[2, 2, 1, 0], [5, 0, 0, 0], [3, 2, 0, 0]], "channel 0 has two votes in the third voxel"


def test_of_more_than_four_channels_the_lowest_of_a_tie_are_kept():
    channels, counts = most_frequent(np.array([[60], [50], [40], [30], [20], [60]], np.uint8), KEPT)
    assert channels.tolist() == [[60, 20, 30, 40]]
    assert counts.tolist() == [[2, 1, 1, 1]]


def test_fractions_are_counts_divided_by_all_votes():
    votes = SparseVotes(
        np.array([[[[7, 1, 3, 5]]]], np.uint8), np.array([[[[3, 2, 2, 1]]]], np.uint8), np.full((1, 1, 1), 9, np.uint8)
    )
    assert votes.winners.tolist() == [[[7]]]
    assert votes.fraction.tolist() == [[[np.float32(3 / 9)]]]
    channels, fractions = votes.at(np.ix_([0], [0], [0]))
    assert channels.tolist() == votes.channels.tolist()
    assert fractions.dtype == np.float32
    np.testing.assert_array_equal(fractions[0, 0, 0], np.array([3, 2, 2, 1], np.float32) / np.float32(9))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("channels", np.zeros((*SHAPE, 3), np.uint8)),
        ("channels", np.zeros(SHAPE, np.uint8)),
        ("counts", np.zeros((*SHAPE, KEPT), np.uint16)),
        ("counts", np.zeros((2, 3, 5, KEPT), np.uint8)),
        ("totals", np.ones((*SHAPE, 1), np.uint8)),
        ("totals", np.ones(SHAPE, np.float32)),
    ],
)
def test_arrays_of_another_shape_or_dtype_are_refused(name, array):
    with pytest.raises(
        LayoutError, match=rf"{name} of sparse votes must be uint8 of shape \(2, 3, 4.*, found {array.dtype}"
    ):
        SparseVotes(**_arrays(**{name: array}))


def test_voxels_without_a_vote_are_refused():
    totals = np.ones(SHAPE, np.uint8)
    totals[1, 2, 1:3] = 0
    with pytest.raises(LayoutError, match="2 voxels have no vote, expected at least 1"):
        SparseVotes(**_arrays(totals=totals))


@pytest.mark.parametrize("edge", [0, -2, 1.5, True])
def test_an_edge_length_that_is_not_a_positive_integer_is_refused(edge):
    with pytest.raises(LayoutError, match="voxel_mm of sparse votes must be a positive integer, found"):
        SparseVotes(**_arrays(), voxel_mm=edge)
