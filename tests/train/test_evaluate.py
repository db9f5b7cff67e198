"""Confidence intervals of the Dice of held-out subjects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from slant.train.evaluate import mean_by_subject, with_intervals

TABLE = pd.DataFrame(
    {
        "index": [4, 11, 23, 30],
        "name": ["a", "b", "c", "d"],
        "p": [0.7, 0.5, 0.1, np.nan],
        "q": [0.8, np.nan, 0.9, np.nan],
        "r": [0.9, np.nan, 0.5, np.nan],
    }
)


def test_the_interval_of_a_region_is_that_of_students_t() -> None:
    low, high = with_intervals(TABLE).loc[0, ["ci_low", "ci_high"]]
    values = TABLE.loc[0, ["p", "q", "r"]].astype(float)
    expected = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose([low, high], np.clip(expected, 0, 1))


def test_an_interval_needs_two_subjects_and_a_mean_one() -> None:
    found = with_intervals(TABLE)
    assert found.loc[1, "mean"] == 0.5
    assert found.loc[1, ["ci_low", "ci_high"]].isna().all()
    assert found.loc[3, ["mean", "ci_low", "ci_high"]].isna().all()


def test_an_interval_is_clipped_to_the_range_of_dice() -> None:
    found = with_intervals(TABLE)
    assert (found.loc[2, "ci_low"], found.loc[2, "ci_high"]) == (0, 1)


def test_the_mean_of_a_subject_leaves_out_absent_regions() -> None:
    means = mean_by_subject(TABLE)
    assert means["p"] == pytest.approx((0.7 + 0.5 + 0.1) / 3)
    assert means["q"] == pytest.approx(0.85)
