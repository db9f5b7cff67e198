"""Atlases are registered to a scan, and their labels follow it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from slant import atlas_votes
from slant.atlas_votes import Atlas, votes_of_atlases
from slant.errors import InputError
from slant.grid import axis_aligned_grid
from slant.sparse_votes import MOST_VOTES
from slant.volume import Volume

SHAPE = (64, 72, 56)
GRID = axis_aligned_grid(SHAPE, 1.0, (-30, -40, -20))


@cache
def brain() -> tuple[np.ndarray, np.ndarray]:
    """Smooth intensities in an ellipsoid, and its octants as channels 1 to 8."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 2.5)
    x, y, z = (2.6 * (a / (n - 1) - 0.5) for a, n in zip(np.indices(SHAPE), SHAPE, strict=True))
    inside = x**2 + y**2 + z**2 < 1
    image = np.where(inside, 1 + 0.3 * noise / noise.std(), 0).clip(0.05 * inside).astype(np.float32)
    return image, (inside * (1 + (x > 0) + 2 * (y > 0) + 4 * (z > 0))).astype(np.uint8)


def atlas(name: str, shift: int) -> Atlas:
    """The brain, some voxels further along y, with its labels on another grid."""
    image, channels = (np.roll(a, shift, axis=1) for a in brain())
    box = ndimage.find_objects((image > 0).astype(np.uint8))[0]
    native = GRID.cropped((slice(3, 64), slice(2, 72), slice(0, 56)))
    return Atlas(
        name, name, name, image[box].astype(np.float16), GRID.cropped(box), channels[3:, 2:], native.voxel_from_ras
    )


def test_the_labels_of_registered_atlases_are_those_of_the_scan() -> None:
    image, channels = brain()
    told: list[float] = []
    found = votes_of_atlases(Volume(image, GRID), [atlas("b", 4), atlas("a", -3)], 1, told.append)
    inside = image > 0
    assert (found.votes.winners == channels)[inside].mean() > 0.98
    unregistered = np.roll(channels, 4, axis=1)
    assert (unregistered == channels)[inside].mean() < 0.9
    assert (found.votes.totals == MOST_VOTES).all()
    far = ~ndimage.binary_dilation(inside, iterations=atlas_votes.MARGIN)
    assert (found.votes.winners[far] == 0).all()
    assert (found.votes.counts[far][:, 0] == MOST_VOTES).all()
    assert list(found.similarities.values()) == sorted(found.similarities.values(), reverse=True)
    assert min(found.similarities.values()) > 0.9
    assert told == sorted(told)
    assert told[-1] == 1


def test_the_votes_do_not_depend_on_threads_or_on_the_order_of_the_atlases() -> None:
    image, atlases = Volume(brain()[0], GRID), [atlas("a", 1), atlas("b", -2), atlas("c", 2)]
    once, again = votes_of_atlases(image, atlases), votes_of_atlases(image, atlases[::-1], 3)
    assert once.similarities == again.similarities
    for name in ("channels", "counts", "totals"):
        assert getattr(once.votes, name).tobytes() == getattr(again.votes, name).tobytes()


def test_the_most_similar_atlases_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas_votes, "MOST_ATLASES", 2)
    found = votes_of_atlases(Volume(brain()[0], GRID), [atlas("far", 9), atlas("b", 1), atlas("a", -1)])
    assert set(found.similarities) == {"a", "b"}


def test_one_atlas_is_not_enough() -> None:
    with pytest.raises(InputError, match="found 1 atlas"):
        votes_of_atlases(Volume(brain()[0], GRID), [atlas("a", 0)])
