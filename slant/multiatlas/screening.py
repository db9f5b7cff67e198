"""Screen label maps for outliers: a table of metrics with a rule, and a contact sheet for visual inspection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slant.files import write_file
from slant.io.read import read_labels, read_scan
from slant.io.resources import load_protocol
from slant.multiatlas.results import MultiAtlasNames, read_record
from slant.report.contact_sheet import Thumbnail, draw_sheet, thumbnail
from slant.robust import robust_sd

QUALITY, SHEET = "quality.tsv", "contact_sheet.png"

MIN_TARGETS = 8
"""Minimum number of targets for a median and a robust SD."""

OUTLIER_SDS = 4.0
"""Robust standard deviations below the median beyond which a target is an outlier."""

_METRICS = ("similarity", "agreement")


def quality_table(folder: Path, names: Sequence[str]) -> pd.DataFrame:
    """One row per target with results: similarity and agreement of its atlases, and whether it is an outlier.

    Returns
    -------
    DataFrame
        ``name``, ``similarity`` (mean local correlation with the registered atlases), ``agreement`` (mean vote
        agreement over the labelled voxels), ``regions`` (number of regions found), ``brain_cm3`` (labelled volume),
        ``outlier`` (``yes`` or ``no``) and ``reason``. A target is an outlier if similarity or agreement lies more than
        4 robust standard deviations (1.4826 times the median absolute deviation) below the median of at least 8
        targets, or if it has fewer regions than the median target.
    """
    rows = [{"name": name, **(read_record(folder, name) or {}).get("quality", {})} for name in names]
    table = pd.DataFrame(rows, columns=["name", *_METRICS, "regions", "brain_cm3"])
    reasons = [_reasons(row, table) for row in table.to_dict("records")]
    table["outlier"] = ["yes" if reason else "no" for reason in reasons]
    table["reason"] = ["; ".join(reason) for reason in reasons]
    return table


def _reasons(row: dict[Any, Any], table: pd.DataFrame) -> list[str]:
    """Why a target is an outlier; empty if it is not."""
    reasons = []
    for metric in _METRICS if len(table) >= MIN_TARGETS else ():
        values = table[metric]
        median = float(values.median())
        spread = robust_sd(values)
        if spread and row[metric] < median - OUTLIER_SDS * spread:
            reasons.append(f"{metric} {row[metric]:.3f}, median {median:.3f}")
    median_regions = int(table["regions"].median())
    if row["regions"] < median_regions:
        reasons.append(f"{row['regions']} regions, median {median_regions}")
    return reasons


def write_quality(folder: Path, table: pd.DataFrame) -> None:
    """Write ``quality.tsv`` and ``contact_sheet.png``."""
    write_file(folder / QUALITY, table.round(4).to_csv(sep="\t", index=False, lineterminator="\n"))
    cells = [_cell(folder, row) for row in table.to_dict("records")]
    outliers = int(np.sum(table["outlier"] == "yes"))
    title = f"Multi-atlas segmentation of {len(cells)} scans, {outliers} outliers; left is on the left"
    write_file(folder / SHEET, draw_sheet(cells, title))


def _cell(folder: Path, row: dict[Any, Any]) -> Thumbnail:
    names = MultiAtlasNames(row["name"])
    scan = read_scan(folder / names.t1w)
    panels = thumbnail(scan.volume, read_labels(folder / names.labels, scan), load_protocol())
    metrics = f"similarity {row['similarity']:.3f}, agreement {row['agreement']:.3f}"
    return Thumbnail(row["name"], row["reason"] or metrics, panels, row["outlier"] == "yes")
