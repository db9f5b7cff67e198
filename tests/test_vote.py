"""The vote agrees with counting every channel, in any order of the tiles and with limited memory."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from slant.errors import LayoutError
from slant.sparse_votes import KEPT, SparseVotes
from slant.tiles import Tile, TileLayout
from slant.vote import VoteCounter, ballot_maps, most_ballots, most_voters

LAYOUT = TileLayout((7, 8, 9), (4, 5, 6), (3, 2, 3))
SLANT_27 = TileLayout((172, 220, 156), (96, 128, 88), (3, 3, 3))


def _votes(layout: TileLayout, highest: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {tile.name: rng.integers(0, highest + 1, layout.size, dtype=np.uint8) for tile in layout}


def _ballots(layout: TileLayout, ballots: int, views: int, highest: int = 3) -> dict[str, np.ndarray]:
    """(M, X, Y, Z) random maps of each tile, in a third of the voxels with all ballots for one channel."""
    rng, found = np.random.default_rng(ballots + views), {}
    for tile in layout:
        maps = rng.integers(0, highest + 1, (views, ballot_maps(ballots), *layout.size), dtype=np.uint8)
        if ballots > 1:
            maps[:, 2] = rng.integers(0, ballots // 2 + 1, maps[:, 2].shape) * (rng.random(layout.size) < 2 / 3)
        found[tile.name] = maps.reshape(-1, *layout.size)
    return found


def _count(layout: TileLayout, votes: dict[str, np.ndarray], order: list[Tile], **numbers: int) -> SparseVotes:
    counter = VoteCounter(layout, voxel_mm=2, **numbers)
    for tile in order:
        counter.aggregate(votes[tile.name], tile)
    return counter.finalize()


def _table(layout: TileLayout, votes: dict[str, np.ndarray], ballots: int = 1) -> np.ndarray:
    """(256, X, Y, Z) number of votes for every channel in every voxel."""
    table = np.zeros((256, *layout.shape), int)
    for tile in layout:
        own = table[:, *map(slice, tile.core_start, tile.core_stop)]
        maps = votes[tile.name].reshape(-1, *layout.size)[:, *tile.core_within].astype(int)
        if ballots == 1:
            counted = [(channels, 1) for channels in maps]
        else:
            views = list(zip(maps[::3], maps[1::3], maps[2::3], strict=True))
            counted = [(first, ballots - part) for first, _, part in views] + [(s, part) for _, s, part in views]
        for channels, weight in counted:
            own[channels, *np.indices(channels.shape)] += weight
    return table


def _assert_counted(result: SparseVotes, table: np.ndarray) -> None:
    """The result has the largest counts of the table, with ties by the lowest channel as in a stable sort."""
    ranked = np.argsort(-table, axis=0, kind="stable")[:KEPT]
    counts = np.take_along_axis(table, ranked, axis=0)
    np.testing.assert_array_equal(result.counts, np.moveaxis(counts, 0, -1))
    np.testing.assert_array_equal(result.channels, np.moveaxis(np.where(counts > 0, ranked, 0), 0, -1))
    np.testing.assert_array_equal(result.totals, table.sum(axis=0))
    np.testing.assert_array_equal(result.winners, table.argmax(axis=0))
    assert result.fraction.dtype == np.float32
    np.testing.assert_array_equal(result.fraction, (table.max(axis=0) / table.sum(axis=0)).astype(np.float32))
    assert result.voxel_mm == 2


@pytest.mark.parametrize("overlap", ["vote", "core"])
@pytest.mark.parametrize("highest", [1, 3, 132, 255])
def test_the_vote_agrees_with_counting_every_channel(overlap, highest):
    layout = TileLayout(LAYOUT.shape, LAYOUT.size, LAYOUT.counts, overlap)
    votes = _votes(layout, highest)
    _assert_counted(_count(layout, votes, list(layout)), _table(layout, votes))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("ballots", "views"), [(1, 1), (1, 2), (7, 2)])
def test_the_order_of_the_tiles_does_not_matter(seed, ballots, views):
    votes = _ballots(LAYOUT, ballots, views)
    shuffled = [LAYOUT.tiles[i] for i in np.random.default_rng(seed).permutation(len(LAYOUT))]
    one, other = (_count(LAYOUT, votes, order, ballots=ballots, views=views) for order in (list(LAYOUT), shuffled))
    for name in ("channels", "counts", "totals"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()


def test_vote_of_three_small_tiles():
    layout = TileLayout((5, 1, 1), (3, 1, 1), (3, 1, 1))
    votes = {"1_1_1": [9, 9, 2], "2_1_1": [4, 9, 2], "3_1_1": [2, 0, 8]}
    result = _count(layout, {n: np.array(v, np.uint8).reshape(3, 1, 1) for n, v in votes.items()}, list(layout))
    assert result.winners.ravel().tolist() == [9, 4, 2, 0, 8], "tie at voxel 1 (9, 4), tie at voxel 3 (2, 0)"
    assert result.fraction.ravel().tolist() == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2, 1])


def test_unanimous_votes_have_fraction_one():
    votes = {tile.name: np.full(LAYOUT.size, 17, np.uint8) for tile in LAYOUT}
    result = _count(LAYOUT, votes, list(LAYOUT))
    assert (result.winners == 17).all()
    assert (result.fraction == 1).all()


def test_the_caller_may_reuse_its_array():
    buffer = np.zeros(LAYOUT.size, np.uint8)
    counter = VoteCounter(LAYOUT)
    votes = _votes(LAYOUT)
    for tile in LAYOUT:
        buffer[:] = votes[tile.name]
        counter.aggregate(buffer, tile)
    np.testing.assert_array_equal(counter.finalize().winners, _table(LAYOUT, votes).argmax(axis=0))


def test_the_result_is_read_only():
    result = _count(LAYOUT, _votes(LAYOUT), list(LAYOUT))
    for array in (result.channels, result.counts, result.totals, result.winners):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0, 0] = 1


def _held_bytes(counter: VoteCounter) -> int:
    return sum(votes.nbytes for held in counter._votes.values() for votes in held)


def test_memory_does_not_grow_with_the_number_of_tiles():
    def peak(count: int, ballots: int = 1) -> int:
        layout = TileLayout((5 * count + 5, 5, 5), (10, 5, 5), (count, 1, 1))
        counter, held = VoteCounter(layout, ballots=ballots), []
        for tile in layout:
            counter.aggregate(np.zeros((ballot_maps(ballots), *layout.size), np.uint8), tile)
            held.append(_held_bytes(counter))
        assert held[-1] == 0
        return max(held)

    assert peak(10) == peak(40) == 5 * 5 * 5, "the half of one tile that overlaps with the next"
    assert peak(10, ballots=2) == peak(40, ballots=127) == 3 * 5 * 5 * 5


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


# Several ballots and views


@pytest.mark.parametrize("highest", [1, 3, 255])
@pytest.mark.parametrize(
    ("overlap", "ballots", "views"),
    [
        *(("vote", *numbers) for numbers in ((2, 1), (3, 1), (14, 1), (1, 5), (7, 2), (4, 3))),
        *(("core", *numbers) for numbers in ((255, 1), (127, 2), (51, 5))),
    ],
)
def test_divided_ballots_agree_with_counting_every_channel(overlap, ballots, views, highest):
    layout = TileLayout(LAYOUT.shape, LAYOUT.size, LAYOUT.counts, overlap)
    votes = _ballots(layout, ballots, views, highest)
    result = _count(layout, votes, list(layout), ballots=ballots, views=views)
    assert result.totals.max() == ballots * views * most_voters(layout)
    _assert_counted(result, _table(layout, votes, ballots))


def test_a_channel_that_is_second_in_all_tiles_can_win():
    layout = TileLayout((5, 1, 1), (3, 1, 1), (3, 1, 1))
    votes = {
        tile.name: np.array([[first], [6], [4]], np.uint8).repeat(3, axis=1)[..., None, None]
        for tile, first in zip(layout, (9, 1, 2), strict=True)
    }
    result = _count(layout, votes, list(layout), ballots=9)
    assert result.winners.ravel().tolist() == [9, 6, 6, 6, 2]
    assert result.channels[2, 0, 0].tolist() == [6, 1, 2, 9]
    assert result.counts[2, 0, 0].tolist() == [12, 5, 5, 5]
    assert result.totals.ravel().tolist() == [9, 18, 27, 18, 9]


def test_a_single_ballot_may_have_an_axis_of_its_own():
    votes = _votes(LAYOUT)
    counter = VoteCounter(LAYOUT)
    for tile in LAYOUT:
        counter.aggregate(votes[tile.name][None], tile)
    assert counter.finalize().channels.tobytes() == _count(LAYOUT, votes, list(LAYOUT)).channels.tobytes()


@pytest.mark.parametrize(("ballots", "views", "maps"), [(1, 2, 2), (2, 1, 3), (14, 1, 3), (3, 2, 6)])
def test_another_number_of_maps_is_refused(ballots, views, maps):
    counter = VoteCounter(LAYOUT, ballots=ballots, views=views)
    for shape in ((4, 5, 6), (1, 4, 5, 6), (maps - 1, 4, 5, 6), (maps + 1, 4, 5, 6)):
        with pytest.raises(LayoutError, match=rf"must be uint8 of shape \({maps}, 4, 5, 6\), found uint8 of shape"):
            counter.aggregate(np.zeros(shape, np.uint8), LAYOUT.tiles[0])


@pytest.mark.parametrize(("views", "most"), [(1, 14), (2, 7), (7, 2)])
def test_at_most_255_ballots_for_a_voxel(views, most):
    assert most_voters(LAYOUT) == 18
    assert most_ballots(LAYOUT, views) == most
    VoteCounter(LAYOUT, ballots=most, views=views)
    votes = 18 * views * (most + 1)
    with pytest.raises(LayoutError, match=rf"{votes} votes for voxel \(3, 3, 3\) of .*, expected at most 255"):
        VoteCounter(LAYOUT, ballots=most + 1, views=views)


def test_there_is_at_least_one_ballot_although_it_cannot_be_counted():
    assert most_ballots(LAYOUT, 15) == 1
    with pytest.raises(LayoutError, match="270 votes"):
        VoteCounter(LAYOUT, views=15)


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
        assert _count(layout, votes, list(layout)).totals.max() == expected


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
    assert result.winners.size == 5_903_040
    np.testing.assert_array_equal(result.winners, expected)
    assert result.fraction.min() > 0
    assert result.fraction.max() == 1
