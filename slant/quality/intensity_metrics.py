"""Reference-free quality metrics of the intensities of a scan: contrast, noise and outliers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from slant.robust import robust_sd
from slant.threads import ONE_THREAD, Threads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from slant.io.results import Result
    from slant.volume import Volume

    Mask = NDArray[np.bool_]
    Array = NDArray[np.float32]

BORDER_MM = 2
"""Thickness of the border of the brain mask that should contain no white matter."""

OUTLIER_SIGMA_MM = 1.5
"""Standard deviation of the Gaussian that suppresses noise before intensity outliers are detected."""

OUTLIER_ROBUST_SD = 4.0
"""Distance from the median of its tissue, in robust SDs, above which a voxel is an intensity outlier."""

DARK_WIDE_MM, DARK_THIN_MM, DARK_NEAR_MM = 4, 2, 8
"""Radius of the ball that fits into an asymmetric hypointensity; radius of the ball that fits into a counterpart in the
other hemisphere; maximum distance of the counterpart from the mirror image."""

_NAMES = (
    "wm_gm_contrast",
    "cjv",
    "gm_csf_contrast",
    "noise",
    "bright_mask_border",
    "intensity_outlier",
    "asymmetric_hypointensity",
)
_BLOCK = 2  # voxels along each edge


def intensity_metrics(result: Result, brain: Mask, threads: Threads = ONE_THREAD) -> dict[str, float]:
    """Contrast, noise, intensity outliers and asymmetric hypointensities of the scan in template space.

    All are nan if white matter, gray matter or the ventricles have fewer than 1000 voxels.

    Parameters
    ----------
    brain : array of bool
        Brain mask on the template's grid.
    threads : Threads, optional
        Compute the slower metrics.

    Returns
    -------
    dict of str to float
        ``wm_gm_contrast``: difference of the medians of white and gray matter, as a fraction of the median of white
        matter; ``cjv``: sum of the robust SDs of white and gray matter divided by the absolute difference of their
        medians (coefficient of joint variation, Ganzetti et al. 2016, lower is better); ``gm_csf_contrast``:
        difference of the medians of gray matter and the ventricles, as a fraction of the median of white matter;
        ``noise``: standard deviation from the finest diagonal Haar coefficients in white matter (Donoho & Johnstone
        1994), as a fraction of the contrast; ``bright_mask_border``: percentage of the outermost voxels of the mask
        that are brighter than the mean of the medians of white and gray matter; ``intensity_outlier``: cm3 of the
        largest connected component in white or gray matter whose smoothed intensity is an outlier of its tissue;
        ``asymmetric_hypointensity``: cm3 of the largest component in the brain, whatever its label, that is as dark as
        CSF in one hemisphere only.
    """
    image, groups = result.image.data, result.protocol.groups("tissue")
    tissues = {name: np.isin(result.template_labels.data, groups.get(name, ())) for name in ("white", "gray", "csf")}
    values = {name: image[mask] for name, mask in tissues.items()}
    if any(part.size < 1000 for part in values.values()):
        return dict.fromkeys(_NAMES, math.nan)
    median = {name: float(np.median(part)) for name, part in values.items()}
    dark = threads.start(asymmetric_hypointensity_cm3, result.image, brain, (median["gray"] + median["csf"]) / 2)
    noise = threads.start(native_noise, result)
    spread = {name: robust_sd(part) for name, part in values.items()}
    outlier = threads.start(intensity_outlier_cm3, image, tissues, median, spread)
    difference = median["white"] - median["gray"]
    scale = max(abs(difference), 1e-6)
    border = brain & ~ndimage.binary_erosion(brain, iterations=BORDER_MM)
    bright = (median["white"] + median["gray"]) / 2
    metrics = (
        difference / max(abs(median["white"]), 1e-6),
        (spread["white"] + spread["gray"]) / scale,
        (median["gray"] - median["csf"]) / max(abs(median["white"]), 1e-6),
        noise.result() / scale,
        100 * float((image[border] > bright).mean()) if border.any() else math.nan,
        outlier.result(),
        dark.result(),
    )
    return dict(zip(_NAMES, metrics, strict=True))


def native_noise(result: Result) -> float:
    """Standard deviation of the noise in white matter of the scan in native space, in normalized intensity.

    The preprocessed image in template space is used if the scan is not available.
    """
    line = result.record.intensity
    if result.scan is None or line is None:
        data, slope, labels = result.image.data, 1.0, result.template_labels.data
    else:
        data, slope, labels = result.scan.volume.data, abs(line.slope), result.labels.data
    inside = ndimage.binary_erosion(np.isin(labels, result.protocol.groups("tissue")["white"]))
    x, y, z = (n - n % 2 for n in data.shape)
    blocks = np.stack(
        [data[i:x:2, j:y:2, k:z:2] * (1 - 2 * ((i + j + k) % 2)) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    )
    white = np.stack([inside[i:x:2, j:y:2, k:z:2] for i in (0, 1) for j in (0, 1) for k in (0, 1)]).all(axis=0)
    if white.sum() < 100:
        return math.nan
    coefficients = blocks.sum(axis=0)[white] / math.sqrt(8)
    return slope * robust_sd(coefficients, center=0.0)


def intensity_outlier_cm3(
    image: Array, tissues: Mapping[str, Mask], median: Mapping[str, float], robust_sd: Mapping[str, float]
) -> float:
    """Volume in cm3 of the largest connected component whose smoothed intensity is an outlier of its tissue."""
    smooth = ndimage.gaussian_filter(image, OUTLIER_SIGMA_MM)
    outlier = np.zeros(image.shape, dtype=np.bool_)
    for name in ("white", "gray"):
        core = ndimage.binary_erosion(tissues[name])
        outlier |= core & (np.abs(smooth - median[name]) > OUTLIER_ROBUST_SD * robust_sd[name])
    return _largest_component(outlier) / 1000


def asymmetric_hypointensity_cm3(image: Volume, brain: Mask, level: float) -> float:
    """Volume in cm3 of the largest connected component in the brain that is hypointense in one hemisphere only.

    Ventricles, fissures and atrophy are hypointense in both hemispheres, and sulci are thin. So only those parts of
    the hypointense area count into which a ball of radius `DARK_WIDE_MM` fits. Parts within `DARK_NEAR_MM` of the
    mirror image of a hypointense area into which a ball of radius `DARK_THIN_MM` fits are excluded. Computed on blocks
    of 2 x 2 x 2 voxels.

    Parameters
    ----------
    image : Volume
        Image in template space, where x = 0 is the midsagittal plane, with voxels of 1 mm.
    brain : array of bool
        Brain mask on the same grid; holes in the mask count as brain.
    level : float
        Intensity between CSF and gray matter below which a block is hypointense.
    """
    x, y, z = (n // _BLOCK for n in brain.shape)
    blocks = image.data[: _BLOCK * x, : _BLOCK * y, : _BLOCK * z].reshape(x, _BLOCK, y, _BLOCK, z, _BLOCK)
    inside = ndimage.binary_fill_holes(brain[::_BLOCK, ::_BLOCK, ::_BLOCK][:x, :y, :z])
    dark = inside & (blocks.mean(axis=(1, 3, 5)) < level)
    wide = ndimage.binary_opening(dark, _ball(DARK_WIDE_MM))
    if not wide.any():
        return 0.0
    thin = ndimage.binary_opening(dark, _ball(DARK_THIN_MM))
    midline = image.grid.voxel_from_ras[0, 3]
    partners = np.rint((2 * midline - (_BLOCK - 1)) / _BLOCK - np.arange(x)).astype(int)
    inside_grid = (partners >= 0) & (partners < x)
    mirrored = np.zeros_like(thin)
    mirrored[inside_grid] = thin[partners[inside_grid]]
    one_sided = wide & ~ndimage.binary_dilation(mirrored, _ball(DARK_NEAR_MM))
    return _largest_component(one_sided) * _BLOCK**3 / 1000


def _largest_component(mask: Mask) -> float:
    """Number of voxels of the largest connected component; 0 if there is none."""
    components, count = ndimage.label(mask)
    return float(np.bincount(components.ravel())[1:].max()) if count else 0.0


def _ball(radius_mm: int) -> Mask:
    radius = radius_mm // _BLOCK
    ball: Mask = np.linalg.norm(np.indices((2 * radius + 1,) * 3) - radius, axis=0) <= radius
    return ball
