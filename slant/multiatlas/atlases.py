"""Find atlases (scans with labels) and targets, each with a name and a subject."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from slant.errors import InputError, SettingsError
from slant.io.names import subject_of
from slant.io.read import scan_name
from slant.io.user_table import read_user_table

SCANS = "*_T1w.nii.gz"
"""Pattern of the file names of scans."""

_COLUMNS = ("name", "T1w", "dseg", "subject")


@dataclass(frozen=True)
class AtlasScan:
    """One atlas or one target.

    Attributes
    ----------
    name : str
        Prefix of the output files.
    t1w, dseg : Path
        Absolute paths of the scan and of its manual labels; None without labels.
    subject : str
        Subject; an atlas is never used for its own subject.
    """

    name: str
    t1w: Path
    dseg: Path | None
    subject: str


def read_atlas_scans(paths: Iterable[Path], *, labelled: bool) -> tuple[AtlasScan, ...]:
    """Find the scans in folders, tables and single files, sorted by name.

    Parameters
    ----------
    paths : iterable of Path
        Folders with ``NAME_T1w.nii.gz`` at any depth and ``NAME_dseg.nii.gz`` in the same folder; TSV files with the
        columns name, T1w and optionally dseg and subject (paths relative to the table); or scans. The default subject
        is the ``sub-`` part of the name or, without one, the name.
    labelled : bool
        Whether every scan must have labels.

    Raises
    ------
    InputError
        If a folder has no scan, labels are required and missing, or two scans have one name.
    SettingsError
        If a table cannot be read or lacks a column.
    """
    atlas_scans = sorted((scan for path in paths for scan in _atlas_scans(path)), key=lambda scan: scan.name)
    by_name: dict[str, AtlasScan] = {}
    for atlas_scan in atlas_scans:
        if atlas_scan.name in by_name:
            raise InputError(
                f"two scans are named {atlas_scan.name}: {by_name[atlas_scan.name].t1w} and {atlas_scan.t1w}; names "
                "must be unique: rename the files, or give a table with the columns name, T1w, dseg"
            )
        by_name[atlas_scan.name] = atlas_scan
    lacking = [scan.name for scan in atlas_scans if scan.dseg is None]
    if labelled and lacking:
        raise InputError(
            f"an atlas needs labels, found none for {', '.join(lacking)}; expected NAME_dseg.nii.gz next to "
            f"{atlas_scans[0].t1w.parent / 'NAME_T1w.nii.gz'}"
        )
    return tuple(atlas_scans)


def without(atlas_scans: Iterable[AtlasScan], excluded: Iterable[str]) -> tuple[AtlasScan, ...]:
    """The scans without those of the given names or subjects.

    Raises
    ------
    SettingsError
        If there is no such name or subject.
    """
    atlas_scans, excluded = tuple(atlas_scans), tuple(excluded)
    unknown = [e for e in excluded if all(e not in (scan.name, scan.subject) for scan in atlas_scans)]
    if unknown:
        names = ", ".join(scan.name for scan in atlas_scans)
        raise SettingsError(f"--exclude {unknown[0]} is not a name or subject of an atlas; the atlases are {names}")
    return tuple(scan for scan in atlas_scans if scan.name not in excluded and scan.subject not in excluded)


def atlases_for(target: AtlasScan, library: Iterable[AtlasScan]) -> tuple[AtlasScan, ...]:
    """The atlases that may be used for a target: those with another subject, name and file.

    Raises
    ------
    InputError
        If none is left.
    """
    atlases = tuple(
        a for a in library if a.subject != target.subject and a.name != target.name and a.t1w.resolve() != target.t1w
    )
    if not atlases:
        raise InputError(f"{target.name}: no atlas from another subject is available; add atlases of other subjects")
    return atlases


def refuse_unusable(reasons: Mapping[str, str]) -> None:
    """Raise an InputError about the first of the atlases that cannot be used, if there are any; reasons by name."""
    if reasons:
        name, *others = reasons
        more = f" (and {len(others)} more: {', '.join(others)})" if others else ""
        raise InputError(
            f"the atlas {name} cannot be used: {reasons[name]}{more}; fix it or leave it out with --exclude"
        )


def _atlas_scans(path: Path) -> Iterator[AtlasScan]:
    if path.suffix == ".tsv":
        yield from _table(path)
        return
    if not path.is_dir():
        yield _atlas_scan(scan_name(path), path)
        return
    scans = sorted(p for p in path.rglob(SCANS) if not any(s.startswith(".") for s in p.relative_to(path).parts))
    if not scans:
        raise InputError(f"{path}: found no {SCANS} in this folder or below; give a folder with such scans")
    for scan in scans:
        yield _atlas_scan(scan_name(scan), scan)


def _atlas_scan(name: str, t1w: Path, dseg: Path | None = None, subject: str = "") -> AtlasScan:
    default_dseg = t1w.with_name(f"{name}_dseg.nii.gz")
    if dseg is None and (default_dseg.is_file() or default_dseg.is_symlink()):
        dseg = default_dseg
    return AtlasScan(name, t1w.resolve(), dseg and dseg.absolute(), subject or subject_of(name))


def _table(path: Path) -> Iterator[AtlasScan]:
    try:
        table = read_user_table(path)
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read the table of scans {path}: {error}; expected tabs between columns") from error
    unknown = [c for c in table.columns if c not in _COLUMNS]
    if unknown or not {"name", "T1w"} <= set(table.columns):
        raise SettingsError(
            f"{path}: found the columns {', '.join(table.columns)}; expected name, T1w and optionally dseg, subject"
        )
    if table.empty:
        raise InputError(f"{path}: the table has no rows; expected one row per scan")
    for row in table.to_dict("records"):
        dseg = row.get("dseg")
        yield _atlas_scan(
            row["name"], path.parent / row["T1w"], path.parent / dseg if dseg else None, row.get("subject", "")
        )
