"""Makes the intensities of a scan robust: zero is the background, and no voxel lies far outside the range of the scan.

Later steps take 0 for the background (masks), divide by a smooth field (bias correction, so that zero matters), and use
means, ranges and histograms (so that outliers matter). A scan need not be like that: intensities may have been
z-scored, shifted or scaled, and a few voxels may be absurd because of overflow, vessels or the coil. The linear map to
robust intensities is found from the whole image, before there is a brain mask; it leaves a scan alone whose background
is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.volume import Volume

OUTLIER_RANGES = 6.0
"""Intensity above which a voxel is an outlier, in 99th percentiles of the foreground: the brightest voxels of 58 scans,
of vessels and fat near the coil, had up to 5.1."""

MAX_REPAIRED_FRACTION = 0.001
"""Fraction of the voxels up to which outliers get the median of their neighbours; more are clipped only."""

_STEP = 2  # the range is found on every second voxel along each axis
_MAX_DEPTH = 0.03  # of the foreground's range: how far a background lies above its lowest values, by ringing and noise
_CONSTANT, _MASKED = 0.05, 0.5  # fractions of the faces of the image that a constant has, and that around a mask
_TINY = 1e-3  # of the range of the intensities: noise that counts as a constant
_DARK_RATIO, _MAX_DARK_RATIO = 0.1, 0.2  # 0.1th to 90th percentile: 0.02 to 0.16 in 43 skull-stripped scans
_RANGE_LIMITS = (2.0**-6, 2.0**20)  # ranges in which no step loses precision
_TARGET_EXPONENT = 7  # a range outside is scaled to 128..256
_OUTLIER_MARGIN = np.float32(1.1)  # so that clipped voxels are not outliers again, if this is applied twice
_NEIGHBOURS = np.indices((3, 3, 3)).reshape(3, -1).T - 1


@dataclass(frozen=True)
class IntensityRange:
    """The map ``(intensity - zero) * scale`` from the intensities of a scan to robust ones, and what was changed.

    Attributes
    ----------
    zero : float
        Intensity of the background: the constant value around a mask, or the lowest of the air. A constant inside the
        range of the brain, as after z-scoring inside the mask, or far below, is not an intensity but a fill value; if
        there is no other, zero lies below the darkest voxels as in other scans.
    scale : float
        A power of two; 1 unless the range of the intensities is extremely small or large.
    outliers : int
        Number of voxels that were far outside the range, and got the median of their neighbours or the limit.
    """

    zero: float = 0.0
    scale: float = 1.0
    outliers: int = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """A warning if there were outliers."""
        if not self.outliers:
            return ()
        voxels = "voxel has an intensity" if self.outliers == 1 else "voxels have intensities"
        return (
            f"{self.outliers} {voxels} far outside the range of the scan (overflow, a vessel or the coil) and got the "
            "median of the neighbouring voxels; check the labels there",
        )


def robust_intensities(scan: Volume) -> tuple[Volume, IntensityRange]:
    """The scan with its background at 0, with no negative voxels and without absurd ones; and the map to it.

    Any affine change of the intensities, and any other constant around the head, gives the same result up to scale and
    rounding. The scan itself is returned if its background is 0 and nothing has to change.

    Parameters
    ----------
    scan : Volume
        Without NaN or infinite voxels.
    """
    original = _with_constant_background(scan.data)
    values = original[::_STEP, ::_STEP, ::_STEP].astype(np.float64)
    constants = _constants(faces(original))
    foreground = values[~np.isin(values, list(constants))]
    if foreground.size == 0:
        return scan, IntensityRange()
    darkest, low, bright, high = np.quantile(foreground, (0.001, 0.01, 0.9, 0.99))
    fill = [
        value
        for value in constants
        if value - low > _MAX_DEPTH * (high - low) or darkest - value > _MAX_DARK_RATIO * (bright - value)
    ]
    filled = sum(constants[value] for value in fill)
    zero = next((value for value in constants if value not in fill), None)  # the most frequent one
    if zero is None and filled >= _MASKED:
        zero = float((darkest - _DARK_RATIO * bright) / (1 - _DARK_RATIO))
    elif zero is None or constants[zero] < _MASKED * (1 - filled):
        zero = float(np.quantile(values[~np.isin(values, fill)], 0.001))
    top = float(high - zero)
    if not top > 0:
        return scan, IntensityRange()
    data = original if zero == 0 else np.asarray(original.astype(np.float64) - zero, dtype=np.float32)
    if fill:
        data = np.where(connected_to_faces(np.isin(original, np.asarray(fill, dtype=np.float32))), np.float32(0), data)
    data, outliers = _without_outliers(data, top)
    scale = (
        1.0 if _RANGE_LIMITS[0] <= top < _RANGE_LIMITS[1] else 2.0 ** (_TARGET_EXPONENT - math.floor(math.log2(top)))
    )
    if scale != 1:
        data = data * np.float32(scale)
    return scan if data is scan.data else Volume(data, scan.grid), IntensityRange(zero, scale, outliers)


def faces(data: NDArray[Any]) -> NDArray[Any]:
    """(N,) values on the six faces of an (X, Y, Z) array; those on the edges more than once."""
    return np.concatenate([np.take(data, end, axis=axis).ravel() for axis in range(3) for end in (0, -1)])


def _with_constant_background(data: NDArray[np.float32]) -> NDArray[np.float32]:
    """The data with one value around a mask where there are tiny ones, as interpolation leaves; unchanged otherwise."""
    border = faces(data)
    distinct, counts = np.unique(border, return_counts=True)
    if counts.max() >= _MASKED * border.size:
        return data
    middle = distinct[np.searchsorted(np.cumsum(counts), border.size / 2)]
    tiny = np.float32(_TINY) * (np.quantile(data[::_STEP, ::_STEP, ::_STEP], 0.99) - middle)
    if np.mean(np.abs(border - middle) <= abs(tiny)) < _MASKED:
        return data
    return np.where(connected_to_faces(np.abs(data - middle) <= abs(tiny)), middle, data)


def _constants(values: NDArray[np.float32]) -> dict[float, float]:
    """The values that are at least a fraction `_CONSTANT` of all, with their fractions, the most frequent first."""
    distinct, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {float(distinct[i]): float(counts[i] / values.size) for i in order if counts[i] >= _CONSTANT * values.size}


def connected_to_faces(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected components (6 neighbours) of an (X, Y, Z) mask that touch a face of the image."""
    components, count = ndimage.label(mask)
    touching = np.zeros(count + 1, dtype=np.bool_)
    touching[np.unique(faces(components))] = True
    touching[0] = False
    return touching[components]


def _without_outliers(data: NDArray[np.float32], top: float) -> tuple[NDArray[np.float32], int]:
    """The data between 0 and the limit, and the number of voxels that were far outside; the same array if unchanged."""
    limit = np.float32(OUTLIER_RANGES * top)
    absurd = np.abs(data) > _OUTLIER_MARGIN * limit
    count = int(np.count_nonzero(absurd))
    if not count and not (data < 0).any():
        return data, 0
    clipped = np.clip(data, np.float32(0), limit)
    if 0 < count <= MAX_REPAIRED_FRACTION * data.size:
        voxels = np.argwhere(absurd)
        around = np.clip(voxels[:, None] + _NEIGHBOURS, 0, np.array(data.shape) - 1)
        index = tuple(np.moveaxis(around, -1, 0))
        good = ~absurd[index] & (clipped[index] > 0)
        medians = np.nanmedian(np.where(good, clipped[index], np.nan), axis=1) if good.any() else np.nan
        clipped[absurd] = np.where(good.any(axis=1), medians, clipped[absurd])
    return clipped, count
