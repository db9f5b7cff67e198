"""Makes the list of jobs of a cohort from folders, patterns, tables and single files."""

from __future__ import annotations

import csv
import glob
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from slant.cohort.left_out import NEVER_FILTERED, derivatives_finder, notes_about, reason_against, stem_and_suffix
from slant.engine.job import Job, JobList
from slant.engine.layout import absolute
from slant.errors import InputError, SettingsError
from slant.files import read_text

_COLUMNS = ("name", "T1w")
_T1W_SUFFIX = "_T1w"
_OTHERS_ARE_T1W = f"not named {_T1W_SUFFIX}, as other images are"
_WILDCARDS = "*?["


@dataclass(frozen=True)
class _Excluded:
    """What is found in folders but not listed: folders that cannot be read, and images, with the reasons."""

    unreadable: dict[str, str] = field(default_factory=dict)
    images: dict[Path, str] = field(default_factory=dict)


def list_jobs(inputs: Iterable[str], out: Path) -> JobList:
    """List the scans of folders, patterns, tables and single files.

    Derivatives, results and phase images in folders are left out, see `slant.cohort.left_out`. Of files with the same
    name but different extensions in one folder the first by `slant.io.read.SUFFIXES` is taken. The notes of the list
    say how many images were left out and why.

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
    out, excluded = absolute(out), _Excluded()
    scans = sorted((pair for path in inputs for pair in _scans(path, out, excluded)), key=lambda pair: pair[0])
    by_id = resolve([Job(i, scan, out / i, i.rpartition("/")[2]) for i, scan in scans])
    for first, second in by_id.clashes:
        raise InputError(
            f"two scans are named {first.id}: {first.scan} and {second.scan}, but names must be unique; give their "
            "common folder, a quoted pattern ('study/*/T1.nii.gz'), or a table with the columns name and T1w"
        )
    return JobList(by_id.jobs, excluded.unreadable, notes_about(excluded.images | by_id.left_out))


@dataclass(frozen=True)
class Resolved:
    """Jobs without repetitions, see `resolve`.

    Attributes
    ----------
    jobs : tuple of Job
        Jobs with different ids.
    left_out : dict of Path to str
        Scans beside a file of the same name that was taken, with the reason.
    clashes : tuple of pairs of Job
        Other jobs with the same id: one of ``jobs`` and one that is not.
    """

    jobs: tuple[Job, ...]
    left_out: dict[Path, str]
    clashes: tuple[tuple[Job, Job], ...]


def resolve(jobs: Iterable[Job]) -> Resolved:
    """Remove repeated jobs and, of files whose names differ only in the extension, all but one; keep the order."""
    from slant.io.read import SUFFIXES

    reason = f"beside a file of the same name, and {SUFFIXES[0]} is taken before {', '.join(SUFFIXES[1:])}"
    by_id: dict[str, Job] = {}
    left_out: dict[Path, str] = {}
    clashes: list[tuple[Job, Job]] = []
    for job in jobs:
        known = by_id.setdefault(job.id, job)
        if known.scan == job.scan:
            continue
        (stem, suffix), (known_stem, known_suffix) = stem_and_suffix(job.scan), stem_and_suffix(known.scan)
        if job.scan.parent != known.scan.parent or stem != known_stem:
            clashes.append((known, job))
        elif SUFFIXES.index(suffix) < SUFFIXES.index(known_suffix):
            by_id[job.id] = job
            left_out[known.scan] = reason
        else:
            left_out[job.scan] = reason
    return Resolved(tuple(by_id.values()), left_out, tuple(clashes))


def _scans(text: str, out: Path, excluded: _Excluded) -> Iterator[tuple[str, Path]]:
    """Id and absolute path of each scan of one input; what is not listed is added to ``excluded``."""
    from slant.io.read import scan_name

    path = absolute(text)
    if path.is_dir():
        yield from _with_ids(_scans_below(path, out, excluded), path)
    elif path.suffix.lower() == ".tsv":
        yield from _scans_of_table(path)
    elif not path.exists() and any(c in text for c in _WILDCARDS):
        matches = sorted(absolute(match) for match in glob.glob(text, recursive=True))  # noqa: PTH207 (absolute patterns)
        if not matches:
            raise InputError(f"no file matches the pattern {text}; check the spelling")
        first = next(i for i, part in enumerate(path.parts) if any(c in part for c in _WILDCARDS))
        top = Path(*path.parts[:first])
        yield from _with_ids([match for match in matches if not match.is_dir()], top)
    else:
        yield scan_name(path), path


def _with_ids(scans: Iterable[Path], top: Path) -> Iterator[tuple[str, Path]]:
    from slant.io.read import scan_name

    for scan in scans:
        yield (scan.parent.relative_to(top) / scan_name(scan)).as_posix(), scan


def _scans_below(top: Path, out: Path, excluded: _Excluded) -> list[Path]:
    """Images at any depth that may be scans; if some are named ``_T1w``, only those."""
    from slant.io.read import SUFFIXES

    images = images_below(top, excluded.unreadable, skip=out)
    if os.fspath(top) in excluded.unreadable:
        raise InputError(f"{top}: {excluded.unreadable[os.fspath(top)]}")
    if not images:
        raise InputError(f"{top}: found no scan in this folder or below, expected {', '.join(SUFFIXES)} files")
    find_derivatives = derivatives_finder(top)
    reasons = {image: reason_against(image, find_derivatives) for image in images}
    if all(reasons.values()):
        counts = (f"{n} {reason}" for reason, n in Counter(reasons.values()).items())
        raise InputError(f"{top}: all {len(images)} image(s) are left out ({', '.join(counts)}); {NEVER_FILTERED}")
    named_t1w = {image for image in images if stem_and_suffix(image)[0].endswith(_T1W_SUFFIX)}
    if any(not reasons[image] for image in named_t1w):
        reasons |= {image: _OTHERS_ARE_T1W for image in images if not reasons[image] and image not in named_t1w}
    excluded.images.update((image, reason) for image, reason in reasons.items() if reason)
    return [image for image in images if not reasons[image]]


def images_below(top: Path, unreadable: dict[str, str], skip: Path | None = None) -> list[Path]:
    """Image files at any depth, sorted, without hidden ones and those in the folder ``skip``.

    Parameters
    ----------
    unreadable : dict of str to str
        Receives the folders that cannot be read, with the reasons.
    """
    from slant.io.read import SUFFIXES

    def note(error: OSError) -> None:
        unreadable[os.fspath(error.filename)] = f"the folder cannot be read: {error.strerror}; check its permissions"

    images: list[Path] = []
    for parent, folders, files in os.walk(top, onerror=note):
        folders[:] = [f for f in folders if not f.startswith(".") and Path(parent, f) != skip]
        images += [Path(parent, f) for f in files if not f.startswith(".") and f.lower().endswith(SUFFIXES)]
    return sorted(images)


def _scans_of_table(path: Path) -> Iterator[tuple[str, Path]]:
    try:
        lines = csv.reader(io.StringIO(read_text(path), newline=""), delimiter="\t")
        rows = [[cell.strip() for cell in row] for row in lines]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(
            f"cannot read the table of scans {path}: {error}; expected tab-separated text in UTF-8"
        ) from error
    header = rows[0] if rows else []
    if any(column not in header for column in _COLUMNS):
        raise SettingsError(
            f"{path}: found columns {', '.join(header) or 'none'}, expected {' and '.join(_COLUMNS)}, separated by tabs"
        )
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
