"""Which of many label maps look unlike the others: numbers and a rule, and a sheet to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slant.io.read import read_labels, read_scan
from slant.io.resources import load_protocol
from slant.multiatlas.results import MultiAtlasNames, read_record
from slant.report.sheet import Thumbnail, draw_sheet, thumbnail

QUALITY, SHEET = "quality.tsv", "contact_sheet.png"

FEWEST = 8
"""Targets from which their median and spread are worth something."""

FAR = 4.0
"""Robust standard deviations below the median from which a target is suspect."""

_MEASURES = ("similarity", "agreement")


def quality_table(folder: Path, names: Sequence[str]) -> pd.DataFrame:
    """A row a target: how well atlases fit and agree, and whether it is suspect.

    Parameters
    ----------
    folder : Path
        Of the results.
    names : sequence of str
        Targets with results.

    Returns
    -------
    DataFrame
        ``name``; ``similarity`` (mean local correlation with the registered atlases), ``agreement`` (mean over the
        labelled voxels), ``regions`` found, ``brain_cm3`` labelled; ``suspect`` (yes or no) and the ``reason``. A
        target is suspect if similarity or agreement lies more than 4 robust standard deviations (1.4826 times the
        median absolute deviation) below the median of at least 8 targets, or if it has fewer regions than most.
    """
    rows = [{"name": name, **_measured(read_record(folder, name))} for name in names]
    table = pd.DataFrame(rows, columns=["name", *_MEASURES, "regions", "brain_cm3"])
    reasons = [_reasons(row, table) for row in table.to_dict("records")]
    table["suspect"] = ["yes" if reason else "no" for reason in reasons]
    table["reason"] = ["; ".join(reason) for reason in reasons]
    return table


def _measured(record: dict[str, Any] | None) -> dict[str, Any]:
    return {} if record is None else dict(record.get("quality", {}))


def _reasons(row: dict[Any, Any], table: pd.DataFrame) -> list[str]:
    found = []
    for measure in _MEASURES if len(table) >= FEWEST else ():
        values = table[measure]
        middle = float(values.median())
        spread = 1.4826 * float((values - middle).abs().median())
        if spread and row[measure] < middle - FAR * spread:
            found.append(f"{measure} {row[measure]:.3f}, usual {middle:.3f}")
    usual = int(table["regions"].median())
    if row["regions"] < usual:
        found.append(f"{row['regions']} regions, usual {usual}")
    return found


def write_quality(folder: Path, table: pd.DataFrame) -> None:
    """Write ``quality.tsv`` and ``contact_sheet.png``."""
    partial = folder / f".slant-{QUALITY}.part"
    table.round(4).to_csv(partial, sep="\t", index=False, lineterminator="\n")
    partial.replace(folder / QUALITY)
    cells = [_cell(folder, row) for row in table.to_dict("records")]
    suspects = int(np.sum(table["suspect"] == "yes"))
    title = f"{len(cells)} scans labelled from atlases, {suspects} suspect; left is on the left"
    partial = folder / f".slant-{SHEET}.part"
    partial.write_bytes(draw_sheet(cells, title))
    partial.replace(folder / SHEET)


def _cell(folder: Path, row: dict[Any, Any]) -> Thumbnail:
    names = MultiAtlasNames(row["name"])
    scan = read_scan(folder / names.t1w)
    panels = thumbnail(scan.volume, read_labels(folder / names.labels, scan), load_protocol())
    usual = f"similarity {row['similarity']:.3f}, agreement {row['agreement']:.3f}"
    return Thumbnail(row["name"], row["reason"] or usual, panels, row["suspect"] == "yes")
