"""What an assembly takes from the template grid and from an earlier assembly, against plain loops."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from slant.errors import ModelError
from slant.nets.earlier import block_mean, mirrored_votes, prior_at, votes_in_box
from slant.nets.prior import Prior
from slant.sparse_votes import KEPT, SparseVotes

CPU = torch.device("cpu")
PARTNERS = np.array([0, 2, 1, 3, 5, 4], np.uint8)


def random_prior(spacing: int) -> Prior:
    """A prior on 16 x 24 x 20 voxels in which each region is possible in some cells only."""
    rng = np.random.default_rng(spacing)
    steps = rng.integers(0, 256, (16 // spacing, 24 // spacing, 20 // spacing, 9)).astype(np.uint8)
    steps[rng.random(steps.shape) < 0.99] = 0
    return Prior(steps, (16, 24, 20), spacing)


def random_votes(shape: tuple[int, int, int] = (5, 6, 7), voxel_mm: int = 2) -> SparseVotes:
    rng = np.random.default_rng(0)
    channels = rng.integers(0, len(PARTNERS), (*shape, KEPT)).astype(np.uint8)
    counts = rng.integers(1, 5, (*shape, KEPT)).astype(np.uint8)
    return SparseVotes(channels, counts, counts.sum(axis=-1, dtype=np.uint8) + np.uint8(1), voxel_mm)


def test_the_mean_of_blocks_equals_a_plain_loop() -> None:
    image = np.random.default_rng(0).normal(size=(6, 4, 8)).astype(np.float32)
    for edge in (1, 2):
        found = block_mean(image, edge)
        assert found.shape == tuple(n // edge for n in image.shape)
        assert found.dtype == np.float32
        for x, y, z in np.ndindex(found.shape):
            block = image[x * edge : (x + 1) * edge, y * edge : (y + 1) * edge, z * edge : (z + 1) * edge]
            assert found[x, y, z] == pytest.approx(block.mean(), abs=1e-6)


def test_blocks_that_do_not_divide_the_image_are_refused() -> None:
    with pytest.raises(ModelError, match=r"\(6, 5, 8\) voxels cannot be divided into blocks of 2"):
        block_mean(np.zeros((6, 5, 8), np.float32), 2)


def test_a_prior_is_the_same_on_a_coarser_grid() -> None:
    fine, channels = random_prior(4), np.arange(9)
    coarse = prior_at(fine, 2)
    assert coarse.shape == (8, 12, 10)
    found = coarse.of_box([slice(2, 8), slice(0, 12), slice(3, 9)], channels, CPU).numpy()
    values = fine.of_box([slice(4, 16), slice(0, 24), slice(6, 18)], channels, CPU).numpy()
    for x, y, z in np.ndindex(found.shape[:3]):  # the cells are linear within each block
        block = values[2 * x : 2 * x + 2, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2]
        np.testing.assert_allclose(found[x, y, z], block.mean(axis=(0, 1, 2)), atol=1e-4)


def test_cells_of_the_size_of_a_voxel_are_not_interpolated() -> None:
    fine, box, channels = random_prior(2), (slice(1, 5), slice(2, 12), slice(0, 10)), np.arange(9)
    coarse = prior_at(fine, 2)
    np.testing.assert_allclose(coarse.of_box(box, channels, CPU), fine.log_frequency_at(box, channels), atol=1e-5)


@pytest.mark.parametrize("spacing", [4, 2])
def test_the_possible_regions_are_the_same_on_a_coarser_grid(spacing: int) -> None:
    fine = random_prior(spacing)
    coarse, some = prior_at(fine, 2), set()
    for start in product((0, 2, 5), (0, 4, 7), (0, 6)):
        stop = [n + 2 for n in start]
        found = coarse.possible(start, stop)
        np.testing.assert_array_equal(found, fine.possible([2 * n for n in start], [2 * n for n in stop]))
        some.add(len(found))
    assert len(some) > 1


@pytest.mark.parametrize(("shape", "resolution"), [((12, 24, 12), 3), ((15, 24, 20), 2)])
def test_a_prior_whose_cells_do_not_fit_the_voxels_is_refused(shape: tuple[int, int, int], resolution: int) -> None:
    steps = np.zeros((*(-(-n // 4) for n in shape), 3), np.uint8)
    with pytest.raises(ModelError, match=rf"at {resolution} mm cannot use a prior with cells of 4 mm"):
        prior_at(Prior(steps, shape), resolution)


@pytest.mark.parametrize(("voxel_mm", "edge"), [(2, 1), (2, 2), (2, 4), (1, 1), (1, 2)])
@pytest.mark.parametrize("start", [(0, 0, 0), (3, 2, 1)])
def test_votes_are_those_of_the_voxel_at_the_middle_of_a_cell(voxel_mm: int, edge: int, start) -> None:
    votes = random_votes(voxel_mm=voxel_mm)
    channels, fractions = votes_in_box(votes, start, (4, 4, 8), edge)
    assert channels.shape == fractions.shape == (4 // edge, 4 // edge, 8 // edge, KEPT)
    for cell in np.ndindex(channels.shape[:3]):
        middle = [s + (i + 0.5) * edge for s, i in zip(start, cell, strict=True)]  # in mm from the corner
        x, y, z = (min(int(m / voxel_mm), n - 1) for m, n in zip(middle, votes.shape, strict=True))
        assert channels[cell].tolist() == votes.channels[x, y, z].tolist()
        np.testing.assert_allclose(fractions[cell], votes.counts[x, y, z] / votes.totals[x, y, z], atol=1e-6)


def test_the_votes_of_the_mirror_image_have_their_sides_exchanged() -> None:
    votes = random_votes()
    found = mirrored_votes(votes, PARTNERS)
    for x, y, z in np.ndindex(votes.shape):
        assert found.channels[4 - x, y, z].tolist() == PARTNERS[votes.channels[x, y, z]].tolist()
        assert found.counts[4 - x, y, z].tolist() == votes.counts[x, y, z].tolist()
        assert found.totals[4 - x, y, z] == votes.totals[x, y, z]
    again = mirrored_votes(found, PARTNERS)
    np.testing.assert_array_equal(again.channels, votes.channels)
    np.testing.assert_array_equal(again.counts, votes.counts)
    assert again.voxel_mm == votes.voxel_mm
