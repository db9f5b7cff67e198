"""Confidence intervals of the mean over scans, and paired tests of two methods on the same scans."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slant.evaluation.metrics import METRICS, mean_of

Values = NDArray[np.float64]

_LOW, _HIGH = 2.5, 97.5  # percentiles of a 95 % interval

COMPARED = ("dice", "volume_similarity", "assd_mm", "hausdorff95_mm")
COMPARISON_COLUMNS = (
    *("level", "index", "name", "aggregation", "metric", "scans", "median_difference"),
    *("p", "p_holm", "min_attainable_p_holm", "note"),
)
_KEYS = ["level", "index", "name", "aggregation"]
_ALPHA = 0.05


def bootstrap_interval(values: Values, resamples: int, seed: int) -> tuple[Values, Values]:
    """95 % percentile intervals of the mean over scans (Efron & Tibshirani 1993, chapter 13).

    Parameters
    ----------
    values : (scans, columns) float64 array
        nan where a scan has no value.
    resamples : int
        Number of bootstrap samples, each of as many scans with replacement, the same for all columns.

    Returns
    -------
    low, high : (columns,) float64 arrays
        nan where fewer than two scans have a value.
    """
    scans = len(values)
    low, high = np.full((2, values.shape[1]), np.nan)
    known = ~np.isnan(values)
    draws = np.random.default_rng(seed).multinomial(scans, np.full(scans, 1 / scans), size=resamples)
    for column in np.flatnonzero(known.sum(axis=0) >= 2):
        weights = draws[:, known[:, column]]
        counts = weights.sum(axis=1)
        means = (weights @ values[known[:, column], column])[counts > 0] / counts[counts > 0]
        low[column], high[column] = np.percentile(means, (_LOW, _HIGH))
    return low, high


@dataclass(frozen=True)
class PairedTest:
    """Paired comparison of two methods over scans.

    Attributes
    ----------
    pairs : int
        Number of scans where both methods have a value.
    median : float
        Median of second minus first; nan without pairs.
    p : float
        P value of the two-sided Wilcoxon signed-rank test (Wilcoxon 1945) without equal pairs; 1 if all pairs are
        equal, nan without pairs.
    min_attainable_p : float
        The smallest ``p`` that this number of pairs can give: that of differences with one sign.
    """

    pairs: int
    median: float
    p: float
    min_attainable_p: float


def paired_difference(first: Values, second: Values) -> PairedTest:
    """Compare the values of two methods on the same scans, nan where a method has no value."""
    from scipy.stats import wilcoxon

    differences = second - first
    differences = differences[~np.isnan(differences)]
    if differences.size == 0:
        return PairedTest(0, math.nan, math.nan, math.nan)
    unequal = differences[differences != 0]
    p = float(wilcoxon(unequal).pvalue) if unequal.size else 1.0
    return PairedTest(differences.size, float(np.median(differences)), p, 2.0 ** (1 - differences.size))


def holm(p: Values) -> Values:
    """P values adjusted for multiple tests (Holm 1979, Scand J Stat 6:65-70); nan are not tests and stay nan."""
    adjusted = np.full(p.shape, np.nan)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(order.size, 0, -1)))
    return adjusted


def scan_means(regions: pd.DataFrame) -> dict[str, float | int]:
    """Row of a scan: means over its regions, and numbers of regions.

    ``regions`` counts the regions of the reference, ``regions_missed`` those of them that the prediction lacks (Dice 0,
    no distance), and ``regions_absent`` predicted regions that the reference lacks.
    """
    present, predicted = regions["reference_mm3"] > 0, regions["prediction_mm3"] > 0
    return {
        "regions": int(present.sum()),
        "regions_missed": int((present & ~predicted).sum()),
        "regions_absent": int((~present & predicted).sum()),
        **mean_of(regions),
    }


def summarize(
    scans: pd.DataFrame, groups: pd.DataFrame, regions: pd.DataFrame, resamples: int, seed: int
) -> pd.DataFrame:
    """Mean over scans with its 95 % confidence interval, see `bootstrap_interval`, for every region, group and metric.

    Returns
    -------
    DataFrame
        ``method``, ``level`` (``all``, ``region_group``, ``lobe``, ``region``), ``index``, ``name``, ``aggregation``,
        ``metric``, ``scans`` (number with a value), ``mean``, ``ci_low``, ``ci_high``.
    """
    parts = []
    values = _stacked(scans, groups, regions)
    for method, rows in values.groupby("method", sort=False):
        wide = _by_scan(rows, list(METRICS))
        low, high = bootstrap_interval(wide.to_numpy(dtype=float), resamples, seed)
        part = wide.columns.to_frame(index=False)
        part.insert(0, "method", method)
        part["scans"] = wide.notna().sum().to_numpy()
        parts.append(part.assign(mean=wide.mean().to_numpy(), ci_low=low, ci_high=high))
    return pd.concat(parts, ignore_index=True)


def compare_methods(scans: pd.DataFrame, groups: pd.DataFrame, regions: pd.DataFrame) -> pd.DataFrame:
    """Compare the second method with the first, paired by scan; no row if there is only one method.

    Returns
    -------
    DataFrame
        Columns `COMPARISON_COLUMNS`. ``p_holm`` is corrected for the rows of the same level, aggregation and metric;
        ``min_attainable_p_holm`` is the smallest value that it can have with this number of scans, and ``note`` says
        where that is over 0.05.
    """
    values = _stacked(scans, groups, regions)
    methods = [_by_scan(group, list(COMPARED)) for _, group in values.groupby("method", sort=False)]
    rows = []
    for first, second in pairwise(methods):
        for key in first.columns:
            test = paired_difference(first[key].to_numpy(dtype=float), second[key].to_numpy(dtype=float))
            rows.append((*key, test.pairs, test.median, test.p, test.min_attainable_p))
    table = pd.DataFrame(rows, columns=[*_KEYS, "metric", "scans", "median_difference", "p", "min_attainable_p"])
    family = table.groupby(["level", "aggregation", "metric"], sort=False)
    table["p_holm"] = family["p"].transform(lambda p: holm(p.to_numpy(dtype=float)))
    table["min_attainable_p_holm"] = (table["min_attainable_p"] * family["p"].transform("count")).clip(upper=1)
    table["note"] = ""
    table.loc[table["min_attainable_p_holm"] > _ALPHA, "note"] = "too few scans to reach 0.05"
    table.loc[table["scans"] == 0, "note"] = "no scan with values of both methods"
    return table[list(COMPARISON_COLUMNS)]


def _stacked(scans: pd.DataFrame, groups: pd.DataFrame, regions: pd.DataFrame) -> pd.DataFrame:
    """Rows of scans, groups and regions in one table."""
    overall = scans.assign(level="all", index=0, name="all regions", aggregation="mean")
    parts = (overall, groups.assign(index=0), regions.assign(level="region", aggregation="mean"))
    return pd.concat([part[["method", "scan", *_KEYS, *METRICS]] for part in parts], ignore_index=True)


def _by_scan(values: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """One row for every scan, one column for every region or group and metric, in their original order."""
    long = values.melt(["scan", *_KEYS], metrics, var_name="metric", value_name="value")
    wide = long.pivot(index="scan", columns=[*_KEYS, "metric"], values="value")
    order = pd.MultiIndex.from_frame(long[[*_KEYS, "metric"]].drop_duplicates())
    return wide[order]
