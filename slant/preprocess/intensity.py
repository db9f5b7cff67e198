"""Intensity normalization of a scan to the training scans (Huo et al. 2019, section 2.3).

The intensities in the brain are z-scored and sorted. A robust linear fit (Huber 1964) maps the sorted vector to the
mean sorted vector of the training scans, and is applied to the whole brain. Sorted vectors are stored as quantiles, so
that brains of different sizes are comparable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from slant.errors import InputError
from slant.volume import LabelMap, Volume

QUANTILES = 1001
"""Number of quantiles that represent a sorted intensity vector."""

HUBER_SCALE = 0.1
"""Residual beyond which a quantile counts as an outlier, in standard deviations of the intensity in the brain."""


@dataclass(frozen=True, eq=False)
class IntensityReference:
    """The mean sorted intensities of a set of scans: (K,) z-scores at (K,) ascending quantiles from 0 to 1."""

    quantiles: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class LinearMap:
    """The map ``slope * intensity + intercept``."""

    slope: float
    intercept: float

    def then(self, following: LinearMap) -> LinearMap:
        """The map that applies this one and then another."""
        return LinearMap(following.slope * self.slope, following.slope * self.intercept + following.intercept)


def z_score(volume: Volume, mask: LabelMap, *, mask_brain: bool = True) -> Volume:
    """Scale a volume to mean 0 and standard deviation 1 inside the mask, on the same grid.

    Voxels outside the mask are set to 0 or, without ``mask_brain``, scaled like the brain.

    Raises
    ------
    InputError
        If the mask is empty or the intensity in it is constant.
    """
    mean, sd = _mean_and_sd(volume, mask)
    scaled = (volume.data - mean) / sd
    return Volume((np.where(mask.data != 0, scaled, 0) if mask_brain else scaled).astype(np.float32), volume.grid)


def _mean_and_sd(volume: Volume, mask: LabelMap) -> tuple[np.float64, np.float64]:
    values = volume.data[mask.data != 0].astype(np.float64)
    if not values.size or not values.std() > 0:
        raise InputError(
            f"the intensity of the {values.size} voxels in the brain is constant; check the scan and its mask"
        )
    return values.mean(), values.std()


def sorted_intensities(volume: Volume, mask: LabelMap) -> NDArray[np.float64]:
    """Quantiles of the intensities in the mask, (K,) float64, ascending."""
    values = volume.data[mask.data != 0].astype(np.float64)
    return np.asarray(np.quantile(values, np.linspace(0, 1, QUANTILES)), dtype=np.float64)


def build_reference(vectors: list[NDArray[np.float64]]) -> IntensityReference:
    """The mean of the sorted z-scored intensities of the training scans."""
    return IntensityReference(np.linspace(0, 1, QUANTILES), np.mean(vectors, axis=0))


def normalize_intensity(
    volume: Volume, mask: LabelMap, reference: IntensityReference, *, mask_brain: bool = True
) -> tuple[Volume, LinearMap]:
    """Map the intensities in the brain to the scale of the reference.

    Parameters
    ----------
    volume, mask : Volume, LabelMap
        Volume after bias field correction, and brain mask on the same grid.
    mask_brain : bool
        Set voxels outside the mask to 0; otherwise the fit is applied to the whole image, as in Huo et al.

    Returns
    -------
    normalized : Volume
        Intensities inside the mask in units of the reference (z-scores).
    line : LinearMap
        The map from the intensities of ``volume`` to those of ``normalized``, which has made them up to float32
        rounding.

    Raises
    ------
    InputError
        If the intensity in the brain is constant.
    """
    scored = z_score(volume, mask, mask_brain=mask_brain)
    own_values = np.interp(reference.quantiles, np.linspace(0, 1, QUANTILES), sorted_intensities(scored, mask))
    fit = huber_line(own_values, reference.values)
    normalized = Volume(fit.slope * scored.data + fit.intercept, volume.grid)
    mean, sd = map(float, _mean_and_sd(volume, mask))
    return normalized.masked(mask) if mask_brain else normalized, LinearMap(1 / sd, -mean / sd).then(fit)


def huber_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> LinearMap:
    """The map from x to y by robust regression with Huber's loss."""

    def residuals(line: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(line[0] * x + line[1] - y, dtype=np.float64)

    fit = least_squares(residuals, (1.0, 0.0), loss="huber", f_scale=HUBER_SCALE)
    return LinearMap(float(fit.x[0]), float(fit.x[1]))
