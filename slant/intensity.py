"""Brings the intensities of a scan to those of the training scans (Huo et al. 2019, section 2.3).

The intensities in the brain are z-scored and sorted; a robust line (Huber 1964) maps the sorted vector onto the mean
sorted vector of the training scans, and is applied to the whole brain. Sorted vectors are kept as quantiles, so that
brains of any size compare.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from slant.errors import InputError
from slant.volume import LabelMap, Volume

QUANTILES = 1001
"""Length of a sorted intensity vector."""

HUBER_SCALE = 0.1
"""Residual, in standard deviations of the brain's intensity, beyond which a quantile counts as an outlier."""


@dataclass(frozen=True, eq=False)
class IntensityReference:
    """The mean sorted intensities of a set of scans.

    Attributes
    ----------
    quantiles : (K,) float64 array
        Ascending, 0 to 1.
    values : (K,) float64 array
        z-scored intensity at each quantile.
    """

    quantiles: NDArray[np.float64]
    values: NDArray[np.float64]


def z_score(volume: Volume, mask: LabelMap, *, keep_head: bool = False) -> Volume:
    """The volume with mean 0 and standard deviation 1 inside the mask; 0 outside, or scaled alike to keep the head.

    Raises
    ------
    InputError
        If the mask is empty or the intensity in it is constant.
    """
    inside = mask.data != 0
    values = volume.data[inside].astype(np.float64)
    if not values.size or not values.std() > 0:
        raise InputError(f"the intensity of the {values.size} voxels in the brain is constant; this is not an image")
    scaled = (volume.data - values.mean()) / values.std()
    return Volume((scaled if keep_head else np.where(inside, scaled, 0)).astype(np.float32), volume.grid)


def sorted_intensities(volume: Volume, mask: LabelMap) -> NDArray[np.float64]:
    """(K,) float64 quantiles of the intensities in the mask, ascending."""
    values = volume.data[mask.data != 0].astype(np.float64)
    return np.asarray(np.quantile(values, np.linspace(0, 1, QUANTILES)), dtype=np.float64)


def build_reference(vectors: list[NDArray[np.float64]]) -> IntensityReference:
    """The mean of the sorted z-scored intensities of the training scans."""
    return IntensityReference(np.linspace(0, 1, QUANTILES), np.mean(vectors, axis=0))


def harmonize(volume: Volume, mask: LabelMap, reference: IntensityReference, *, keep_head: bool = False) -> Volume:
    """Intensities in the brain on the scale of the reference; 0 outside.

    Parameters
    ----------
    volume : Volume
        Corrected for bias.
    mask : LabelMap
        Brain mask on the same grid.
    reference : IntensityReference
    keep_head : bool
        Apply the line found in the brain to the whole image, as Huo et al. do.

    Returns
    -------
    Volume
        z-scores of the reference inside the mask.

    Raises
    ------
    InputError
        If the intensity in the brain is constant.
    """
    scored = z_score(volume, mask, keep_head=keep_head)
    found = np.interp(reference.quantiles, np.linspace(0, 1, QUANTILES), sorted_intensities(scored, mask))
    slope, intercept = huber_line(found, reference.values)
    line = Volume(slope * scored.data + intercept, volume.grid)
    return line if keep_head else line.masked(mask)


def huber_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and intercept of ``y = slope * x + intercept`` by Huber's robust regression."""

    def residuals(line: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(line[0] * x + line[1] - y, dtype=np.float64)

    fit = least_squares(residuals, (1.0, 0.0), loss="huber", f_scale=HUBER_SCALE)
    return float(fit.x[0]), float(fit.x[1])


def line_between(before: Volume, after: Volume, mask: LabelMap) -> tuple[float, float]:
    """Slope and intercept of the line that took one image to another in the brain.

    Parameters
    ----------
    before, after : Volume
        On one grid; ``after`` a line of ``before``, but for values that a limit cut off at either end.
    mask : LabelMap
        Brain mask on the same grid, not empty.
    """
    inside = mask.data != 0
    given, made = before.data[inside].astype(np.float64), after.data[inside].astype(np.float64)
    low, high = np.percentile(given, (5, 95))
    kept = (given >= low) & (given <= high) if low < high else np.ones(given.shape, dtype=np.bool_)
    slope, intercept = np.polyfit(given[kept], made[kept], 1)
    return float(slope), float(intercept)
