"""A known bias field is estimated and removed; the result is 0 outside the brain."""

from __future__ import annotations

import numpy as np
import pytest

from slant.grid import axis_aligned_grid
from slant.preprocess.bias import correct_bias
from slant.volume import LabelMap, Volume

GRID = axis_aligned_grid((110, 130, 101), 1.0, (-55, -64, -50))
MM = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in GRID.shape), indexing="ij"))
DEPTH = ((MM / np.array([50, 60, 45])[:, None, None, None]) ** 2).sum(axis=0)
INSIDE = DEPTH < 1
WAVES = np.sin(MM[0] / 7) + np.sin(MM[1] / 8 + 1) + np.sin(MM[2] / 6 + 2)
TISSUE = np.where(WAVES > 0.4, 110.0, 75.0)
TISSUE[DEPTH < 0.03] = 30
CLEAN = TISSUE * np.random.default_rng(0).normal(1, 0.03, GRID.shape)
BIAS_FIELD = np.exp(0.004 * MM[0] - 0.003 * MM[1] + 0.00008 * MM[2] ** 2)


@pytest.fixture(scope="module")
def result() -> tuple[Volume, Volume]:
    head = np.where(INSIDE, CLEAN * BIAS_FIELD, 200)
    return correct_bias(Volume(head, GRID), LabelMap(INSIDE, GRID))


def _unevenness(image: np.ndarray) -> float:
    """Standard deviation of the log ratio of the image and the clean image."""
    return float(np.log(image[INSIDE] / CLEAN[INSIDE]).std())


def test_correction_makes_the_scan_more_uniform(result):
    assert _unevenness(CLEAN * BIAS_FIELD) > 0.12
    assert _unevenness(result[0].data) < 0.02


def test_the_estimated_field_is_the_true_bias_field_with_geometric_mean_one(result):
    logs = np.log(result[1].data[INSIDE])
    assert np.corrcoef(logs, np.log(BIAS_FIELD[INSIDE]))[0, 1] > 0.98
    assert logs.mean() == pytest.approx(0, abs=1e-4)


def test_field_times_corrected_scan_is_the_scan_and_outside_is_zero(result):
    corrected, field = result
    np.testing.assert_allclose((corrected.data * field.data)[INSIDE], (CLEAN * BIAS_FIELD)[INSIDE], rtol=1e-5)
    assert not corrected.data[~INSIDE].any()
    assert corrected.grid.same_as(GRID)
    assert field.grid.same_as(GRID)


def test_two_runs_give_the_same_bytes(result):
    again = correct_bias(Volume(np.where(INSIDE, CLEAN * BIAS_FIELD, 200), GRID), LabelMap(INSIDE, GRID))
    assert [image.data.tobytes() for image in again] == [image.data.tobytes() for image in result]


def test_zero_and_negative_voxels_in_a_much_brighter_brain_are_tolerated(result):
    head = 1000 * CLEAN * BIAS_FIELD
    holes = np.random.default_rng(1).random(GRID.shape) < 0.02
    head[holes] = np.random.default_rng(2).uniform(-20, 0, holes.sum())
    corrected, field = correct_bias(Volume(head, GRID), LabelMap(INSIDE, GRID))
    assert np.isfinite(corrected.data).all()
    difference = np.abs(np.log(field.data[INSIDE] / result[1].data[INSIDE]))
    assert np.percentile(difference, 99) < 0.05
