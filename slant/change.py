"""Change of a volume over the visits of a subject."""

from __future__ import annotations

import math
from collections.abc import Sequence

MIN_YEARS = 7 / 365.25
"""Shortest time between the first and the last visit for which a rate is computed: over less than a week, a rate would
be the noise of the measurements, multiplied by more than 50."""


def mean_volume_mm3(volumes_mm3: Sequence[float]) -> float:
    """Mean over the visits; nan without visits."""
    return math.fsum(volumes_mm3) / len(volumes_mm3) if volumes_mm3 else math.nan


def change_percent_per_year(volumes_mm3: Sequence[float], years: Sequence[float]) -> float:
    """Annualized percent change: slope of the least-squares line through the visits, in percent of the mean volume.

    It is the symmetrized percent change of Reuter et al. 2012 (NeuroImage 61:1402-1418): exchanging the first and the
    last visit changes its sign only. It does not depend on the order of the visits.

    Parameters
    ----------
    volumes_mm3, years : sequence of float
        Volume and time of each visit, for example in years since the first.

    Returns
    -------
    float
        nan if it is not defined: times that differ by less than a week, an unknown volume, or a mean of 0.

    Raises
    ------
    ValueError
        If there is not one time for each volume.
    """
    if len(volumes_mm3) != len(years):
        raise ValueError(f"found {len(volumes_mm3)} volumes and {len(years)} times, expected one time for each volume")
    mean = mean_volume_mm3(volumes_mm3)
    if len(years) < 2 or not 0 < mean < math.inf or not max(years) - min(years) >= MIN_YEARS:
        return math.nan
    center = math.fsum(years) / len(years)
    covariance = math.fsum((t - center) * (v - mean) for t, v in zip(years, volumes_mm3, strict=True))
    variance = math.fsum((t - center) ** 2 for t in years)
    return 100 * covariance / variance / mean
