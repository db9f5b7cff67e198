"""A share of the votes of the atlases decides between them and the networks."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from atlases_and_networks import mixed

from slant.sparse_votes import KEPT, SparseVotes

SHAPE = (3, 4, 5)


def votes(channel: int, votes_of: int, total: int) -> SparseVotes:
    """The same votes at all voxels: some for a channel, the rest for background."""
    channels, counts = np.zeros((*SHAPE, KEPT), np.uint8), np.zeros((*SHAPE, KEPT), np.uint8)
    channels[..., 0], counts[..., 0], counts[..., 1] = channel, votes_of, total - votes_of
    return SparseVotes(channels, counts, np.full(SHAPE, total, np.uint8))


@pytest.mark.parametrize(
    ("share", "winner", "fraction"), [("0", 5, 1), ("1/3", 5, 2 / 3), ("2/3", 7, 0.6), ("1", 7, 0.9)]
)
def test_the_share_counts_and_not_the_number_of_votes(share: str, winner: int, fraction: float) -> None:
    both = mixed(votes(5, 9, 9), votes(7, 230, 255), Fraction(share))
    assert (both.winners == winner).all()
    np.testing.assert_allclose(both.fraction, fraction, atol=0.01)
