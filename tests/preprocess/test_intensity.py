"""Intensities of any scale are mapped to the reference; outliers have little influence."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from slant.errors import InputError
from slant.grid import axis_aligned_grid
from slant.io.read import read_scan
from slant.io.templates import load_intensity_reference
from slant.preprocess.brain import brain_from_zero_background
from slant.preprocess.intensity import (
    QUANTILES,
    IntensityReference,
    LinearMap,
    build_reference,
    huber_line,
    normalize_intensity,
    sorted_intensities,
    z_score,
)
from slant.volume import LabelMap, Volume

GRID = axis_aligned_grid((17, 18, 19), 1.0, (0, 0, 0))
INSIDE = np.indices(GRID.shape).sum(axis=0) > 20
MASK = LabelMap(INSIDE, GRID)
RNG = np.random.default_rng(0)
IMAGE = np.where(RNG.random(GRID.shape) < 0.4, RNG.normal(60, 5, GRID.shape), RNG.normal(100, 8, GRID.shape))


def _volume(data: np.ndarray) -> Volume:
    return Volume(data, GRID)


def _reference() -> IntensityReference:
    return build_reference([sorted_intensities(z_score(_volume(IMAGE), MASK), MASK)])


def test_z_scores_have_mean_zero_and_standard_deviation_one_in_the_brain_and_are_zero_outside():
    scored = z_score(_volume(IMAGE), MASK).data
    assert scored[INSIDE].mean() == pytest.approx(0, abs=1e-5)
    assert scored[INSIDE].std() == pytest.approx(1, abs=1e-5)
    assert not scored[~INSIDE].any()


@pytest.mark.parametrize(
    ("data", "mask", "count"),
    [(np.full(GRID.shape, 7.0), INSIDE, INSIDE.sum()), (IMAGE, np.zeros_like(INSIDE), 0)],
    ids=["constant", "empty"],
)
@pytest.mark.parametrize(
    "function",
    [z_score, lambda *args: normalize_intensity(*args, _reference())],
    ids=["z_score", "normalize_intensity"],
)
def test_a_brain_without_contrast_is_refused(data, mask, count, function):
    with pytest.raises(InputError, match=rf"intensity of the {count} voxels in the brain is constant; check the scan"):
        function(_volume(data), LabelMap(mask, GRID))


def test_sorted_intensities_are_the_quantiles_of_the_brain_only():
    bright_outside = np.where(INSIDE, IMAGE, 1e6)
    found = sorted_intensities(_volume(bright_outside), MASK)
    values = np.sort(IMAGE[INSIDE].astype(np.float32))
    assert found.shape == (QUANTILES,)
    assert (np.diff(found) >= 0).all()
    np.testing.assert_allclose(found[[0, QUANTILES // 2, -1]], [values[0], np.median(values), values[-1]])


def test_the_reference_is_the_mean_of_its_scans():
    one, other = np.linspace(-2, 2, QUANTILES), np.linspace(-4, 3, QUANTILES)
    reference = build_reference([one, other])
    np.testing.assert_allclose(reference.values, np.linspace(-3, 2.5, QUANTILES))
    np.testing.assert_allclose(reference.quantiles[[0, QUANTILES // 2, -1]], [0, 0.5, 1])


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.02, -3), (250, 4000)])
def test_a_scaled_and_shifted_copy_is_mapped_to_the_reference(slope, intercept):
    found = normalize_intensity(_volume(slope * IMAGE + intercept), MASK, _reference())[0].data
    np.testing.assert_allclose(found[INSIDE], z_score(_volume(IMAGE), MASK).data[INSIDE], atol=2e-3)
    assert not found[~INSIDE].any()


@pytest.mark.parametrize("extreme", [2000, -2000])
def test_a_few_extreme_voxels_hardly_change_the_others(extreme):
    with_outliers = IMAGE.copy()
    with_outliers[tuple(np.argwhere(INSIDE)[::200].T)] = extreme
    kept = INSIDE & (with_outliers == IMAGE)
    expected = z_score(_volume(IMAGE), MASK).data[kept]
    normalized = normalize_intensity(_volume(with_outliers), MASK, _reference())[0].data[kept]
    np.testing.assert_allclose(normalized, expected, atol=0.15)
    assert np.abs(z_score(_volume(with_outliers), MASK).data[kept] - expected).max() > 0.5


def test_the_number_of_quantiles_of_the_reference_hardly_matters():
    fine = _reference()
    coarse = IntensityReference(fine.quantiles[::10], fine.values[::10])
    one, other = (normalize_intensity(_volume(IMAGE), MASK, reference)[0].data for reference in (fine, coarse))
    np.testing.assert_allclose(one, other, atol=0.02)


def test_huber_line_is_exact_for_linear_data_and_robust_to_outliers():
    x = np.linspace(-3, 3, 601)
    y = 1.3 * x - 0.4
    assert astuple(huber_line(x, y)) == pytest.approx((1.3, -0.4), abs=1e-6)
    y[::20] += 30
    assert astuple(huber_line(x, y)) == pytest.approx((1.3, -0.4), abs=0.02)
    assert abs(np.polyfit(x, y, 1)[1] + 0.4) > 1


@pytest.mark.parametrize("number", [1000, 1036])
def test_a_scan_of_the_reference_set_matches_the_reference(data_dir: Path, number):
    scan = read_scan(data_dir / "miccai2012-train" / f"{number}_T1w.nii.gz").volume
    mask = brain_from_zero_background(scan)
    reference = load_intensity_reference()
    found = sorted_intensities(normalize_intensity(scan, mask, reference)[0], mask)
    assert np.abs(found - reference.values)[50:951].mean() < 0.1


@pytest.mark.parametrize("mask_brain", [True, False])
def test_the_map_that_is_returned_has_made_the_normalized_intensities(mask_brain):
    normalized, line = normalize_intensity(_volume(250 * IMAGE + 4000), MASK, _reference(), mask_brain=mask_brain)
    shown = INSIDE if mask_brain else np.ones_like(INSIDE)
    expected = line.slope * (250 * IMAGE + 4000) + line.intercept
    np.testing.assert_allclose(normalized.data[shown], expected[shown], atol=1e-5)


def test_maps_are_composed_in_order():
    assert LinearMap(2, 3).then(LinearMap(10, 1)) == LinearMap(20, 31)
