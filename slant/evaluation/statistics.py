"""What can be said of the mean over scans, and of the difference of two methods on the same scans."""

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
        Draws of as many scans with replacement, the same for all columns.
    seed : int

    Returns
    -------
    low, high : (columns,) float64 arrays
        nan where less than two scans have a value.
    """
    scans = len(values)
    low, high = np.full((2, values.shape[1]), np.nan)
    known = ~np.isnan(values)
    draws = np.random.default_rng(seed).multinomial(scans, np.full(scans, 1 / scans), size=resamples)
    for column in np.flatnonzero(known.sum(axis=0) >= 2):
        own = draws[:, known[:, column]]
        counts = own.sum(axis=1)
        means = (own @ values[known[:, column], column])[counts > 0] / counts[counts > 0]
        low[column], high[column] = np.percentile(means, (_LOW, _HIGH))
    return low, high


@dataclass(frozen=True)
class Difference:
    """Paired comparison of two methods over scans.

    Attributes
    ----------
    pairs : int
        Scans where both methods have a value.
    median : float
        Of second minus first; nan without pairs.
    p : float
        Two-sided Wilcoxon signed-rank test (Wilcoxon 1945), equal pairs left out; 1 if all pairs are equal, nan
        without pairs.
    smallest_p : float
        What ``p`` would be if all pairs differed in one direction: the least that so many pairs can give.
    """

    pairs: int
    median: float
    p: float
    smallest_p: float


def paired_difference(first: Values, second: Values) -> Difference:
    """Compare two methods' values on the same scans, nan where there is none."""
    from scipy.stats import wilcoxon

    apart = second - first
    apart = apart[~np.isnan(apart)]
    if apart.size == 0:
        return Difference(0, math.nan, math.nan, math.nan)
    unequal = apart[apart != 0]
    p = float(wilcoxon(unequal).pvalue) if unequal.size else 1.0
    return Difference(apart.size, float(np.median(apart)), p, 2.0 ** (1 - apart.size))


def holm(p: Values) -> Values:
    """P values adjusted for being several (Holm 1979, Scand J Stat 6:65-70); nan are no tests and stay nan."""
    adjusted = np.full(p.shape, np.nan)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(order.size, 0, -1)))
    return adjusted
