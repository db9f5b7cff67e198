"""When the visits of a subject were: ages that were given, or the tables ``scans.tsv`` and ``sessions.tsv`` of BIDS."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from slant.errors import InputError, SettingsError
from slant.io.names import subject_of
from slant.io.user_table import read_user_table

if TYPE_CHECKING:
    import pandas as pd

    _Read = Callable[[Path], pd.DataFrame | None]

DAYS_PER_YEAR = 365.25

_T = TypeVar("_T")

_UNKNOWN = ("", "n/a", "N/A", "NaN", "nan")
_TOP_CODED = re.compile(r"\d+\+$")  # BIDS recommends 89+ for ages from 89 on
_MAX_AGE = 125.0
_DATE = "a date as YYYY-MM-DD or YYYY-MM-DDThh:mm:ss, or n/a"
_AGE = "years from 0 to 125, or n/a"


@dataclass(frozen=True)
class VisitTime:
    """When a visit was; None if unknown.

    Attributes
    ----------
    date : str or None
        ISO 8601 date, or date and time. Dates of BIDS may be shifted, by the same number of days for all visits.
    age : float or None
        Age of the subject in years.
    """

    date: str | None = None
    age: float | None = None


def times_of(scans: Sequence[Path], ages: Sequence[float] | None = None) -> tuple[VisitTime, ...]:
    """Times of the visits, in the order of their scans.

    Without ages, the row of each scan in ``scans.tsv`` or ``sub-X[_ses-Y]_scans.tsv`` is read (columns ``filename``,
    ``acq_time``, ``age``), and for what it does not say, the row of its session in ``sub-X_sessions.tsv`` (columns
    ``session_id``, ``acq_time``, ``age``). These tables may lie in the scan's folder or above it, up to the subject's
    folder ``sub-X`` or, without one, to the folder that all scans have in common. Missing tables, rows, columns and
    values are no errors.

    Parameters
    ----------
    ages : sequence of float, optional
        Age of the subject in years at each visit; tables are then not read.

    Raises
    ------
    SettingsError
        If there is not one age for each scan, or an age is not possible.
    InputError
        If a table, or a value in a row of these scans, is malformed.
    """
    if ages is not None:
        return _from_ages(scans, ages)
    paths = [scan.absolute() for scan in scans]
    common = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    read = cache(_read)  # the visits of a subject share tables
    times = []
    for path in paths:
        rows = list(_rows(path, common, read))
        dates, row_ages = [row.date() for row in rows], [row.age() for row in rows]
        times.append(VisitTime(_first_known(dates), _first_known(row_ages)))
    return tuple(times)


def years_since_first(times: Sequence[VisitTime]) -> tuple[float, ...] | None:
    """Years since the earliest visit, in the order given; None if the time of any visit is unknown.

    They come from the dates if all are known, otherwise from the ages if all are known. If all dates are the same, as
    in data sets that replaced them for anonymity, ages that differ come first.
    """
    by_date = _differences([_days(t.date) for t in times if t.date is not None], len(times))
    by_date = by_date and tuple(days / DAYS_PER_YEAR for days in by_date)
    by_age = _differences([t.age for t in times if t.age is not None], len(times))
    if by_date and by_age and not any(by_date):
        return by_age
    return by_date or by_age


def note_on_times(names: Sequence[str], times: Sequence[VisitTime]) -> str:
    """A sentence on the visits whose times are unknown, so that no rates can be computed; empty if there are none."""
    if len(names) < 2 or years_since_first(times) is not None:
        return ""
    dated = [name for name, time in zip(names, times, strict=True) if time.date is not None]
    aged = [name for name, time in zip(names, times, strict=True) if time.age is not None]
    known = max(dated, aged, key=len)
    without = [name for name in names if name not in known]
    which = f"visits {', '.join(without)}" if known else "all visits"
    return (
        f"the times of {which} are unknown, so changes per year are not computed; give acq_time or age for each "
        "visit in scans.tsv or sessions.tsv, or the ages with --age"
    )


def _from_ages(scans: Sequence[Path], ages: Sequence[float]) -> tuple[VisitTime, ...]:
    if len(ages) != len(scans):
        raise SettingsError(
            f"--age: found {len(ages)} age(s) for {len(scans)} scan(s), expected one for each scan, in the same order"
        )
    for scan, age in zip(scans, ages, strict=True):
        if not 0 <= age <= _MAX_AGE:
            raise SettingsError(f"--age: found {age:g} for {scan}, expected years from 0 to {_MAX_AGE:g}")
    return tuple(VisitTime(None, float(age)) for age in ages)


@dataclass(frozen=True)
class _Row:
    """The row of a scan or session in a table; ``where`` names it in messages."""

    where: str
    cells: dict[str, str]

    def date(self) -> str | None:
        text = self.cells.get("acq_time", "")
        if text in _UNKNOWN:
            return None
        try:
            return _iso(text)
        except ValueError:
            raise InputError(f"{self.where}: found acq_time {text!r}, expected {_DATE}; correct the cell") from None

    def age(self) -> float | None:
        text = self.cells.get("age", "")
        if text in _UNKNOWN or _TOP_CODED.match(text):
            return None
        try:
            age = float(text)
        except ValueError:
            age = -1.0
        if not 0 <= age <= _MAX_AGE:
            raise InputError(f"{self.where}: found age {text!r}, expected {_AGE}; correct the cell")
        return age


def _first_known(values: Sequence[_T | None]) -> _T | None:
    return next((value for value in values if value is not None), None)


def _rows(scan: Path, common: Path, read: _Read) -> Iterator[_Row]:
    """Rows about a scan: those of tables of scans first, then those of tables of sessions, the nearest table first."""
    folders = list(_folders(scan, common))
    subject, session = subject_of(scan.as_posix()), _session_of(scan)
    for folder in folders:
        for table in sorted({folder / "scans.tsv", *folder.glob("*_scans.tsv")}):
            yield from _matching(table, "filename", scan.relative_to(folder).as_posix(), read)
    for folder in folders:
        for table in (folder / f"{subject}_sessions.tsv", folder / "sessions.tsv"):
            if session:
                yield from _matching(table, "session_id", session, read)


def _folders(scan: Path, common: Path) -> Iterator[Path]:
    """Folders in which tables about a scan may lie, the innermost first."""
    subjects = [folder for folder in scan.parents if folder.name.startswith("sub-")]
    top = subjects[0] if subjects else common
    for folder in scan.parents:
        yield folder
        if folder == top:
            return


def _session_of(scan: Path) -> str:
    """Session of a scan, ``ses-LABEL``, by its folders or its name; empty if it has none."""
    found = re.findall(r"(?:^|[_/])(ses-[A-Za-z0-9]+)", scan.as_posix())
    return found[-1] if found else ""


def _matching(path: Path, column: str, value: str, read: _Read) -> Iterator[_Row]:
    """The row of a table whose cell in a column is the value, if there are such a table and row."""
    table = read(path)
    if table is None:
        return
    if column not in table.columns:
        raise InputError(
            f"{path}, line 1: found the columns {', '.join(table.columns)}, expected {column} as the first, and "
            "acq_time or age; name the columns so, with tabs between them"
        )
    lines = [i for i, cell in enumerate(table[column]) if PurePosixPath(cell) == PurePosixPath(value)]
    if len(lines) > 1:
        raise InputError(
            f"{path}, lines {', '.join(str(i + 2) for i in lines)}: found {len(lines)} rows of {value}, expected one; "
            "remove the others"
        )
    for i in lines:
        yield _Row(f"{path}, line {i + 2} ({value})", {str(name): str(text) for name, text in table.iloc[i].items()})


def _read(path: Path) -> pd.DataFrame | None:
    """A table; None if there is none."""
    try:
        return read_user_table(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the table {path}: {error}; expected text with tabs between columns") from error


def _iso(text: str) -> str:
    """A date, or a date and time, in ISO 8601."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        return datetime.fromisoformat(text).isoformat()


def _days(text: str) -> float:
    """Days of a date since the beginning of the calendar; time zones are ignored."""
    moment = datetime.fromisoformat(text)
    seconds = 3600 * moment.hour + 60 * moment.minute + moment.second
    return moment.toordinal() + seconds / 86400


def _differences(values: Sequence[float], count: int) -> tuple[float, ...] | None:
    """Differences from the smallest value; None if there are not ``count`` values."""
    return tuple(value - min(values) for value in values) if values and len(values) == count else None
