"""Annualized percent change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slant.change import MIN_YEARS, change_percent_per_year, mean_volume_mm3

VOLUMES = st.floats(1, 1e6)
YEARS = st.floats(0, 20)


def test_two_visits_by_eye() -> None:
    assert change_percent_per_year([1010, 990], [0, 2]) == pytest.approx(-1)
    assert change_percent_per_year([990, 1010], [0, 0.5]) == pytest.approx(4)


def test_the_slope_is_that_of_least_squares_over_the_mean() -> None:
    years, volumes = [0, 0.8, 2.1, 5], [4020, 3990, 4005, 3850]
    slope = np.polyfit(years, volumes, 1)[0]
    assert change_percent_per_year(volumes, years) == pytest.approx(100 * slope / np.mean(volumes))


@given(st.lists(st.tuples(VOLUMES, YEARS), min_size=2, max_size=6), st.randoms())
def test_order_does_not_matter_and_time_reversed_changes_the_sign(visits, random) -> None:
    volumes, years = zip(*visits, strict=True)
    change = change_percent_per_year(volumes, years)
    shuffled = random.sample(visits, len(visits))
    assert change_percent_per_year(*zip(*shuffled, strict=True)) == pytest.approx(change, nan_ok=True, abs=1e-9)
    reversed_years = [-t for t in years]
    assert change_percent_per_year(volumes, reversed_years) == pytest.approx(-change, nan_ok=True, abs=1e-9)


@pytest.mark.parametrize(
    ("volumes", "years"),
    [
        ([], []),
        ([5.0], [0.0]),
        ([5.0, 6.0], [1.0, 1.0]),
        ([5.0, 6.0], [0.0, 0.9 * MIN_YEARS]),
        ([0.0, 0.0], [0.0, 1.0]),
        ([5.0, math.nan], [0.0, 1.0]),
        ([5.0, 6.0], [0.0, math.nan]),
    ],
)
def test_it_is_nan_where_it_is_not_defined(volumes, years) -> None:
    assert math.isnan(change_percent_per_year(volumes, years))


def test_two_scans_of_one_day_and_one_a_year_later() -> None:
    assert change_percent_per_year([1000, 1002, 991], [0, 0, 1]) == pytest.approx(-1000 / (2993 / 3))


def test_a_region_that_disappears_has_a_change() -> None:
    assert change_percent_per_year([10, 0], [0, 1]) == pytest.approx(-200)


def test_every_volume_needs_a_time() -> None:
    with pytest.raises(ValueError, match="2 volumes and 1 times"):
        change_percent_per_year([1, 2], [0])


def test_the_mean_without_visits_is_nan() -> None:
    assert math.isnan(mean_volume_mm3([]))
    assert mean_volume_mm3([1, 2]) == 1.5
