"""Intervals of the Dice of held-out people."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from slant.train.evaluate import mean_by_person, with_intervals

TABLE = pd.DataFrame(
    {
        "index": [4, 11, 23, 30],
        "name": ["a", "b", "c", "d"],
        "p": [0.7, 0.5, 0.1, np.nan],
        "q": [0.8, np.nan, 0.9, np.nan],
        "r": [0.9, np.nan, 0.5, np.nan],
    }
)


def test_the_interval_of_a_region_is_students() -> None:
    low, high = with_intervals(TABLE).loc[0, ["low", "high"]]
    values = TABLE.loc[0, ["p", "q", "r"]].astype(float)
    wanted = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose([low, high], np.clip(wanted, 0, 1))


def test_one_person_has_a_mean_but_no_interval_and_nobody_has_neither() -> None:
    found = with_intervals(TABLE)
    assert found.loc[1, "mean"] == 0.5
    assert found.loc[1, ["low", "high"]].isna().all()
    assert found.loc[3, ["mean", "low", "high"]].isna().all()


def test_an_interval_stays_within_what_dice_can_be() -> None:
    found = with_intervals(TABLE)
    assert (found.loc[2, "low"], found.loc[2, "high"]) == (0, 1)


def test_the_mean_of_a_person_leaves_out_regions_that_are_absent() -> None:
    means = mean_by_person(TABLE)
    assert means["p"] == pytest.approx((0.7 + 0.5 + 0.1) / 3)
    assert means["q"] == pytest.approx(0.85)
