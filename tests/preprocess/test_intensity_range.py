"""Robust intensities do not depend on offset, scale, the constant around the head, or a few absurd voxels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from slant.grid import Grid
from slant.preprocess.intensity_range import IntensityRange, robust_intensities
from slant.volume import Volume

GRID = Grid((40, 44, 36), np.eye(4))
VOXELS = np.indices(GRID.shape) - (np.array(GRID.shape)[:, None, None, None] - 1) / 2
RADIUS = np.sqrt((VOXELS**2).sum(axis=0))
NOISE = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=GRID.shape), 0.6)
BRAIN = RADIUS < 15
STRIPPED = np.where(BRAIN, np.where(RADIUS < 5, 200, np.where(RADIUS < 10, 600, 1000)) + 100 * NOISE, 0).astype(
    np.float32
)
AIR = np.abs(20 * np.random.default_rng(1).normal(size=GRID.shape)).astype(np.float32)
HEAD = np.where(RADIUS < 19, np.where(BRAIN, STRIPPED, 300), AIR).astype(np.float32)
SCANS = {"skull-stripped": STRIPPED, "head": HEAD}


def robust(data: np.ndarray) -> tuple[np.ndarray, IntensityRange]:
    volume, found = robust_intensities(Volume(data, GRID))
    return volume.data.astype(np.float64), found


def same_up_to_scale(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference in the range of the expected image, after the best scaling."""
    factor = (found * expected).sum() / (found**2).sum()
    return float(np.abs(factor * found - expected).max() / np.quantile(expected, 0.99))


@pytest.mark.parametrize("data", [STRIPPED, np.rint(STRIPPED), np.where(RADIUS < 19, HEAD, 0)])
def test_a_scan_on_zero_background_is_left_alone(data) -> None:
    volume = Volume(data, GRID)
    found, intensities = robust_intensities(volume)
    assert found is volume
    assert intensities == IntensityRange()
    assert intensities.warnings == ()


SCALES = st.floats(-12, 12).map(lambda exponent: 10.0**exponent)
OFFSETS = st.floats(-50, 50)


@settings(max_examples=60, deadline=None)
@given(scale=SCALES, offset=OFFSETS, name=st.sampled_from(sorted(SCANS)))
def test_offset_and_scale_do_not_matter(scale, offset, name) -> None:
    data = SCANS[name]
    expected, _ = robust(data)
    changed = ((data / 1000 + offset) * scale).astype(np.float32)
    found, intensities = robust(changed)
    assert same_up_to_scale(found, expected) < 1e-4
    line = np.maximum((changed.astype(np.float64) - intensities.zero) * intensities.scale, 0)
    np.testing.assert_allclose(found, line, atol=1e-6 * line.max())
    assert 2.0**-7 < np.quantile(found, 0.99) < 2.0**21


@settings(max_examples=60, deadline=None)
@given(background=st.floats(-3, 8))
def test_any_constant_around_a_brain_becomes_zero(background) -> None:
    """The zero of a brain whose background lies inside its range is not known; it is found within a tenth of it."""
    z = (STRIPPED - STRIPPED[BRAIN].mean()) / STRIPPED[BRAIN].std()
    found, intensities = robust(np.where(BRAIN, z, background).astype(np.float32))
    assert not found[~BRAIN].any()
    assert (found[BRAIN] > 0).mean() > 0.97
    if background > np.quantile(z[BRAIN], 0.05):
        zero = -STRIPPED[BRAIN].mean() / STRIPPED[BRAIN].std()
        assert abs(intensities.zero - zero) < 0.1 * (np.quantile(z[BRAIN], 0.99) - zero)


def test_voxels_inside_the_brain_with_the_value_of_the_background_stay() -> None:
    z = np.round((STRIPPED - 600) / 100)
    found, _ = robust(np.where(BRAIN, z, 0).astype(np.float32))
    assert (z[RADIUS < 9] == 0).any()
    assert (found[(RADIUS < 9) & (z == 0)] > 0).all()


def test_zeros_in_the_air_of_a_head_that_was_z_scored_where_it_is_not_zero_become_dark() -> None:
    data = np.where((RADIUS >= 19) & (np.random.default_rng(2).random(GRID.shape) < 0.5), 0, HEAD)
    z = np.where(data != 0, (data - data[data != 0].mean()) / data[data != 0].std(), 0)
    found, _ = robust(z.astype(np.float32))
    outside = found[RADIUS >= 19]
    assert (outside < 0.1 * np.quantile(found, 0.99)).mean() > 0.98


@settings(max_examples=40, deadline=None)
@given(
    size=st.floats(10, 1e6),
    sign=st.sampled_from([1, -1]),
    seed=st.integers(0, 99),
    offset=st.sampled_from([0, -1000, 1000]),
    name=st.sampled_from(sorted(SCANS)),
)
def test_absurd_voxels_get_the_median_of_their_neighbours_and_change_nothing_else(
    size, sign, seed, offset, name
) -> None:
    data = SCANS[name]
    expected, clean = robust(data + np.float32(offset))
    assert clean.outliers == 0
    rng = np.random.default_rng(seed)
    count = rng.integers(1, round(1e-4 * data.size) + 1)
    where = np.unravel_index(rng.choice(np.flatnonzero(BRAIN), count, replace=False), GRID.shape)
    spoilt = data + np.float32(offset)
    spoilt[where] = sign * size * data.max()
    found, intensities = robust(spoilt)
    assert intensities.outliers == count
    assert intensities.warnings[0].startswith(f"{count} voxel")
    changed = np.zeros(GRID.shape, bool)
    changed[where] = True
    np.testing.assert_allclose(found[~changed], expected[~changed], atol=0.05)
    around = np.nanmedian(np.where(changed, np.nan, expected)[BRAIN & (RADIUS < 12)])
    assert np.abs(found[changed] - expected[changed]).max() < around


def test_many_absurd_voxels_are_clipped_and_not_repaired_twice() -> None:
    data = STRIPPED.copy()
    data[18:22, 20:24, 16:20] = 1e6
    found, intensities = robust(data)
    assert intensities.outliers == 64
    assert found.max() < 7 * np.quantile(STRIPPED[BRAIN], 0.99)
    again, second = robust(found.astype(np.float32))
    np.testing.assert_array_equal(again, found)
    assert second == IntensityRange()


@pytest.mark.parametrize("fill", [-2000, 777])
def test_slices_that_were_added_with_a_fill_value_become_dark(fill) -> None:
    """As scanners and programs pad an image: the zero is that of the scan itself."""
    for data in SCANS.values():
        padded = data.copy()
        padded[:6] = fill
        found, intensities = robust(padded)
        assert intensities.zero == pytest.approx(0, abs=1)
        assert intensities.outliers == 0
        assert not found[:6].any()
        np.testing.assert_allclose(found[6:], data[6:], atol=1)


def test_small_negative_values_around_an_edge_become_zero() -> None:
    ringing = np.where((RADIUS > 15) & (RADIUS < 17), -15, STRIPPED).astype(np.float32)
    found, intensities = robust(ringing)
    np.testing.assert_array_equal(found, np.maximum(ringing, 0))
    assert intensities.outliers == 0


def test_tiny_values_around_a_mask_are_its_background() -> None:
    noise = 0.01 * np.random.default_rng(3).normal(size=GRID.shape)
    found, intensities = robust(np.where(BRAIN, STRIPPED, noise).astype(np.float32))
    assert not found[~BRAIN].any()
    assert (found[BRAIN] > 0).all()
    assert intensities.zero == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("value", [0, 5, -3])
def test_a_constant_image_is_left_alone(value) -> None:
    volume = Volume(np.full(GRID.shape, value, np.float32), GRID)
    assert robust_intensities(volume) == (volume, IntensityRange())
