"""Layouts cover every voxel; others are refused."""

from __future__ import annotations

import numpy as np
import pytest

from slant.errors import LayoutError
from slant.tiles import Tile, TileLayout

SLANT_27 = TileLayout((172, 220, 156), (96, 128, 88), (3, 3, 3))
SLANT_8 = TileLayout((172, 220, 156), (96, 128, 88), (2, 2, 2), overlap="core")


def _core(tile: Tile) -> tuple[slice, ...]:
    return tuple(map(slice, tile.core_start, tile.core_stop))


def _votes_per_voxel(layout: TileLayout) -> np.ndarray:
    votes = np.zeros(layout.shape, dtype=np.uint8)
    for tile in layout:
        votes[_core(tile)] += 1
    return votes


def test_slant_27_has_the_published_tiles():
    starts = [sorted({tile.start[axis] for tile in SLANT_27}) for axis in range(3)]
    assert starts == [[0, 38, 76], [0, 46, 92], [0, 34, 68]]
    assert len(SLANT_27) == len(SLANT_27.tiles) == 27
    votes = _votes_per_voxel(SLANT_27)
    assert (votes.min(), votes.max()) == (1, 27)
    assert votes.mean() == pytest.approx(4.95, abs=0.005)


def test_a_vote_margin_applies_to_inner_faces_only():
    layout = TileLayout((172, 220, 156), (96, 128, 88), (3, 3, 3), vote_margin=6)
    first, *_, last = layout
    assert (first.core_start, first.core_stop) == ((0, 0, 0), (90, 122, 82))
    assert (last.core_start, last.core_stop) == ((82, 98, 74), (172, 220, 156))
    assert first.box == SLANT_27.tiles[0].box
    votes = _votes_per_voxel(layout)
    assert votes.min() == 1
    assert votes.mean() < _votes_per_voxel(SLANT_27).mean()
    assert layout.plain == {**SLANT_27.plain, "vote_margin": 6}


@pytest.mark.parametrize(
    ("overlap", "margin", "match"),
    [
        ("core", 2, "0 with 'core', found 2"),
        ("vote", -1, "found -1"),
        ("vote", 44, "leaves nothing"),
        ("vote", 30, "in no tile"),
    ],
)
def test_invalid_vote_margins_are_refused(overlap, margin, match):
    with pytest.raises(LayoutError, match=match):
        TileLayout((172, 220, 156), (96, 128, 88), (3, 3, 3), overlap, margin)


def test_in_slant_8_every_voxel_is_in_one_core():
    assert (_votes_per_voxel(SLANT_8) == 1).all()
    assert {tile.start for tile in SLANT_8} <= {tile.start for tile in SLANT_27}
    for tile in SLANT_8:
        assert [s.stop - s.start for s in _core(tile)] == [86, 110, 78]


def test_names_start_at_one_with_the_last_axis_varying_fastest():
    names = [tile.name for tile in TileLayout((7, 8, 9), (5, 5, 5), (2, 2, 3))]
    assert names[:4] == ["1_1_1", "1_1_2", "1_1_3", "1_2_1"]
    assert names[-1] == "2_2_3"
    assert len(set(names)) == 12


def test_cores_of_a_small_layout():
    layout = TileLayout((7, 1, 1), (3, 1, 1), (3, 1, 1), overlap="core")
    assert [(t.start[0], t.stop[0]) for t in layout] == [(0, 3), (2, 5), (4, 7)]
    assert [(t.core_start[0], t.core_stop[0]) for t in layout] == [(0, 2), (2, 4), (4, 7)]


@pytest.mark.parametrize("overlap", ["vote", "core"])
@pytest.mark.parametrize("counts", [(2, 2, 2), (3, 2, 4), (5, 3, 9)])
def test_tiles_cover_the_grid(counts, overlap):
    layout = TileLayout((7, 8, 9), (4, 5, 6), counts, overlap)
    votes = _votes_per_voxel(layout)
    assert votes.min() == 1 or overlap == "vote"
    assert votes.min() >= 1
    assert votes.max() == 1 or overlap == "vote"
    grid = np.arange(7 * 8 * 9).reshape(7, 8, 9)
    for tile in layout:
        assert grid[tile.box].shape == (4, 5, 6)
        assert np.array_equal(grid[tile.box][tile.core_within], grid[_core(tile)])
    assert {tile.start for tile in layout} >= {(0, 0, 0), (3, 3, 3)}


def test_one_tile_may_cover_the_whole_grid():
    (tile,) = TileLayout((7, 8, 9), (7, 8, 9), (1, 1, 1), overlap="core")
    assert tile.box == _core(tile) == tile.core_within == (slice(0, 7), slice(0, 8), slice(0, 9))


def test_tiles_without_overlap_are_accepted():
    assert (_votes_per_voxel(TileLayout((6, 8, 9), (3, 4, 3), (2, 2, 3))) == 1).all()


@pytest.mark.parametrize(
    ("size", "counts", "match"),
    [
        ((3, 8, 9), (2, 1, 1), r"2 tiles of 3 voxels leave voxels 3 to 3 of 7 along x .* at least 3"),
        ((7, 5, 9), (1, 1, 1), r"1 tiles of 5 voxels leave voxels 5 to 7 of 8 along y .* at least 2"),
        ((7, 8, 2), (1, 1, 3), r"leave voxels 2 to 3 of 9 along z .* at least 5"),
        ((7, 8, 10), (1, 1, 1), "tiles of 10 voxels do not fit the grid's 9 along z"),
    ],
)
def test_layouts_with_gaps_or_too_large_tiles_are_refused(size, counts, match):
    with pytest.raises(LayoutError, match=match):
        TileLayout((7, 8, 9), size, counts)


@pytest.mark.parametrize(
    "invalid", [(7, 8), (7, 8, 9, 1), (7.0, 8, 9), (7, "8", 9), (7, 0, 9), (7, -8, 9), (True, 8, 9), 7]
)
@pytest.mark.parametrize("field", ["shape", "size", "counts"])
def test_anything_but_three_positive_integers_is_refused(field, invalid):
    fields = {"shape": (7, 8, 9), "size": (7, 8, 9), "counts": (1, 1, 1), field: invalid}
    with pytest.raises(LayoutError, match=f"layout.{field} must be three positive integers"):
        TileLayout(**fields)


def test_lists_from_toml_files_are_accepted():
    layout = TileLayout([7, 8, 9], [4, 5, 6], [2, 2, 2])  # type: ignore[arg-type]
    assert layout == TileLayout((7, 8, 9), (4, 5, 6), (2, 2, 2))
    assert hash(layout) == hash(TileLayout((7, 8, 9), (4, 5, 6), (2, 2, 2)))


def test_an_unknown_overlap_is_refused():
    with pytest.raises(LayoutError, match="'vote' or 'core', found 'mean'"):
        TileLayout((7, 8, 9), (7, 8, 9), (1, 1, 1), overlap="mean")  # type: ignore[arg-type]
