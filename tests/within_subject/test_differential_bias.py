"""Smooth differences of brightness between visits are removed, and changed tissue is kept."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import ndimage
from small_visits import brightness, centers, in_brain

from slant.grid import axis_aligned_grid
from slant.volume import LabelMap, Volume
from slant.within_subject.differential_bias import equalize, mean_image

GRID = axis_aligned_grid((90, 114, 82), 1.0, (-44.5, -56.5, -40.5))
POINTS = centers(GRID)
INSIDE = in_brain(POINTS / 2)
BRAIN = LabelMap(INSIDE, GRID)


@cache
def image(seed: int = 0) -> np.ndarray:
    """A brain of 88 x 112 x 80 mm with noise of about 2 % of its brightness."""
    noise = np.random.default_rng(seed).normal(0, 2, GRID.shape)
    return np.where(INSIDE, np.clip(brightness(POINTS / 2) + noise, 1, None), 0)


def gain() -> np.ndarray:
    """A smooth factor between about 0.8 and 1.25."""
    return np.exp(0.1 * np.sin(POINTS[..., 0] / 50) + 0.12 * np.cos(POINTS[..., 1] / 50 + 0.5))


def smooth_difference(first: Volume, second: Volume) -> np.ndarray:
    """Mean logarithm of the ratio of two images in a cube of 9 mm around each voxel of the brain, up to a constant."""
    ratio = np.zeros(GRID.shape)
    ratio[INSIDE] = np.log(first.data[INSIDE] / second.data[INSIDE])
    mean = ndimage.uniform_filter(ratio, 9)[INSIDE] / ndimage.uniform_filter(INSIDE.astype(float), 9)[INSIDE]
    return np.asarray(mean - np.median(mean))


def test_a_smooth_factor_is_removed() -> None:
    first, second = Volume(image(0), GRID), Volume(3 * image(1) * gain(), GRID)
    assert smooth_difference(first, second).std() > 0.04
    found = equalize([first, second], BRAIN)
    assert found.medians == pytest.approx([np.median(volume.data[INSIDE]) for volume in (first, second)])
    assert smooth_difference(*found.images).std() < 0.01
    for own in found.images:
        assert np.median(own.data[INSIDE]) == pytest.approx(1, abs=0.02)


def test_changed_tissue_does_not_pull_the_factor() -> None:
    """A region that becomes dark stays as dark, and its surroundings are not changed."""
    blob = np.linalg.norm(POINTS - (12, 16, -4), axis=-1) < 10
    first, second = Volume(image(0), GRID), Volume(np.where(blob & INSIDE, 0.4, 1) * image(1), GRID)
    found = equalize([first, second], BRAIN).images
    ratio = np.log(found[1].data[INSIDE] / found[0].data[INSIDE])
    near = np.linalg.norm(POINTS - (12, 16, -4), axis=-1)[INSIDE]
    assert np.median(ratio[near < 9]) == pytest.approx(np.log(0.4), abs=0.02)
    for low, high in ((11, 15), (15, 25), (25, 40), (40, 80)):
        assert abs(np.median(ratio[(near > low) & (near < high)])) < 0.01


def test_copies_are_only_divided_by_their_median() -> None:
    volume = Volume(image(), GRID)
    median = np.median(volume.data[INSIDE])
    for count in (2, 3):
        found = equalize([volume] * count, BRAIN)
        (one,) = {own.data.tobytes() for own in found.images}
        np.testing.assert_allclose(np.frombuffer(one, np.float32).reshape(GRID.shape), volume.data / median, rtol=1e-6)
        assert found.medians == (median,) * count


def test_the_brightness_of_a_visit_does_not_matter() -> None:
    first, second = image(0), image(1) * gain()
    one = equalize([Volume(first, GRID), Volume(second, GRID)], BRAIN).images
    other = equalize([Volume(first * 16, GRID), Volume(second / 4, GRID)], BRAIN).images
    for own, same in zip(one, other, strict=True):
        np.testing.assert_allclose(own.data, same.data, rtol=1e-5)


def test_the_mean_image_is_that_of_the_visits() -> None:
    images = [Volume(np.full(GRID.shape, value), GRID) for value in (1, 2, 6)]
    assert (mean_image(images).data == 3).all()
