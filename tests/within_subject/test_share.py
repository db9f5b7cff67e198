"""A visit hears what the networks saw in the other visits, at corresponding points."""

from __future__ import annotations

import numpy as np
import pytest
from small_visits import certain_votes, random_votes

from slant.sparse_votes import SparseVotes
from slant.within_subject.deformation import VisitField
from slant.within_subject.share import WEIGHT, shared_evidence

SHAPE = (12, 14, 10)
CELLS = (6, 7, 5)
EVERYWHERE = np.ones(SHAPE, np.bool_)


def field(
    to_template: tuple[float, float, float] = (0, 0, 0), from_template: tuple[float, float, float] = (0, 0, 0)
) -> VisitField:
    """Constant displacements in voxels."""
    parts = (
        np.broadcast_to(np.float16(shift)[:, None, None, None], (3, *CELLS)) for shift in (to_template, from_template)
    )
    return VisitField(*parts)


def winners(index: int, votes: list[SparseVotes], fields: list[VisitField], weight: float) -> np.ndarray:
    return shared_evidence(index, votes, fields, EVERYWHERE, weight).channels[..., 0]


def test_without_weight_a_visit_has_its_own_votes() -> None:
    votes = [random_votes(SHAPE, seed) for seed in range(3)]
    fields = [field((1, 0, -2), (0.3, 1, 0)) for _ in votes]
    for index, own in enumerate(votes):
        found = shared_evidence(index, votes, fields, EVERYWHERE, 0.0)
        np.testing.assert_array_equal(found.channels, own.channels)
        np.testing.assert_array_equal(found.fractions, own.counts / np.float32(8))


@pytest.mark.parametrize("weight", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("count", [2, 3])
def test_copies_keep_their_votes(count: int, weight: float) -> None:
    votes = random_votes(SHAPE)
    found = [shared_evidence(i, [votes] * count, [field()] * count, EVERYWHERE, weight) for i in range(count)]
    for one in found:
        np.testing.assert_array_equal(one.channels[..., 0], votes.channels[..., 0])
        np.testing.assert_allclose(one.fractions, votes.counts / np.float32(8), atol=1e-6)
        assert one.channels.tobytes() == found[0].channels.tobytes()


@pytest.mark.parametrize("weight", [0.25, WEIGHT, 1.0])
def test_the_mean_of_all_visits_has_its_weight(weight: float) -> None:
    votes = [certain_votes(np.full(SHAPE, channel)) for channel in (3, 8, 8)]
    found = shared_evidence(0, votes, [field()] * 3, EVERYWHERE, weight)
    shares = {3: 1 - weight * 2 / 3, 8: weight * 2 / 3}
    first = max(shares, key=lambda channel: shares[channel])
    assert (found.channels[..., 0] == first).all()
    np.testing.assert_allclose(found.fractions[..., 0], shares[first], atol=1e-6)
    np.testing.assert_allclose(found.fractions[..., 1], min(shares.values()), atol=1e-6)


def test_fields_carry_the_labels_of_another_visit() -> None:
    """A point of the first visit is a voxel further along x in the template, then (2, -3, 1) voxels in the second."""
    block = np.zeros(SHAPE, int)
    block[6:9, 3:6, 4:8] = 5
    votes = [certain_votes(np.zeros(SHAPE, int)), certain_votes(block)]
    fields = [field(to_template=(1, 0, 0)), field(from_template=(2, -3, 1))]
    found = shared_evidence(0, votes, fields, EVERYWHERE, 0.5)
    carried = np.where(found.channels == 5, found.fractions, 0).sum(axis=-1)
    expected = np.zeros(SHAPE)
    expected[3:6, 6:9, 3:7] = 0.25
    np.testing.assert_allclose(carried, expected, atol=1e-6)
    assert not (winners(0, votes, fields, 0.5) == 5).any()


def test_the_other_visits_decide_where_a_visit_is_uncertain() -> None:
    uncertain = certain_votes(np.full(SHAPE, 2))
    uncertain.channels[..., 1] = 6
    uncertain.counts[..., :2], uncertain.totals[...] = (9, 7), 16
    votes = [uncertain, certain_votes(np.full(SHAPE, 6))]
    assert (winners(0, votes, [field()] * 2, 0.0) == 2).all()
    assert (winners(0, votes, [field()] * 2, 0.5) == 6).all()
    assert (winners(1, votes, [field()] * 2, 0.5) == 6).all()


def test_votes_on_a_grid_of_2_mm() -> None:
    channels = np.ones(CELLS, int)
    channels[3:], channels[:, 5:] = 2, 4
    votes = certain_votes(channels, voxel_mm=2)
    found = shared_evidence(0, [votes, votes], [field()] * 2, EVERYWHERE, 0.5)
    np.testing.assert_array_equal(found.channels[..., 0], channels.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    # a voxel is a quarter of a cell from the center of its cell
    assert found.fractions[5, 0, 0, :2] == pytest.approx([0.75, 0.25])
    assert found.channels[5, 0, 0, :2].tolist() == [1, 2]


def test_beyond_the_brain_everything_is_background() -> None:
    near = np.zeros(SHAPE, np.bool_)
    near[2:9, 3:8, 1:7] = True
    votes = [random_votes(SHAPE, seed) for seed in range(2)]
    found = shared_evidence(1, votes, [field((0.4, 0, 0))] * 2, near)
    assert (found.channels[~near] == 0).all()
    assert (found.fractions[~near] == [1, 0, 0, 0]).all()
    everywhere = shared_evidence(1, votes, [field((0.4, 0, 0))] * 2, EVERYWHERE)
    np.testing.assert_array_equal(found.channels[near], everywhere.channels[near])
