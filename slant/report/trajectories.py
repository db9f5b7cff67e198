"""The page of a subject with several visits: trajectories of all volumes, in one self-contained file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from slant.config import ReportSettings
from slant.io.visit_times import note_on_times
from slant.report.overlay import PLANES, labelled_box
from slant.report.paint import gray_range, style_sheet
from slant.report.rendering import plain_text, render
from slant.report.slices import TEMPLATE_MIDLINE_MM, Panel, grays, rows_of
from slant.report.trajectory_plots import (
    HEIGHT,
    NOISE_PERCENT,
    WIDTH,
    TimeAxis,
    VolumeCurve,
    region_plots,
    sum_plots,
    time_axis,
    volume_curves,
)
from slant.resample import resample
from slant.volume import LabelMap

if TYPE_CHECKING:
    from slant.io.subject_result import SubjectResult
    from slant.volume import Volume

_SD_OF_DIFFERENCE = math.sqrt(math.pi) / 2
"""SD of normal noise, by the mean absolute difference of two of its values."""


def trajectories_page(result: SubjectResult, links: Mapping[str, str], settings: ReportSettings | None = None) -> str:
    """The text of ``SUBJECT_longitudinal.html``; the same for the same input.

    Parameters
    ----------
    links : mapping of str to str
        Path of the report of a visit by the name of the visit, relative to the folder of the page.
    settings : ReportSettings, optional
        Which side of the pictures is left.
    """
    settings = settings or ReportSettings()
    curves, axis = volume_curves(result), time_axis(result)
    record: dict[str, Any] = plain_text(result.record.plain())
    note = note_on_times([visit.name for visit in result.visits], [visit.time for visit in result.visits])
    page = render(
        "trajectories.html.j2",
        subject=record["subject"],
        record=record,
        record_text=json.dumps(record, indent=2, ensure_ascii=False),
        convention_text=settings.convention_text,
        radiological=settings.radiological,
        visits=_visits(result, links),
        left_out=[(plain_text(visit.name), plain_text(visit.reason)) for visit in result.record.left_out],
        summary=_summary(result, curves, axis),
        note="" if note in result.record.warnings else plain_text(note),
        panels=() if result.template is None else template_panels(result.template, settings),
        axis=axis,
        noise=NOISE_PERCENT,
        size=(WIDTH, HEIGHT),
        sums=sum_plots(curves, axis),
        lobes=region_plots(curves, axis),
        regions=[curve for curve in curves if curve.row.level == "region"],
        trajectories_css=style_sheet("trajectories.css"),
    )
    return page.decode()


def template_panels(template: Volume, settings: ReportSettings) -> tuple[Panel, ...]:
    """An axial, a coronal and a sagittal slice through the middle of the brain of the within-subject template."""
    brain = LabelMap((template.data > 0).astype(np.uint8), template.grid)
    shown = gray_range(template, brain)
    rows = rows_of(
        lambda view: {"base": grays(resample(template, view), shown)},
        labelled_box(brain),
        radiological=settings.radiological,
        planes=tuple(replace(plane, panels=1) for plane in PLANES),
        midline_mm=TEMPLATE_MIDLINE_MM,
    )
    return tuple(panel for row in rows for panel in row.panels)


def _visits(result: SubjectResult, links: Mapping[str, str]) -> list[dict[str, Any]]:
    """What the page says about each visit."""
    years = result.years or (math.nan,) * len(result.visits)
    return [
        {
            "name": plain_text(visit.name),
            "date": (visit.time.date or "")[:10],
            "age": math.nan if visit.time.age is None else visit.time.age,
            "years": time,
            "grade": grade,
            "similarity": math.nan if visit.similarity is None else visit.similarity,
            "report": quote(links.get(visit.name, ""), errors="surrogateescape"),
        }
        for visit, time, grade in zip(result.visits, years, result.grades, strict=True)
    ]


def _summary(result: SubjectResult, curves: tuple[VolumeCurve, ...], axis: TimeAxis) -> list[str]:
    count = f"{len(result.visits)} visit{'' if len(result.visits) == 1 else 's'}"
    if not axis.known:
        same = " at the same time" if result.years is not None and len(result.visits) > 1 else ""
        return [f"{count}{same}. Changes per year are not shown."]
    texts = [f"{count} in {axis.span:.2g} year{'' if f'{axis.span:.2g}' == '1' else 's'}."]
    changes = {curve.row.name: curve.change for curve in curves if not math.isnan(curve.change)}
    shown = {"brain without ventricles": "Brain without ventricles", "csf": "Ventricles"}
    found = [f"{text}: {changes[name]:+.2f} % per year" for name, text in shown.items() if name in changes]
    if found:
        texts += [f"{'; '.join(found)}.", _about_noise(axis)]
    return texts


def _about_noise(axis: TimeAxis) -> str:
    spread = math.sqrt(float(np.square(np.subtract(axis.values, np.mean(axis.values))).sum()))
    return (
        "Noise alone gives the rate of a region of average noise a standard deviation of "
        f"{_SD_OF_DIFFERENCE * NOISE_PERCENT / spread:.2g} % per year, although nothing changes."
    )
