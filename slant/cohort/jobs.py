"""Which scans there are: folders, patterns, tables and single files become a list of jobs."""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from slant.errors import InputError, SettingsError

_COLUMNS = ("name", "T1w")
_TYPICAL = "_T1w"
_MAGIC = "*?["


@dataclass(frozen=True)
class Job:
    """One scan to be segmented.

    Attributes
    ----------
    id : str
        Unique among the jobs; the scan's name in tables.
    scan : Path
        Absolute.
    folder : Path
        For its results; absolute.
    name : str
        What the names of its results begin with.
    """

    id: str
    scan: Path
    folder: Path
    name: str


@dataclass(frozen=True)
class JobList:
    """The jobs of a cohort.

    Attributes
    ----------
    jobs : tuple of Job
        Sorted by id.
    unreadable : dict of str to str
        Folders that may hold more scans but cannot be read, with the reasons.
    """

    jobs: tuple[Job, ...]
    unreadable: dict[str, str]


def list_jobs(places: Iterable[str], out: Path) -> JobList:
    """The scans of folders, quoted patterns, tables and single files.

    Parameters
    ----------
    places : iterable of str
        Folders (every ``*_T1w`` image at any depth or, where there is none, every image), patterns such as
        ``study/*/T1.nii.gz``, TSV files with the columns name and T1w (paths from the table's folder), or scans.
    out : Path
        Folder for the results: each scan gets one of its own there, at the place that it has in the folder given.

    Raises
    ------
    InputError
        If a place cannot be read or holds no scan, or two scans would have one name.
    SettingsError
        If a table is not one, or holds a name that cannot be that of a folder.
    """
    out = absolute(out)
    unreadable: dict[str, str] = {}
    found = sorted((pair for place in places for pair in _scans(place, out, unreadable)), key=lambda pair: pair[0])
    return JobList(unique([Job(i, scan, out / i, i.rpartition("/")[2]) for i, scan in found]), unreadable)


def absolute(path: Path | str) -> Path:
    """The path from the root, without ``..``; links, such as those of DataLad, stay, for scans are named by them."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def unique(jobs: Iterable[Job]) -> tuple[Job, ...]:
    """The jobs in order, a repeated one once.

    Raises
    ------
    InputError
        If two scans have one id.
    """
    by_id: dict[str, Job] = {}
    for job in jobs:
        known = by_id.setdefault(job.id, job)
        if known.scan != job.scan:
            raise InputError(
                f"two scans are named {job.id}: {known.scan} and {job.scan}; results go by name, so give their folder, "
                "a quoted pattern ('study/*/T1.nii.gz') or a table with the columns name and T1w instead"
            )
    return tuple(by_id.values())


def _scans(place: str, out: Path, unreadable: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """Id and absolute path of every scan of a place."""
    from slant.io.read import scan_name

    path = absolute(place)
    if path.is_dir():
        yield from _named(_below(path, out, unreadable), path)
    elif path.suffix.lower() == ".tsv":
        yield from _table(path)
    elif not path.exists() and any(c in place for c in _MAGIC):
        matches = sorted(absolute(match) for match in glob.glob(place, recursive=True))  # noqa: PTH207 (absolute patterns)
        if not matches:
            raise InputError(f"no file matches the pattern {place}; check the spelling")
        top = Path(*path.parts[: _first_magic(path)])
        yield from _named([match for match in matches if match.is_file()], top)
    else:
        yield scan_name(path), path


def _first_magic(path: Path) -> int:
    """How many parts of a pattern come before the first that is not literal, at most all folders."""
    return next(i for i, part in enumerate(path.parts) if any(c in part for c in _MAGIC))


def _named(scans: Iterable[Path], top: Path) -> Iterator[tuple[str, Path]]:
    from slant.io.read import scan_name

    for scan in scans:
        yield (scan.parent.relative_to(top) / scan_name(scan)).as_posix(), scan


def _below(top: Path, out: Path, unreadable: dict[str, str]) -> list[Path]:
    from slant.io.read import SUFFIXES

    def note(error: OSError) -> None:
        unreadable[os.fspath(error.filename)] = f"the folder cannot be read: {error.strerror}; check its permissions"

    images: list[Path] = []
    for parent, folders, files in os.walk(top, onerror=note):
        folders[:] = [f for f in folders if not f.startswith(".") and Path(parent, f) != out]
        images += [Path(parent, f) for f in files if not f.startswith(".") and f.lower().endswith(SUFFIXES)]
    if os.fspath(top) in unreadable:
        raise InputError(f"{top}: {unreadable[os.fspath(top)]}")
    typical = [i for i in images if any(i.name.endswith(_TYPICAL + suffix) for suffix in SUFFIXES)]
    if not images:
        raise InputError(f"{top}: found no scan in this folder or below; wanted {', '.join(SUFFIXES)} files")
    return typical or images


def _table(path: Path) -> Iterator[tuple[str, Path]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"cannot read the table of scans {path}: {error}; wanted tabs between columns") from error
    header = rows[0] if rows else []
    if any(column not in header for column in _COLUMNS):
        raise SettingsError(f"{path}: found columns {', '.join(header) or 'none'}; wanted {' and '.join(_COLUMNS)}")
    name, t1w = (header.index(column) for column in _COLUMNS)
    wanted = [row for row in rows[1:] if any(row)]
    if not wanted:
        raise InputError(f"{path}: the table has no rows; wanted a line for every scan")
    for row in wanted:
        if len(row) <= max(name, t1w) or not row[t1w]:
            raise SettingsError(f"{path}: the row {' '.join(row)!r} has no T1w; wanted a name and a path, with a tab")
        if row[name] in ("", ".", "..") or row[name].startswith(".") or set(row[name]) & set('/\\\0"\n'):
            raise SettingsError(f"{path}: {row[name]!r} cannot be the name of a scan; wanted one a folder can have")
        yield row[name], absolute(path.parent / row[t1w])
