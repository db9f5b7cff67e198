"""The vote agrees with counting every channel, in any order of the tiles and with limited memory."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from slant.errors import LayoutError
from slant.sparse_votes import KEPT
from slant.tiles import Tile, TileLayout
from slant.vote import Vote, VoteCounter, most_voters

LAYOUT = TileLayout((7, 8, 9), (4, 5, 6), (3, 2, 3))
SLANT_27 = TileLayout((172, 220, 156), (96, 128, 88), (3, 3, 3))


def _votes(layout: TileLayout, highest: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {tile.name: rng.integers(0, highest + 1, layout.size, dtype=np.uint8) for tile in layout}


def _count(layout: TileLayout, votes: dict[str, np.ndarray], order: list[Tile], *, sparse: bool = False) -> Vote:
    counter = VoteCounter(layout, voxel_mm=2, sparse=sparse)
    for tile in order:
        counter.aggregate(votes[tile.name], tile)
    return counter.finalize()


def _table(layout: TileLayout, votes: dict[str, np.ndarray]) -> np.ndarray:
    """(C, X, Y, Z) number of votes for every channel in every voxel."""
    counts = np.zeros((int(max(v.max() for v in votes.values())) + 1, *layout.shape))
    for tile in layout:
        for channel in range(len(counts)):
            counts[channel][tuple(map(slice, tile.core_start, tile.core_stop))] += (
                votes[tile.name][tile.core_within] == channel
            )
    return counts


def _oracle(layout: TileLayout, votes: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Winner, where argmax gives ties to the lowest channel, and fraction."""
    counts = _table(layout, votes)
    return counts.argmax(axis=0), counts.max(axis=0) / counts.sum(axis=0)


@pytest.mark.parametrize("overlap", ["vote", "core"])
@pytest.mark.parametrize("highest", [1, 3, 132, 255])
def test_the_vote_agrees_with_counting_every_channel(overlap, highest):
    layout = TileLayout(LAYOUT.shape, LAYOUT.size, LAYOUT.counts, overlap)
    votes = _votes(layout, highest)
    result = _count(layout, votes, list(layout))
    channels, fraction = _oracle(layout, votes)
    assert result.channels.dtype == np.uint8
    assert result.fraction.dtype == np.float32
    np.testing.assert_array_equal(result.channels, channels)
    np.testing.assert_array_equal(result.fraction, fraction.astype(np.float32))


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_tiles_does_not_matter(seed):
    votes = _votes(LAYOUT)
    shuffled = [LAYOUT.tiles[i] for i in np.random.default_rng(seed).permutation(len(LAYOUT))]
    one, other = (_count(LAYOUT, votes, order, sparse=True) for order in (list(LAYOUT), shuffled))
    assert one.channels.tobytes() == other.channels.tobytes()
    assert one.fraction.tobytes() == other.fraction.tobytes()
    for name in ("channels", "counts", "totals"):
        assert getattr(one.sparse, name).tobytes() == getattr(other.sparse, name).tobytes()


@pytest.mark.parametrize("overlap", ["vote", "core"])
@pytest.mark.parametrize("highest", [1, 3, 255])
def test_sparse_votes_agree_with_counting_every_channel(overlap, highest):
    layout = TileLayout(LAYOUT.shape, LAYOUT.size, LAYOUT.counts, overlap)
    votes = _votes(layout, highest)
    dense, result = (_count(layout, votes, list(layout), sparse=sparse) for sparse in (False, True))
    assert dense.sparse is None
    assert result.channels.tobytes() == dense.channels.tobytes()
    assert result.fraction.tobytes() == dense.fraction.tobytes()
    table = np.concatenate([_table(layout, votes), np.zeros((KEPT, *layout.shape))])
    ranked = np.argsort(-table, axis=0, kind="stable")[:KEPT]
    counts = np.take_along_axis(table, ranked, axis=0)
    sparse = result.sparse
    np.testing.assert_array_equal(sparse.counts, np.moveaxis(counts, 0, -1))
    np.testing.assert_array_equal(sparse.channels, np.moveaxis(np.where(counts > 0, ranked, 0), 0, -1))
    np.testing.assert_array_equal(sparse.totals, table.sum(axis=0))
    assert sparse.voxel_mm == 2


def test_vote_of_three_small_tiles():
    layout = TileLayout((5, 1, 1), (3, 1, 1), (3, 1, 1))
    votes = {"1_1_1": [9, 9, 2], "2_1_1": [4, 9, 2], "3_1_1": [2, 0, 8]}
    result = _count(layout, {n: np.array(v, np.uint8).reshape(3, 1, 1) for n, v in votes.items()}, list(layout))
    assert result.channels.ravel().tolist() == [9, 4, 2, 0, 8], "tie at voxel 1 (9, 4), tie at voxel 3 (2, 0)"
    assert result.fraction.ravel().tolist() == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2, 1])


def test_unanimous_votes_have_fraction_one():
    votes = {tile.name: np.full(LAYOUT.size, 17, np.uint8) for tile in LAYOUT}
    result = _count(LAYOUT, votes, list(LAYOUT))
    assert (result.channels == 17).all()
    assert (result.fraction == 1).all()


def test_the_caller_may_reuse_its_array():
    buffer = np.zeros(LAYOUT.size, np.uint8)
    counter = VoteCounter(LAYOUT)
    votes = _votes(LAYOUT)
    for tile in LAYOUT:
        buffer[:] = votes[tile.name]
        counter.aggregate(buffer, tile)
    np.testing.assert_array_equal(counter.finalize().channels, _oracle(LAYOUT, votes)[0])


def test_the_result_is_read_only():
    result = _count(LAYOUT, _votes(LAYOUT), list(LAYOUT), sparse=True)
    sparse = result.sparse
    for array in (result.channels, result.fraction, sparse.channels, sparse.counts, sparse.totals):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0, 0] = 1


def _held_bytes(counter: VoteCounter) -> int:
    return sum(votes.nbytes for held in counter._votes.values() for votes in held)


def test_memory_does_not_grow_with_the_number_of_tiles():
    def peak(count: int) -> int:
        layout = TileLayout((5 * count + 5, 5, 5), (10, 5, 5), (count, 1, 1))
        counter, held = VoteCounter(layout), []
        for tile in layout:
            counter.aggregate(np.zeros(layout.size, np.uint8), tile)
            held.append(_held_bytes(counter))
        assert held[-1] == 0
        return max(held)

    assert peak(10) == peak(40) == 5 * 5 * 5, "the half of one tile that overlaps with the next"


def test_missing_tiles_are_named():
    counter = VoteCounter(LAYOUT)
    for tile in LAYOUT:
        if tile.name not in ("2_1_3", "3_2_1"):
            counter.aggregate(np.zeros(LAYOUT.size, np.uint8), tile)
    with pytest.raises(LayoutError, match="2 of 18 tiles have not voted: 2_1_3, 3_2_1"):
        counter.finalize()


def test_a_tile_added_twice_is_refused():
    counter = VoteCounter(LAYOUT)
    counter.aggregate(np.zeros(LAYOUT.size, np.uint8), LAYOUT.tiles[4])
    with pytest.raises(LayoutError, match="tile 1_2_2 was added twice"):
        counter.aggregate(np.zeros(LAYOUT.size, np.uint8), LAYOUT.tiles[4])


@pytest.mark.parametrize(
    "votes", [np.zeros((5, 4, 6), np.uint8), np.zeros((4, 5), np.uint8), np.zeros((4, 5, 6), np.int64)]
)
def test_arrays_of_another_shape_or_dtype_are_refused(votes):
    counter = VoteCounter(LAYOUT)
    with pytest.raises(LayoutError, match=r"tile 1_1_1 must be uint8 of shape \(1, 4, 5, 6\), found"):
        counter.aggregate(votes, LAYOUT.tiles[0])
    assert _held_bytes(counter) == 0


def test_a_tile_of_another_layout_is_refused():
    other = TileLayout((7, 8, 9), (4, 5, 6), (2, 2, 2)).tiles[-1]
    with pytest.raises(LayoutError, match=r"tile 2_2_2 from .* is not a tile of TileLayout"):
        VoteCounter(LAYOUT).aggregate(np.zeros(LAYOUT.size, np.uint8), other)


def test_at_most_255_votes_for_a_voxel():
    layout = TileLayout((554, 1, 1), (300, 1, 1), (255, 1, 1))
    votes = {tile.name: np.full(layout.size, 8, np.uint8) for tile in layout}
    assert (_count(layout, votes, list(layout)).fraction == 1).all()
    with pytest.raises(LayoutError, match=r"256 votes for voxel \(255, 0, 0\) of TileLayout.*, expected at most 255"):
        VoteCounter(TileLayout((555, 1, 1), (300, 1, 1), (256, 1, 1)))


# Several ballots


@pytest.mark.parametrize("ballots", [2, 5])
@pytest.mark.parametrize("overlap", ["vote", "core"])
def test_several_ballots_count_as_as_many_tiles(overlap, ballots):
    layout = TileLayout(LAYOUT.shape, LAYOUT.size, LAYOUT.counts, overlap)
    rounds = [_votes(layout, seed=seed) for seed in range(ballots)]
    counter = VoteCounter(layout, sparse=True, ballots=ballots)
    for tile in layout:
        counter.aggregate(np.stack([votes[tile.name] for votes in rounds]), tile)
    result = counter.finalize()
    table = sum(_table(layout, votes) for votes in rounds)
    np.testing.assert_array_equal(result.channels, table.argmax(axis=0))
    np.testing.assert_array_equal(result.sparse.totals, table.sum(axis=0))
    np.testing.assert_array_equal(result.sparse.counts, np.moveaxis(-np.sort(-table, axis=0)[:KEPT], 0, -1))
    np.testing.assert_array_equal(result.fraction, (table.max(axis=0) / table.sum(axis=0)).astype(np.float32))


def test_a_single_ballot_may_have_an_axis_of_its_own():
    votes = _votes(LAYOUT)
    counter = VoteCounter(LAYOUT)
    for tile in LAYOUT:
        counter.aggregate(votes[tile.name][None], tile)
    assert counter.finalize().channels.tobytes() == _count(LAYOUT, votes, list(LAYOUT)).channels.tobytes()


def test_another_number_of_ballots_is_refused():
    counter = VoteCounter(LAYOUT, ballots=3)
    for shape in ((4, 5, 6), (1, 4, 5, 6), (2, 4, 5, 6)):
        with pytest.raises(LayoutError, match=r"must be uint8 of shape \(3, 4, 5, 6\), found uint8 of shape"):
            counter.aggregate(np.zeros(shape, np.uint8), LAYOUT.tiles[0])


def test_at_most_255_ballots_for_a_voxel():
    assert most_voters(LAYOUT) == 18
    VoteCounter(LAYOUT, ballots=14)
    with pytest.raises(LayoutError, match=r"270 votes for voxel \(3, 3, 3\) of .*, expected at most 255"):
        VoteCounter(LAYOUT, ballots=15)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (TileLayout((4, 4, 4), (4, 4, 4), (1, 1, 1)), 1),
        (TileLayout((5, 1, 1), (3, 1, 1), (3, 1, 1)), 3),
        (TileLayout(LAYOUT.shape, LAYOUT.size, LAYOUT.counts, "core"), 1),
        (SLANT_27, 27),
    ],
)
def test_the_largest_number_of_tiles_that_vote_for_a_voxel(layout, expected):
    votes = {tile.name: np.zeros(layout.size, np.uint8) for tile in layout}
    assert most_voters(layout) == expected
    if layout is not SLANT_27:
        assert _count(layout, votes, list(layout), sparse=True).sparse.totals.max() == expected


def test_the_published_tiles_give_the_published_vote_in_every_voxel(data_dir):
    """The published tiles contain region ids, which have the same order as channels."""
    folder = data_dir / "slant-reference"
    counter = VoteCounter(SLANT_27)
    for tile in reversed(SLANT_27.tiles):
        ids = np.asarray(nib.load(folder / "tiles" / f"{tile.name}.nii.gz").dataobj)
        assert ids[tile.box].max() <= 207
        assert (ids != 255).sum() == np.prod(SLANT_27.size)
        counter.aggregate(ids[tile.box], tile)
    result = counter.finalize()
    expected = np.asarray(nib.load(folder / "1000_space-MNI305_dseg.nii.gz").dataobj)
    assert result.channels.size == 5_903_040
    np.testing.assert_array_equal(result.channels, expected)
    assert result.fraction.min() > 0
    assert result.fraction.max() == 1
