"""Distributions of the intensities in the brain, before and after they were harmonized."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.intensity import IntensityReference
from slant.io.finished import Finished
from slant.resample import pick_labels

_BINS = 80
_SAMPLES = 20_001
_SMOOTHING = 1.5  # bins: hides that scans hold whole numbers


@dataclass(frozen=True)
class Curve:
    """A density over intensities.

    Attributes
    ----------
    name : str
    x, y : tuple of float
        Intensities, and their density with the largest of the plot at 1.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Plot:
    """Curves over one axis.

    Attributes
    ----------
    title, unit : str
    low, high : float
        Ends of the axis.
    curves : tuple of Curve
    """

    title: str
    unit: str
    low: float
    high: float
    curves: tuple[Curve, ...]


def intensity_plots(finished: Finished, reference: IntensityReference) -> tuple[Plot, ...]:
    """One plot of the scan's own intensities, and one of what the networks saw beside what they expect.

    The first is left out without the scan, the expected curve if the record does not say how z-scores are scaled.
    """
    plots = []
    if finished.scan is not None:
        own = finished.scan.data[finished.brain.data != 0]
        if own.size:
            plots.append(_plot("before", "the scan's own units", {"this scan": own}))
    brain = pick_labels(finished.brain, finished.image.grid, finished.home_from_template).data != 0
    seen = {"this scan": finished.image.data[brain]}
    line = finished.record.get("intensity")
    if line is not None:
        z = np.interp(np.linspace(0, 1, _SAMPLES), reference.quantiles, reference.values)
        seen["training scans"] = (z + line["z_offset"]) * line["z_scale"]
    if seen["this scan"].size:
        plots.append(_plot("after", "units of the networks", seen))
    return tuple(plots)


def _plot(title: str, unit: str, samples: dict[str, NDArray[np.floating]]) -> Plot:
    edges = [np.percentile(values, (0.2, 99.8)) for values in samples.values()]
    low, high = float(min(e[0] for e in edges)), float(max(e[1] for e in edges))
    high = high if high > low else low + 1
    counted = {
        name: ndimage.gaussian_filter1d(np.histogram(v, _BINS, (low, high))[0] / v.size, _SMOOTHING, mode="constant")
        for name, v in samples.items()
    }
    top = max(float(y.max()) for y in counted.values()) or 1.0
    x = tuple(float(i) for i in low + (np.arange(_BINS) + 0.5) * (high - low) / _BINS)
    curves = tuple(Curve(name, x, tuple(float(i) for i in y / top)) for name, y in counted.items())
    return Plot(title, unit, low, high, curves)
