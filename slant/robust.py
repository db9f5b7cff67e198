"""Robust statistics: the spread of values of which some are outliers."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

SD_PER_MAD = 1.4826
"""Standard deviation of a normal distribution divided by its median absolute deviation."""


def robust_sd(values: ArrayLike, center: float | None = None) -> float:
    """Robust standard deviation: 1.4826 times the median absolute deviation (Hampel 1974, JASA 69:383).

    The (N,) values have no nan; their deviations are from a given center, by default the median.
    """
    known = np.asarray(values)
    return SD_PER_MAD * float(np.median(np.abs(known - (np.median(known) if center is None else center))))
