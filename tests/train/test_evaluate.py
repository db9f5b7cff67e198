"""Confidence intervals of the Dice of held-out subjects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from slant.evaluation.metrics import METRICS
from slant.evaluation.settings import EvaluateSettings
from slant.evaluation.statistics import summarize
from slant.train.validate import mean_by_subject, with_intervals

TABLE = pd.DataFrame(
    {
        "index": [4, 11, 23, 30],
        "name": ["a", "b", "c", "d"],
        "p": [0.7, 0.5, 0.1, np.nan],
        "q": [0.8, np.nan, 0.9, np.nan],
        "r": [0.9, np.nan, 0.5, np.nan],
    }
)


def test_the_interval_of_a_region_is_that_of_slant_evaluate() -> None:
    long = TABLE.drop(columns="name").melt("index", var_name="scan", value_name="dice")
    regions = long.assign(method="m", name="r", **dict.fromkeys(set(METRICS) - {"dice"}, np.nan))
    scans = regions.drop_duplicates("scan").drop(columns=["index", "name"])
    groups = regions.iloc[:0].drop(columns="index").assign(level="lobe", aggregation="mean")
    defaults = EvaluateSettings()
    summary = summarize(scans, groups, regions, defaults.resamples, defaults.seed)
    expected = summary[(summary.level == "region") & (summary.metric == "dice")].set_index("index")
    found = with_intervals(TABLE).set_index("index")
    columns = ["mean", "ci_low", "ci_high"]
    pd.testing.assert_frame_equal(found[columns], expected.loc[found.index, columns])


def test_an_interval_needs_two_subjects_and_a_mean_one() -> None:
    found = with_intervals(TABLE)
    assert found.loc[1, "mean"] == 0.5
    assert found.loc[1, ["ci_low", "ci_high"]].isna().all()
    assert found.loc[3, ["mean", "ci_low", "ci_high"]].isna().all()


def test_an_interval_is_within_the_range_of_the_values() -> None:
    low, high = with_intervals(TABLE).loc[2, ["ci_low", "ci_high"]]
    assert 0.1 <= low < 0.5 < high <= 0.9


def test_the_mean_of_a_subject_leaves_out_absent_regions() -> None:
    means = mean_by_subject(TABLE)
    assert means["p"] == pytest.approx((0.7 + 0.5 + 0.1) / 3)
    assert means["q"] == pytest.approx(0.85)
