"""Which scans there are: atlases with labels, targets with or without, each with a name and a person."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from slant.errors import InputError, SettingsError
from slant.io.read import scan_name

SCANS = "*_T1w.nii.gz"

_COLUMNS = ("name", "T1w", "dseg", "person")
_BIDS_PERSON = re.compile(r"(?:^|[_/])(sub-[A-Za-z0-9]+)")


@dataclass(frozen=True)
class Member:
    """One scan of a library or one target.

    Attributes
    ----------
    name : str
        Of its files.
    t1w : Path
    dseg : Path or None
        Manual labels.
    person : str
        Who was scanned; an atlas never labels its own person.
    """

    name: str
    t1w: Path
    dseg: Path | None
    person: str


def read_members(places: Iterable[Path], *, labelled: bool) -> tuple[Member, ...]:
    """The scans of folders, tables and single files, sorted by name.

    Parameters
    ----------
    places : iterable of Path
        Folders with ``NAME_T1w.nii.gz`` at any depth and ``NAME_dseg.nii.gz`` beside it; TSV files with the columns
        name, T1w and, where known, dseg and person (paths from the table's folder); or scans. Without a person, it is
        the ``sub-`` part of the name, else the name.
    labelled : bool
        Whether every scan must have labels.

    Raises
    ------
    InputError
        If a place holds no scan, labels are wanted and missing, or two scans have one name.
    SettingsError
        If a table cannot be read or lacks a column.
    """
    members = sorted((m for place in places for m in _members(place)), key=lambda m: m.name)
    by_name: dict[str, Member] = {}
    for member in members:
        if member.name in by_name:
            raise InputError(
                f"two scans are named {member.name}: {by_name[member.name].t1w} and {member.t1w}; results go by name, "
                "so give them different ones, in a table with the columns name, T1w, dseg if the files cannot change"
            )
        by_name[member.name] = member
    lacking = [m.name for m in members if m.dseg is None]
    if labelled and lacking:
        raise InputError(
            f"an atlas needs labels, found none for {', '.join(lacking)}; wanted NAME_dseg.nii.gz beside "
            f"{members[0].t1w.parent / 'NAME_T1w.nii.gz'}"
        )
    return tuple(members)


def without(members: Iterable[Member], excluded: Iterable[str]) -> tuple[Member, ...]:
    """The members but those of the given names or persons.

    Raises
    ------
    SettingsError
        If a name is nobody's.
    """
    members, excluded = tuple(members), tuple(excluded)
    strange = [e for e in excluded if all(e not in (m.name, m.person) for m in members)]
    if strange:
        names = ", ".join(m.name for m in members)
        raise SettingsError(f"--exclude {strange[0]} is no name or person of an atlas; there are {names}")
    return tuple(m for m in members if m.name not in excluded and m.person not in excluded)


def atlases_for(target: Member, library: Iterable[Member]) -> tuple[Member, ...]:
    """The atlases that may label a target: of other persons, other names and other files.

    Raises
    ------
    InputError
        If none is left.
    """
    found = tuple(
        a for a in library if a.person != target.person and a.name != target.name and a.t1w.resolve() != target.t1w
    )
    if not found:
        raise InputError(f"{target.name}: no atlas of another person is left in the library; add one")
    return found


def _members(place: Path) -> Iterator[Member]:
    if place.suffix == ".tsv":
        yield from _table(place)
        return
    if not place.is_dir():
        yield _member(scan_name(place), place)
        return
    scans = sorted(p for p in place.rglob(SCANS) if not any(s.startswith(".") for s in p.relative_to(place).parts))
    if not scans:
        raise InputError(f"{place}: found no {SCANS} in this folder or below; wanted a library of scans")
    for scan in scans:
        yield _member(scan_name(scan), scan)


def _member(name: str, t1w: Path, dseg: Path | None = None, person: str = "") -> Member:
    beside = t1w.with_name(f"{name}_dseg.nii.gz")
    if dseg is None and beside.is_file():
        dseg = beside
    found = _BIDS_PERSON.search(name)
    return Member(name, t1w.resolve(), dseg, person or (found[1] if found else name))


def _table(path: Path) -> Iterator[Member]:
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read the table of scans {path}: {error}; wanted tabs between columns") from error
    strange = [c for c in table.columns if c not in _COLUMNS]
    if strange or not {"name", "T1w"} <= set(table.columns):
        raise SettingsError(
            f"{path}: found columns {', '.join(table.columns)}; wanted name, T1w and any of dseg, person"
        )
    if table.empty:
        raise InputError(f"{path}: the table has no rows; wanted a line for every scan")
    for row in table.to_dict("records"):
        dseg = row.get("dseg")
        yield _member(
            row["name"], path.parent / row["T1w"], path.parent / dseg if dseg else None, row.get("person", "")
        )
