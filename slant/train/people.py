"""Who is in which fold: a split is by person, never by scan."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from slant.errors import InputError, SettingsError

if TYPE_CHECKING:
    from slant.train.settings import TrainSettings

_COLUMNS = ("name", "person", "fold", "regions")
_BIDS_PERSON = re.compile(r"(?:^|[_/])(sub-[A-Za-z0-9]+)")


@dataclass(frozen=True)
class ScanTable:
    """What is known of the scans beside their files; whatever a name lacks has its default.

    Attributes
    ----------
    persons : dict of str to str
        By default the ``sub-`` part of the name, or all of it.
    folds : dict of str to int
        Fold of each person who was put into one; if there are any, all others are in no fold.
    regions : dict of str to tuple of int
        Ids that the labels of a scan cover, where that is not all of them.
    """

    persons: dict[str, str] = field(default_factory=dict)
    folds: dict[str, int] = field(default_factory=dict)
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def person(self, name: str) -> str:
        """Who was scanned."""
        found = _BIDS_PERSON.search(name)
        return self.persons.get(name, found[1] if found else name)


def read_table(path: Path | None) -> ScanTable:
    """The table of scans of a training; empty without a file.

    Parameters
    ----------
    path : Path or None
        TSV with the column ``name`` and any of ``person``, ``fold`` (a whole number), ``regions`` (ids with commas).

    Raises
    ------
    SettingsError
        If it cannot be read, has other columns, doubled names, a fold or id that is no number, or one person in two
        folds.
    """
    if path is None:
        return ScanTable()
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read the table of scans {path}: {error}; wanted tabs between columns") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise SettingsError(f"cannot read the table of scans {path}: lines have more columns than the header")
    strange = [c for c in table.columns if c not in _COLUMNS]
    if "name" not in table.columns or strange:
        raise SettingsError(f"{path}: found columns {', '.join(table.columns)}; wanted name and any of {_COLUMNS[1:]}")
    doubled = sorted(set(table.name[table.name.duplicated()]))
    if doubled:
        raise SettingsError(f"{path}: each scan stands once, found several lines of {', '.join(doubled)}")
    rows = table.to_dict("records")
    persons = {r["name"]: r["person"] for r in rows if r.get("person")}
    known = ScanTable(persons)
    folds: dict[str, int] = {}
    for row in rows:
        if row.get("fold"):
            person, fold = known.person(row["name"]), _number(row["fold"], f"{path}: fold of {row['name']}")
            if folds.setdefault(person, fold) != fold:
                raise SettingsError(f"{path}: {person} is in fold {folds[person]} and in fold {fold}; wanted one")
    regions = {
        r["name"]: tuple(_number(i, f"{path}: regions of {r['name']}") for i in r["regions"].split(","))
        for r in rows
        if r.get("regions")
    }
    return ScanTable(persons, folds, regions)


def _number(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"{where}: found {text!r}, wanted a whole number") from None


def split(settings: TrainSettings, names: list[str]) -> tuple[list[str], list[str]]:
    """Sorted names of the scans trained on and of those held out.

    The sorted people take turns: fold k is every ``folds``-th from the k-th on, unless the table of scans puts them
    into folds.

    Raises
    ------
    SettingsError
        If either part would be empty.
    """
    table = read_table(settings.scans)
    names = sorted(names)
    if settings.fold is None:
        return names, []
    people = sorted({table.person(name) for name in names})
    if table.folds:
        out = {person for person in people if table.folds.get(person) == settings.fold}
        how = f"the table {settings.scans} puts none of them into fold {settings.fold}, or all"
    else:
        out = set(people[settings.fold :: settings.folds])
        how = f"there are {len(people)} people for {settings.folds} folds"
    held_out = [name for name in names if table.person(name) in out]
    trained = [name for name in names if table.person(name) not in out]
    if not trained or not held_out:
        raise SettingsError(f"{len(names)} labelled scans cannot be split into {settings.folds} folds: {how}")
    return trained, held_out


def auxiliary_names(settings: TrainSettings, manual: list[str]) -> list[str]:
    """Sorted names of the auxiliary scans that may be trained on.

    Scans of people who are held out are left out, and those that ``quality.tsv`` in their folder calls suspect.

    Parameters
    ----------
    settings : TrainSettings
    manual : list of str
        Names of all scans with manual labels.

    Raises
    ------
    SettingsError
        If a name is in both folders, or auxiliary labels were made from the manual ones of people who are held out.
    InputError
        If the folder has no pairs.
    """
    from slant.train.data import labelled_names

    if settings.auxiliary is None:
        return []
    table = read_table(settings.scans)
    names = labelled_names(settings.auxiliary)
    both = sorted(set(names) & set(manual))
    if both:
        raise SettingsError(
            f"{', '.join(both)} lie in {settings.data} and in {settings.auxiliary}; a scan belongs in one of them"
        )
    _, held_out = split(settings, manual)
    persons_out = {table.person(name) for name in held_out}
    suspect = _suspects(settings.auxiliary)
    kept = [name for name in names if table.person(name) not in persons_out and name not in suspect]
    for name in kept:
        seen = sorted({a for a in _atlases(settings.auxiliary, name) if table.person(a) in persons_out})
        if seen:
            raise SettingsError(
                f"the auxiliary labels of {name} were made with the atlases {', '.join(seen)}, who are held out in "
                f"fold {settings.fold}; make them again: slant multiatlas --exclude {' --exclude '.join(held_out)}"
            )
    if not kept:
        raise InputError(
            f"all scans in {settings.auxiliary} are of people held out in fold {settings.fold}, or suspect"
        )
    return kept


def _suspects(folder: Path) -> set[str]:
    """Scans that the table of `slant multiatlas` calls suspect; none without a table."""
    path = folder / "quality.tsv"
    if not path.is_file():
        return set()
    try:
        table = pd.read_csv(path, sep="\t", dtype=str)
        return set(table.loc[table["suspect"] == "yes", "name"])
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{path} is no table of `slant multiatlas`: {error!r}; wanted the columns name and suspect (yes or no)"
        ) from error


def _atlases(folder: Path, name: str) -> list[str]:
    """Names of the atlases that labels were made from, as their record tells; none without a record."""
    record = folder / f"{name}_multiatlas.json"
    if not record.is_file():
        return []
    try:
        return [str(a) for a in json.loads(record.read_text(encoding="utf-8"))["atlases"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{record} is no record of `slant multiatlas`: {error!r}; make the labels again") from error
