"""Figures and numbers of one scan's report, whether it is drawn as HTML or as PDF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slant.config import ReportSettings
from slant.io.quality import Check
from slant.io.results import Result
from slant.io.templates import load_intensity_reference, load_template
from slant.report.intensities import Plot, intensity_plots
from slant.report.overlay import labelled_box
from slant.report.paint import gray_range
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
from slant.volume import LabelMap, Volume


@dataclass(frozen=True, eq=False)
class Contents:
    """Figures and numbers that the HTML report and the PDF of one scan show.

    Attributes
    ----------
    native, mni, registration, votes : tuple of PanelRow
        Slices in native space, in MNI305, of the registration and of the vote fraction; see
        `slant.report.qc_figures` and `slant.report.slices`.
    bias : BiasCheck or None
        None if the bias field is not known.
    plots : tuple of Plot
        Intensity distributions.
    quality : tuple of Check
        Quality checks, the worst first; empty if the scan is not graded.
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
    def warnings(self) -> tuple[str, ...]:
        """Warnings of the segmentation."""
        return self.result.record.warnings

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
) -> Contents:
    """Draw the figures and collect the numbers of the report of a scan.

    Parameters
    ----------
    quality : tuple of Check, optional
        Quality checks to show instead of those in the record.
    flags : mapping of int to str, optional
        Flags of regions by id; by default those in the record, or those of `slant.report.tables.simple_flags` if the
        scan is not graded.
    """
    recorded = result.quality
    if quality is None:
        quality = () if recorded is None else recorded.checks
    if flags is None and recorded is not None:
        flags = recorded.flags
    radiological = settings.radiological
    registered = scan_in_template(result)
    return Contents(
        result,
        settings,
        region_lines(result, flags),
        _labelled(result, base_in_native(result), result.labels, radiological=radiological),
        _labelled(result, result.image, result.template_labels, radiological=radiological),
        registration_rows(result, registered, load_template(), radiological=radiological),
        votes_rows(result, radiological=radiological),
        bias_check(result, registered, radiological=radiological),
        intensity_plots(result, load_intensity_reference()),
        quality,
    )


def _labelled(result: Result, base: Volume, labels: LabelMap, *, radiological: bool) -> tuple[PanelRow, ...]:
    channels = LabelMap(result.protocol.channels_from_ids(labels.data), labels.grid)
    shown = gray_range(base, labels)
    return labelled_rows(base, channels, result.protocol, labelled_box(labels), shown, radiological=radiological)
