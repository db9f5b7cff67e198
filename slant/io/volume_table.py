"""The table of volumes of one scan: regions, tissues, lobes, brain and intracranial volume, with their quality."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import astuple, fields
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from slant.io.quality import COLUMNS, Quality, RegionQuality
from slant.volumes import Level, VolumeRow

MISSING = "n/a"
"""Cell of a missing value."""

_VALUES = tuple(field.name for field in fields(VolumeRow))
_DIGITS = {"volume_mm3": 3, "etiv_fraction": 7, "asymmetry_percent": 3}


def format_volumes(rows: tuple[VolumeRow, ...], quality: Quality | None = None) -> str:
    """The text of ``NAME_seg-BrainCOLOR_volumes.tsv``.

    Parameters
    ----------
    quality : Quality, optional
        Without it, the columns of the quality have no values.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow((*_VALUES, *COLUMNS))
    for row in rows:
        values = [np.round(value, _DIGITS[name]) if name in _DIGITS else value for name, value in vars(row).items()]
        writer.writerow([cell(value) for value in (*values, *astuple(_quality(row, quality)))])
    return text.getvalue()


def read_volumes(path: Path) -> tuple[VolumeRow, ...]:
    """The rows of ``NAME_seg-BrainCOLOR_volumes.tsv``, without their quality, which is in the record.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not such a table.
    """
    with path.open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file, delimiter="\t")
    missing = [name for name in _VALUES if name not in header]
    if missing or any(len(line) < len(header) for line in lines):
        raise ValueError(f"the table of volumes lacks {', '.join(missing) or 'cells'}")
    cells = itemgetter(*(header.index(name) for name in _VALUES))
    return tuple(_row(*cells(line)) for line in lines)


def cell(value: float | str | None) -> str:
    """A value as the cell of a table; ``n/a`` for None and nan."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    return value if isinstance(value, str) else repr(value) if isinstance(value, int) else repr(float(value))


def _quality(row: VolumeRow, quality: Quality | None) -> RegionQuality:
    if quality is None:
        return RegionQuality()
    found = quality.aggregates.get(f"{row.level}:{row.name}") if row.index is None else quality.regions.get(row.index)
    return found or RegionQuality()


def _row(level: Level, index: str, *cells: Any) -> VolumeRow:
    texts, numbers = cells[: -len(_DIGITS)], cells[-len(_DIGITS) :]
    values = [math.nan if number == MISSING else float(number) for number in numbers]
    return VolumeRow(level, None if index == MISSING else int(index), *texts, *values)
