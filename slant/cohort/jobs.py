"""Makes the list of jobs of a cohort from folders, patterns, tables and single files."""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from slant.engine.job import Job, JobList
from slant.engine.layout import absolute
from slant.errors import InputError, SettingsError

_COLUMNS = ("name", "T1w")
_T1W_SUFFIX = "_T1w"
_WILDCARDS = "*?["


def list_jobs(inputs: Iterable[str], out: Path) -> JobList:
    """List the scans of folders, patterns, tables and single files.

    Parameters
    ----------
    inputs : iterable of str
        Folders (all ``*_T1w`` images at any depth or, if there are none, all images), patterns (for example
        ``study/*/T1.nii.gz``), TSV files with the columns name and T1w (paths relative to the table), or scans.
    out : Path
        Output directory. Each scan gets a folder of its own there, at its relative path in the input folder.

    Raises
    ------
    InputError
        If an input cannot be read or contains no scan, or two scans would get the same name.
    SettingsError
        If a table is invalid, or contains a name that cannot be the name of a folder.
    """
    out = absolute(out)
    unreadable: dict[str, str] = {}
    scans = sorted((pair for path in inputs for pair in _scans(path, out, unreadable)), key=lambda pair: pair[0])
    return JobList(unique([Job(i, scan, out / i, i.rpartition("/")[2]) for i, scan in scans]), unreadable)


def unique(jobs: Iterable[Job]) -> tuple[Job, ...]:
    """Remove repeated jobs and keep the order; InputError if two scans have the same id."""
    by_id: dict[str, Job] = {}
    for job in jobs:
        known = by_id.setdefault(job.id, job)
        if known.scan != job.scan:
            raise InputError(
                f"two scans are named {job.id}: {known.scan} and {job.scan}, but names must be unique; give their "
                "common folder, a quoted pattern ('study/*/T1.nii.gz'), or a table with the columns name and T1w"
            )
    return tuple(by_id.values())


def _scans(text: str, out: Path, unreadable: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """Id and absolute path of each scan of one input; folders that cannot be read are added to ``unreadable``."""
    from slant.io.read import scan_name

    path = absolute(text)
    if path.is_dir():
        yield from _with_ids(_scans_below(path, out, unreadable), path)
    elif path.suffix.lower() == ".tsv":
        yield from _scans_of_table(path)
    elif not path.exists() and any(c in text for c in _WILDCARDS):
        matches = sorted(absolute(match) for match in glob.glob(text, recursive=True))  # noqa: PTH207 (absolute patterns)
        if not matches:
            raise InputError(f"no file matches the pattern {text}; check the spelling")
        first = next(i for i, part in enumerate(path.parts) if any(c in part for c in _WILDCARDS))
        top = Path(*path.parts[:first])
        yield from _with_ids([match for match in matches if match.is_file()], top)
    else:
        yield scan_name(path), path


def _with_ids(scans: Iterable[Path], top: Path) -> Iterator[tuple[str, Path]]:
    from slant.io.read import scan_name

    for scan in scans:
        yield (scan.parent.relative_to(top) / scan_name(scan)).as_posix(), scan


def _scans_below(top: Path, out: Path, unreadable: dict[str, str]) -> list[Path]:
    from slant.io.read import SUFFIXES

    def note(error: OSError) -> None:
        unreadable[os.fspath(error.filename)] = f"the folder cannot be read: {error.strerror}; check its permissions"

    images: list[Path] = []
    for parent, folders, files in os.walk(top, onerror=note):
        folders[:] = [f for f in folders if not f.startswith(".") and Path(parent, f) != out]
        images += [Path(parent, f) for f in files if not f.startswith(".") and f.lower().endswith(SUFFIXES)]
    if os.fspath(top) in unreadable:
        raise InputError(f"{top}: {unreadable[os.fspath(top)]}")
    t1w_images = [i for i in images if any(i.name.endswith(_T1W_SUFFIX + suffix) for suffix in SUFFIXES)]
    if not images:
        raise InputError(f"{top}: found no scan in this folder or below, expected {', '.join(SUFFIXES)} files")
    return t1w_images or images


def _scans_of_table(path: Path) -> Iterator[tuple[str, Path]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(
            f"cannot read the table of scans {path}: {error}; expected tab-separated text in UTF-8"
        ) from error
    header = rows[0] if rows else []
    if any(column not in header for column in _COLUMNS):
        raise SettingsError(f"{path}: found columns {', '.join(header) or 'none'}, expected {' and '.join(_COLUMNS)}")
    name, t1w = (header.index(column) for column in _COLUMNS)
    filled = [row for row in rows[1:] if any(row)]
    if not filled:
        raise InputError(f"{path}: the table has no rows, expected one row per scan")
    for row in filled:
        if len(row) <= max(name, t1w) or not row[t1w]:
            raise SettingsError(f"{path}: the row {' '.join(row)!r} has no T1w, expected a name and a path")
        if row[name] in ("", ".", "..") or row[name].startswith(".") or set(row[name]) & set('/\\\0"\n'):
            raise SettingsError(f"{path}: {row[name]!r} cannot be the name of a scan, expected a valid folder name")
        yield row[name], absolute(path.parent / row[t1w])
