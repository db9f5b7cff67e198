"""Confidence intervals of the mean over scans, and paired tests of two methods on the same scans."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_LOW, _HIGH = 2.5, 97.5  # percentiles of a 95 % interval


def bootstrap_interval(values: Values, resamples: int, seed: int) -> tuple[Values, Values]:
    """95 % percentile intervals of the mean over scans (Efron & Tibshirani 1993, chapter 13).

    Parameters
    ----------
    values : (scans, columns) float64 array
        nan where a scan has no value.
    resamples : int
        Number of bootstrap samples, each of as many scans with replacement, the same for all columns.
    seed : int
        Random seed.

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
