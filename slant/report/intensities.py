"""Distributions of the intensities in the brain, before and after intensity normalization."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.io.results import Result
from slant.preprocess.intensity import IntensityReference
from slant.resample import pick_labels

_BINS = 80
_SAMPLES = 20_001
_SMOOTHING = 1.5  # bins; hides the steps of integer intensities


@dataclass(frozen=True)
class Curve:
    """A density of intensities.

    Attributes
    ----------
    x, y : tuple of float
        Intensities, and their density relative to the maximum of the plot.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Plot:
    """Curves on one intensity axis.

    Attributes
    ----------
    low, high : float
        Ends of the intensity axis.
    """

    title: str
    unit: str
    low: float
    high: float
    curves: tuple[Curve, ...]


def intensity_plots(result: Result, reference: IntensityReference) -> tuple[Plot, ...]:
    """Plots of the original intensities, and of the normalized ones with those of the training scans.

    The first plot is left out if the scan is not available, and the curve of the training scans if the record does not
    contain the scaling of z-scores.
    """
    plots = []
    if result.scan is not None:
        original = result.scan.volume.data[result.brain.data != 0]
        if original.size:
            plots.append(_plot("before", "original intensity", {"this scan": original}))
    brain = pick_labels(result.brain, result.image.grid, result.native_from_template).data != 0
    normalized = {"this scan": result.image.data[brain]}
    line = result.record.intensity
    if line is not None:
        z = np.interp(np.linspace(0, 1, _SAMPLES), reference.quantiles, reference.values)
        normalized["training scans"] = (z + line.z_offset) * line.z_scale
    if normalized["this scan"].size:
        plots.append(_plot("after", "normalized intensity", normalized))
    return tuple(plots)


def _plot(title: str, unit: str, samples: dict[str, NDArray[np.floating]]) -> Plot:
    edges = [np.percentile(values, (0.2, 99.8)) for values in samples.values()]
    low, high = float(min(e[0] for e in edges)), float(max(e[1] for e in edges))
    high = high if high > low else low + 1
    densities = {
        name: ndimage.gaussian_filter1d(np.histogram(v, _BINS, (low, high))[0] / v.size, _SMOOTHING, mode="constant")
        for name, v in samples.items()
    }
    maximum = max(float(y.max()) for y in densities.values()) or 1.0
    x = tuple(float(i) for i in low + (np.arange(_BINS) + 0.5) * (high - low) / _BINS)
    curves = tuple(Curve(name, x, tuple(float(i) for i in y / maximum)) for name, y in densities.items())
    return Plot(title, unit, low, high, curves)
