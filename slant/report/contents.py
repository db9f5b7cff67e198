"""Figures and numbers of one scan's report, whether it is drawn as HTML or as PDF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.config import ReportSettings
from slant.io.quality import Check
from slant.io.results import Result
from slant.io.templates import load_intensity_reference, load_template
from slant.preprocess.intensity import IntensityReference
from slant.report.qc_figures import (
    BiasCheck,
    base_in_native,
    bias_check,
    registration_rows,
    scan_in_template,
    votes_rows,
)
from slant.report.slices import PanelRow, labelled_rows
from slant.report.tables import RegionLine, region_lines
from slant.threads import ONE_THREAD, Threads

_BINS = 80
_SAMPLES = 20_001
_SMOOTHING = 1.5  # bins; hides the steps of integer intensities


@dataclass(frozen=True, eq=False)
class Contents:
    """Figures and numbers that the HTML report and the PDF of one scan show.

    Attributes
    ----------
    native, mni, registration, votes : tuple of PanelRow
        Slices in native space, in MNI305, of the registration and of the vote fraction.
    bias : BiasCheck or None
        None if the bias field is not known.
    quality : tuple of Check
        The worst first; empty if the scan is not graded.
    """

    result: Result
    settings: ReportSettings
    regions: tuple[RegionLine, ...]
    native: tuple[PanelRow, ...]
    mni: tuple[PanelRow, ...]
    registration: tuple[PanelRow, ...]
    votes: tuple[PanelRow, ...]
    bias: BiasCheck | None
    plots: tuple[Plot, ...]
    quality: tuple[Check, ...] = ()

    @property
    def grade(self) -> str:
        """The worst grade of the checks; empty without checks."""
        grades = {check.grade for check in self.quality}
        return next((grade for grade in ("fail", "review", "pass") if grade in grades), "")

    @property
    def title(self) -> str:
        """Name of the scan, with bytes that are not valid text replaced."""
        return self.result.name.encode(errors="replace").decode()


def contents(
    result: Result,
    settings: ReportSettings,
    quality: tuple[Check, ...] | None = None,
    flags: Mapping[int, str] | None = None,
    threads: Threads = ONE_THREAD,
) -> Contents:
    """Draw the figures and collect the numbers of the report of a scan.

    Parameters
    ----------
    quality : tuple of Check, optional
        Quality checks to show instead of those in the record.
    flags : mapping of int to str, optional
        Flags of regions by id; by default those in the record, or those of `slant.report.tables.simple_flags` if the
        scan is not graded.
    threads : Threads, optional
        Draw the figures.
    """
    if quality is None:
        quality = result.quality.checks if result.quality else ()
    if flags is None and result.quality:
        flags = result.quality.flags
    radiological, protocol = settings.radiological, result.protocol
    registering = threads.start(scan_in_template, result)
    base = base_in_native(result)
    native = threads.start(labelled_rows, base, result.labels, protocol, radiological=radiological)
    mni = threads.start(labelled_rows, result.image, result.template_labels, protocol, radiological=radiological)
    votes = threads.start(votes_rows, result, radiological=radiological)
    plots = threads.start(intensity_plots, result, load_intensity_reference())
    registered = registering.result()
    registration = threads.start(registration_rows, result, registered, load_template(), radiological=radiological)
    bias = threads.start(bias_check, result, registered, radiological=radiological)
    return Contents(
        result,
        settings,
        region_lines(result, flags),
        native.result(),
        mni.result(),
        registration.result(),
        votes.result(),
        bias.result(),
        plots.result(),
        quality,
    )


@dataclass(frozen=True)
class Curve:
    """A density of intensities: ``x``, and their density ``y`` relative to the maximum of the plot."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Plot:
    """Curves on an intensity axis from ``low`` to ``high``."""

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
    normalized = {"this scan": result.image.data[result.template_brain.data != 0]}
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
