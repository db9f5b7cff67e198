"""Volumes over the visits of a subject, and where their curves lie in a small plot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slant.change import change_percent_per_year, mean_volume_mm3
from slant.volumes import match_volumes

if TYPE_CHECKING:
    from slant.io.subject_result import SubjectResult
    from slant.volumes import VolumeRow

NOISE_PERCENT = 1.0
"""Assumed mean absolute difference of the volumes of a region in two scans of one subject on one day.

It lies between what was measured: 0.2 % for simulated scans that are segmented together, 2.1 % for real scans that are
segmented one by one (docs/explanation/accuracy.md).
"""

WIDTH, HEIGHT = 230, 132
"""Size of a plot in pixels."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 12, 8, 20  # margins of the axes in pixels
_MIN_RANGE = 2.5 * NOISE_PERCENT  # of the y axis from the mean, in percent
_PADDING = 0.08  # of the y axis, at both ends
_SUMS = {"Brain and tissues": ("brain", "tissue", "intracranial"), "Lobes and other structures": ("lobe",)}
_SIDES = {"L": "left", "R": "right"}
_TITLES = {
    "gray": "Gray matter",
    "white": "White matter",
    "csf": "Ventricles (CSF)",
    "brain without ventricles": "Brain without ventricles",
    "brain with ventricles": "Brain with ventricles",
    "estimated total intracranial volume": "Intracranial (eTIV)",
}


@dataclass(frozen=True)
class TimeAxis:
    """The x axis of all plots: years since the first visit or, if they are unknown or all equal, visit numbers.

    Attributes
    ----------
    values : tuple of float
        One for each visit.
    known : bool
        Whether they are years.
    """

    values: tuple[float, ...]
    known: bool

    @property
    def span(self) -> float:
        """From the first to the last visit."""
        return max(self.values) - min(self.values)

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Position in pixels and text of both ends, or of the only visit."""
        ends = sorted({min(self.values), max(self.values)})
        texts = [f"{end:.3g} y" for end in ends] if self.known else [f"visit {end:g}" for end in ends]
        return tuple((self.pixel(end), text) for end, text in zip(ends, texts, strict=True))

    def pixel(self, value: float) -> float:
        """Position of a value in a plot."""
        inside = WIDTH - _LEFT - _RIGHT
        return round(_LEFT + inside * ((value - min(self.values)) / self.span if self.span else 0.5), 1)


@dataclass(frozen=True)
class VolumeCurve:
    """One volume over the visits.

    Attributes
    ----------
    side : str
        ``left``, ``right``, or empty.
    mm3 : tuple of float
        One for each visit; nan if unknown.
    change : float
        Annualized percent change; nan if it is not defined.
    """

    side: str
    row: VolumeRow
    mm3: tuple[float, ...]
    change: float

    @property
    def unit(self) -> str:
        """Unit in which the plots show the volume."""
        return "mm³" if self.row.level == "region" else "cm³"

    @property
    def pair(self) -> str:
        """Abbreviation without the side."""
        return self.row.abbreviation.removeprefix("L-").removeprefix("R-")

    @property
    def mean(self) -> float:
        """Mean over the visits, in mm3."""
        return mean_volume_mm3(self.mm3)

    @property
    def percent(self) -> tuple[float, ...]:
        """Volumes in percent of their mean."""
        return tuple(100 * value / self.mean for value in self.mm3)

    @property
    def difference(self) -> float:
        """Difference of the last and the first volume, in percent of the mean."""
        return 100 * (self.mm3[-1] - self.mm3[0]) / self.mean if self.mean else math.nan


@dataclass(frozen=True)
class DrawnCurve:
    """A curve as SVG draws it: points of the line, and the path of the dots."""

    curve: VolumeCurve
    points: str
    dots: str


@dataclass(frozen=True)
class TrajectoryPlot:
    """A plot of one or two curves, left and right, in percent of their means.

    Attributes
    ----------
    curves : tuple of DrawnCurve
        Empty if the region was found at no visit, or the volume is unknown at one.
    ticks : tuple of (float, str)
        Position in pixels and text of the values on the y axis.
    band : tuple of 2 float
        Upper edge and height in pixels of the band of the noise, `NOISE_PERCENT` around the mean.
    """

    title: str
    abbreviation: str
    lobe: str
    curves: tuple[DrawnCurve, ...]
    ticks: tuple[tuple[float, str], ...]
    band: tuple[float, float]


def time_axis(result: SubjectResult) -> TimeAxis:
    """The x axis for the visits of a subject."""
    years = result.years
    if years is not None and any(years):
        return TimeAxis(years, known=True)
    return TimeAxis(tuple(float(i) for i in range(1, len(result.visits) + 1)), known=False)


def volume_curves(result: SubjectResult) -> tuple[VolumeCurve, ...]:
    """All volumes of a subject, in the order of the table of volumes."""
    years = result.years
    return tuple(
        VolumeCurve(
            _SIDES.get(row.hemisphere, ""), row, mm3, math.nan if years is None else change_percent_per_year(mm3, years)
        )
        for row, mm3 in match_volumes(result.volumes)
    )


def sum_plots(curves: Sequence[VolumeCurve], axis: TimeAxis) -> dict[str, tuple[TrajectoryPlot, ...]]:
    """Plots of the brain, the tissues and the eTIV, and of the lobes, by their heading."""
    return {
        heading: tuple(
            _plot(group, axis) for level in levels for group in _grouped(c for c in curves if c.row.level == level)
        )
        for heading, levels in _SUMS.items()
    }


def region_plots(curves: Sequence[VolumeCurve], axis: TimeAxis) -> dict[str, tuple[TrajectoryPlot, ...]]:
    """Plots of all regions by lobe, left and right in one plot, sorted by name."""
    plots = [_plot(group, axis) for group in _grouped(c for c in curves if c.row.level == "region")]
    lobes = sorted({plot.lobe for plot in plots})
    return {lobe: tuple(sorted((p for p in plots if p.lobe == lobe), key=lambda p: p.title.lower())) for lobe in lobes}


def _grouped(curves: Iterable[VolumeCurve]) -> Iterator[list[VolumeCurve]]:
    """Left and right of one region; of a sum, left and right of a lobe and the whole otherwise."""
    groups: dict[tuple[str, str], list[VolumeCurve]] = {}
    for curve in curves:
        name = curve.row.name.removeprefix("Left ").removeprefix("Right ")
        groups.setdefault((curve.row.level, name), []).append(curve)
    for (level, _), group in groups.items():
        sided = sorted((curve for curve in group if curve.side), key=lambda curve: curve.side)
        whole = [curve for curve in group if not curve.side]
        yield sided if sided and level in ("region", "lobe") else whole


def _plot(group: list[VolumeCurve], axis: TimeAxis) -> TrajectoryPlot:
    row = group[0].row
    abbreviation = group[0].pair
    name = row.name.removeprefix("Left ").removeprefix("Right ").removeprefix(f"{abbreviation} ")
    known = [curve for curve in group if curve.mean > 0]
    values = [value for curve in known for value in curve.percent]
    low, high = min(values, default=100.0), max(values, default=100.0)
    low, high = min(low, 100 - _MIN_RANGE), max(high, 100 + _MIN_RANGE)
    padding = _PADDING * (high - low)
    low, high = low - padding, high + padding

    def pixel(percent: float) -> float:
        return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (high - percent) / (high - low), 1)

    def drawn(curve: VolumeCurve) -> DrawnCurve:
        places = [(axis.pixel(x), pixel(y)) for x, y in zip(axis.values, curve.percent, strict=True)]
        line = " ".join(f"{x:g},{y:g}" for x, y in places)
        return DrawnCurve(curve, line, "".join(f"M{x:g} {y:g}h0" for x, y in places))

    band = pixel(100 + NOISE_PERCENT)
    return TrajectoryPlot(
        _TITLES.get(name, name[:1].upper() + name[1:]),
        abbreviation,
        row.lobe,
        tuple(drawn(curve) for curve in known),
        tuple((pixel(value), f"{value:g}") for value in _ticks(low, high)),
        (band, round(pixel(100 - NOISE_PERCENT) - band, 1)),
    )


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers between two values."""
    from matplotlib.ticker import MaxNLocator

    values = MaxNLocator(nbins=4, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(value) for value in values if low <= value <= high]
