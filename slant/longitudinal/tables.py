"""Tables of a longitudinal study: the volumes of one subject, and the long table of all subjects."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slant.change import change_percent_per_year
from slant.errors import InputError
from slant.io.user_table import read_user_table
from slant.io.volume_table import MISSING, cell
from slant.volumes import match_volumes

if TYPE_CHECKING:
    from slant.io.subject_result import SubjectResult

LONG_TABLE, DESCRIPTION = "longitudinal.tsv", "longitudinal.json"
"""Names of the long table and of the description of its columns."""

CHANGE = "change_percent_per_year"
"""Last column of the table of a subject."""

PARTICIPANT_PREFIX = "participant_"
"""What is put before a column of ``participants.tsv`` that has the name of another column of the long table."""

_VALUES = ("level", "index", "name", "abbreviation", "hemisphere", "tissue", "lobe")
_MM3_DIGITS, _YEAR_DIGITS, _CHANGE_DIGITS = 3, 4, 3
_COLUMNS: dict[str, dict[str, str]] = {
    "participant_id": {"Description": "Label of the subject"},
    "session_id": {"Description": "Label of the session"},
    "scan": {"Description": "Name of the visit: the BIDS name or file name of its scan without extension"},
    "years": {"Description": "Time since the first visit of the subject", "Units": "year"},
    "age": {"Description": "Age of the subject at the visit", "Units": "year"},
    "grade": {"Description": "pass, review or fail: quality of the segmentation of the visit"},
    "eTIV_mm3": {"Description": "Estimated total intracranial volume", "Units": "mm3"},
    "region": {"Description": "Abbreviation of the region"},
    "hemisphere": {"Description": "L, R or midline"},
    "tissue": {"Description": "gray, white or csf"},
    "volume_mm3": {"Description": "Volume of the region", "Units": "mm3"},
}  # in the order of the columns


def subject_table(result: SubjectResult) -> str:
    """The text of ``SUBJECT_volumes.tsv``: rows as in the table of volumes of a scan, one column for each visit.

    The last column is the annualized percent change, ``n/a`` if the times of the visits are unknown or all equal.
    """
    years = result.years
    lines = [(*_VALUES, *(f"{visit.name}_mm3" for visit in result.visits), CHANGE)]
    for row, mm3 in match_volumes(result.volumes):
        change = math.nan if years is None else change_percent_per_year(mm3, years)
        cells = (getattr(row, name) for name in _VALUES)
        lines.append((*map(cell, cells), *(_number(v, _MM3_DIGITS) for v in mm3), _number(change, _CHANGE_DIGITS)))
    return _text(lines)


def long_table(subjects: Iterable[SubjectResult], participants: Path | None = None) -> str:
    """The text of ``longitudinal.tsv``: one row for each visit and region, as mixed models read it.

    Parameters
    ----------
    participants : Path, optional
        ``participants.tsv``, whose columns become the last ones; a name that is already there gets the prefix
        ``participant_``. Ignored if missing.

    Raises
    ------
    InputError
        If ``participants.tsv`` cannot be read or is malformed.
    """
    columns, known = _participants(participants)
    lines: list[tuple[str, ...]] = [(*_COLUMNS, *columns)]
    unknown = (MISSING,) * len(columns)
    for result in sorted(subjects, key=lambda result: result.record.subject):
        about = known.get(result.record.subject, unknown)
        lines += [(*cells, *about) for cells in _long_rows(result)]
    return _text(lines)


def describe_long_table() -> dict[str, Any]:
    """The content of ``longitudinal.json``: the description of each column that slant makes."""
    return {name: dict(about) for name, about in _COLUMNS.items()}


def _long_rows(result: SubjectResult) -> Iterator[tuple[str, ...]]:
    years = result.years or (math.nan,) * len(result.visits)
    for visit, time, rows, grade in zip(result.visits, years, result.volumes, result.grades, strict=True):
        etiv = next((row.volume_mm3 for row in rows if row.level == "intracranial"), math.nan)
        leading = (
            *(text or MISSING for text in (result.record.subject, visit.session, visit.name)),
            _number(time, _YEAR_DIGITS),
            cell(visit.time.age),
            grade or MISSING,
            _number(etiv, _MM3_DIGITS),
        )
        for row in rows:
            if row.level == "region":
                volume = _number(row.volume_mm3, _MM3_DIGITS)
                yield (*leading, row.abbreviation, row.hemisphere, row.tissue, volume)


def _participants(path: Path | None) -> tuple[list[str], Mapping[str, tuple[str, ...]]]:
    """Further columns of the long table, from ``participants.tsv``, and their cells by subject."""
    if path is None or not path.is_file():
        return [], {}
    try:
        table = read_user_table(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the table {path}: {error}; expected text with tabs between columns") from error
    if "participant_id" not in table.columns:
        raise InputError(
            f"{path}, line 1: found the columns {', '.join(table.columns)}, expected participant_id and others, with "
            "tabs between them"
        )
    subjects = [name if name.startswith("sub-") else f"sub-{name}" for name in table.pop("participant_id")]
    duplicates = sorted({name for name in subjects if subjects.count(name) > 1})
    if duplicates:
        raise InputError(f"{path}: found several lines of {', '.join(duplicates)}, expected one line per participant")
    columns = [f"{PARTICIPANT_PREFIX}{name}" if name in _COLUMNS else name for name in table.columns]
    cells = [tuple(text or MISSING for text in row) for row in table.itertuples(index=False, name=None)]
    return columns, dict(zip(subjects, cells, strict=True))


def _number(value: float, digits: int) -> str:
    return cell(round(value, digits) + 0.0)


def _text(lines: Iterable[tuple[str, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows(lines)
    return text.getvalue()
