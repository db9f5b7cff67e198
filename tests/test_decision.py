"""The decision of several assemblies agrees with exact fractions, voxel by voxel."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import product
from math import floor

import numpy as np
import pytest

from slant import decision
from slant.decision import decide
from slant.errors import LayoutError
from slant.sparse_votes import KEPT, SparseVotes
from slant.tiles import TileLayout
from slant.vote import VoteCounter

SHAPE = (12, 6, 18)


def _votes(shape, voxel_mm: int, seed: int, highest: int = 5, structured: bool = False) -> SparseVotes:
    """Votes of the tiles of a layout on the grid of an assembly; structured ones mostly agree, as those of networks."""
    x, y, z = (n // voxel_mm for n in shape)
    layout = TileLayout((x, y, z), (max(1, x - 1), max(1, y - 1), max(1, z - 1)), (2, 2, 2))
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, highest + 1, (2, 2, 2)), np.ones((x, y, z), int))[::2, ::2, ::2]
    counter = VoteCounter(layout, voxel_mm)
    for tile in layout:
        channels = rng.integers(0, highest + 1, layout.size)
        if structured:
            channels = np.where(rng.random(layout.size) < 0.02, channels, truth[tile.box])
        counter.aggregate(channels.astype(np.uint8), tile)
    return counter.finalize()


def _constant(shape, voxel_mm: int, *entries: tuple[int, int]) -> SparseVotes:
    """The same (channel, count) entries in every voxel."""
    grid = tuple(n // voxel_mm for n in shape)
    channel, count = zip(*[*entries, *[(0, 0)] * KEPT][:KEPT], strict=True)
    full = np.ones((*grid, KEPT), np.uint8)
    total = np.full(grid, sum(count), np.uint8)
    return SparseVotes(full * np.array(channel, np.uint8), full * np.array(count, np.uint8), total, voxel_mm)


def _neighbours(voxel: int, voxel_mm: int, count: int) -> list[tuple[int, Fraction]]:
    """Coarse voxels around a template voxel along an axis with their weights."""
    position = (voxel + Fraction(1, 2)) / voxel_mm - Fraction(1, 2)  # of coarse voxel i: i
    lower = floor(position)
    weights = [(lower, 1 - (position - lower)), (lower + 1, position - lower)]
    return [(min(max(i, 0), count - 1), weight) for i, weight in weights]


def _oracle(votes: list[SparseVotes], shape) -> tuple[np.ndarray, np.ndarray]:
    """The channels with the largest sums and their 255ths of all votes."""
    channels, counts = (np.zeros((*shape, KEPT), np.uint8) for _ in range(2))
    for voxel in np.ndindex(*shape):
        sums: Counter[int] = Counter()
        total = Fraction(0)
        for own in votes:
            axes = [_neighbours(v, own.voxel_mm, n) for v, n in zip(voxel, own.shape, strict=True)]
            for (i, a), (j, b), (k, c) in product(*axes):
                total += a * b * c * int(own.totals[i, j, k])
                for channel, count in zip(own.channels[i, j, k], own.counts[i, j, k], strict=True):
                    sums[int(channel)] += a * b * c * int(count)
        parts = {channel: floor(255 * votes_of / total) for channel, votes_of in sums.items()}
        ranked = sorted(parts, key=lambda channel: (-parts[channel], channel))[:KEPT]
        for k, channel in enumerate(ranked):
            counts[voxel][k] = parts[channel]
            channels[voxel][k] = channel if counts[voxel][k] else 0
    return channels, counts


def _assert_exact(result: SparseVotes, votes: list[SparseVotes], shape) -> None:
    channels, counts = _oracle(votes, shape)
    np.testing.assert_array_equal(result.channels, channels)
    np.testing.assert_array_equal(result.counts, counts)
    assert (result.totals == 255).all()
    assert (result.voxel_mm, result.shape) == (1, shape)


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("edges", [(1,), (2,), (3,), (1, 1), (2, 1), (1, 3, 2)])
def test_the_decision_agrees_with_exact_fractions(edges, structured, monkeypatch):
    monkeypatch.setattr(decision, "SLAB", 5)
    monkeypatch.setattr(decision, "BLOCK", 100)
    votes = [_votes(SHAPE, edge, seed, structured=structured) for seed, edge in enumerate(edges)]
    _assert_exact(decide(votes, SHAPE), votes, SHAPE)


@pytest.mark.parametrize("highest", [1, 255])
def test_few_and_many_channels_agree_with_exact_fractions(highest):
    votes = [_votes(SHAPE, edge, edge, highest) for edge in (2, 1)]
    if highest == 255:
        assert (votes[1].counts.sum(axis=-1) < votes[1].totals).any(), "more channels than are kept"
    _assert_exact(decide(votes, SHAPE), votes, SHAPE)


def test_the_slabs_do_not_change_the_result(monkeypatch):
    votes = [_votes(SHAPE, edge, edge) for edge in (2, 1)]
    whole = decide(votes, SHAPE)
    monkeypatch.setattr(decision, "SLAB", 1)
    monkeypatch.setattr(decision, "BLOCK", 7)
    parts = decide(votes, SHAPE)
    assert whole.channels.tobytes() == parts.channels.tobytes()
    assert whole.counts.tobytes() == parts.counts.tobytes()


def test_two_coarse_voxels_by_eye():
    """Weights of the right voxel: 0, 1/4, 3/4, 1. At 1 mm, one vote for channel 7 in each voxel."""
    channels = np.zeros((2, 1, 1, KEPT), np.uint8)
    channels[:, 0, 0, 0] = 3, 7
    counts = np.zeros_like(channels)
    counts[..., 0] = 2
    coarse = SparseVotes(channels, counts, np.full((2, 1, 1), 2, np.uint8), 2)
    shape = (4, 2, 2)
    result = decide([coarse, _constant(shape, 1, (7, 1))], shape)
    for y, z in product(range(2), range(2)):
        assert result.winners[:, y, z].tolist() == [3, 3, 7, 7], "at 0.25: 1.5 votes for 3, 0.5 + 1 for 7, a tie"
        assert result.counts[:, y, z, :2].tolist() == [[170, 85], [127, 127], [212, 42], [255, 0]]


@pytest.mark.parametrize("edge", [1, 2, 3, 6])
def test_ties_go_to_the_lowest_channel(edge):
    votes = [_constant(SHAPE, edge, (9, 3), (4, 2)), _constant(SHAPE, 1, (4, 1), (255, 1))]
    result = decide(votes, SHAPE)
    assert (result.winners == 4).all(), "3 votes each for channels 9 and 4"
    assert (result.counts == [109, 109, 36, 0]).all(), "3, 3 and 1 of 7 votes"


def test_a_channel_second_in_both_assemblies_can_win():
    votes = [_constant(SHAPE, 2, (1, 5), (6, 4)), _constant(SHAPE, 1, (3, 5), (6, 4))]
    assert (decide(votes, SHAPE).winners == 6).all()


def test_a_channel_that_has_all_votes_but_a_few_has_not_all_parts():
    result = decide([_constant(SHAPE, 1, (3, 254), (8, 1)), _constant(SHAPE, 1, (3, 255))], SHAPE)
    assert (result.counts == [254, 0, 0, 0]).all(), "509 of 510 votes, rounded down"
    assert (result.channels == [3, 0, 0, 0]).all()


def test_unanimous_assemblies_have_fraction_one():
    result = decide([_constant(SHAPE, 2, (255, 27)), _constant(SHAPE, 1, (255, 1))], SHAPE)
    assert (result.winners == 255).all()
    assert (result.fraction == 1).all()


@pytest.mark.parametrize("seed", range(4))
def test_one_assembly_at_1_mm_gives_the_result_of_its_counter(seed):
    layout = TileLayout((7, 8, 9), (4, 5, 6), (3, 2, 3))
    rng = np.random.default_rng(seed)
    counter = VoteCounter(layout)
    for tile in layout:
        counter.aggregate(rng.integers(0, 10 if seed % 2 else 256, layout.size, dtype=np.uint8), tile)
    expected = counter.finalize()
    result = decide([expected], layout.shape)
    assert result.channels.tobytes() == expected.channels.tobytes()
    np.testing.assert_array_equal(result.counts, 255 * expected.counts.astype(int) // expected.totals[..., None])


def test_the_result_is_read_only():
    result = decide([_constant(SHAPE, 1, (2, 1))], SHAPE)
    for array in (result.channels, result.counts, result.totals):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0, 0] = 1


def test_no_votes_are_refused():
    with pytest.raises(LayoutError, match="found no assembly that votes, expected at least one"):
        decide([], SHAPE)


@pytest.mark.parametrize("shape", [(12, 6, 19), (6, 3, 9), (13, 6, 18)])
def test_grids_that_do_not_fit_the_template_are_refused(shape):
    with pytest.raises(LayoutError, match=r"votes on \(6, 3, 9\) voxels of 2 mm do not fit the template of \("):
        decide([_constant(SHAPE, 2, (2, 1))], shape)
