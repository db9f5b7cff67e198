"""Cross-validation splits by subject, and the table of scans that can define them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from slant.errors import InputError, SettingsError
from slant.io.names import subject_of
from slant.io.user_table import read_user_table
from slant.train.data import labelled_names
from slant.train.settings import TrainSettings

_COLUMNS = ("name", "subject", "fold", "regions")


@dataclass(frozen=True)
class ScanTable:
    """Properties of the scans from the table of scans; names that are not in it have defaults.

    Attributes
    ----------
    subjects : dict of str to str
        Subject of each scan; by default the ``sub-`` part of its name, or the whole name.
    folds : dict of str to int
        Fold of each subject that is assigned to one; if there are any, all other subjects are in no fold.
    regions : dict of str to tuple of int
        Ids that the labels of a scan cover, for scans whose labels do not cover all regions.
    """

    subjects: dict[str, str] = field(default_factory=dict)
    folds: dict[str, int] = field(default_factory=dict)
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def subject(self, name: str) -> str:
        """The subject of a scan."""
        return self.subjects.get(name, subject_of(name))


def read_table(path: Path | None) -> ScanTable:
    """Read the table of scans; it is empty without a file.

    Parameters
    ----------
    path : Path or None
        TSV file with the column ``name`` and any of ``subject``, ``fold`` (an integer) and ``regions`` (ids separated
        by commas).

    Raises
    ------
    SettingsError
        If the file cannot be read, or has unknown columns, duplicate names, a fold or id that is not an integer, or one
        subject in two folds.
    """
    if path is None:
        return ScanTable()
    try:
        table = read_user_table(path)
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read the table of scans {path}: {error}; expected a TSV file") from error
    unknown = [c for c in table.columns if c not in _COLUMNS]
    if "name" not in table.columns or unknown:
        raise SettingsError(
            f"{path}: found columns {', '.join(table.columns)}, expected name and any of {', '.join(_COLUMNS[1:])}"
        )
    duplicates = sorted(set(table.name[table.name.duplicated()]))
    if duplicates:
        raise SettingsError(f"{path}: found several lines of {', '.join(duplicates)}, expected one line per scan")
    rows = table.to_dict("records")
    subjects = {r["name"]: r["subject"] for r in rows if r.get("subject")}
    known = ScanTable(subjects)
    folds: dict[str, int] = {}
    for row in rows:
        if row.get("fold"):
            subject, fold = known.subject(row["name"]), _number(row["fold"], f"{path}: fold of {row['name']}")
            if folds.setdefault(subject, fold) != fold:
                raise SettingsError(
                    f"{path}: {subject} is in fold {folds[subject]} and in fold {fold}, expected one fold"
                )
    regions = {
        r["name"]: tuple(_number(i, f"{path}: regions of {r['name']}") for i in r["regions"].split(","))
        for r in rows
        if r.get("regions")
    }
    return ScanTable(subjects, folds, regions)


def _number(text: str, cell: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"{cell}: found {text!r}, expected an integer") from None


def split(settings: TrainSettings, names: list[str]) -> tuple[list[str], list[str]]:
    """Sorted names of the training scans and of the held-out scans.

    Fold k holds out every ``folds``-th of the sorted subjects, beginning with subject k, unless the table of scans
    assigns subjects to folds.

    Raises
    ------
    SettingsError
        If either list would be empty.
    """
    table = read_table(settings.scans)
    names = sorted(names)
    if settings.fold is None:
        return names, []
    subjects = sorted({table.subject(name) for name in names})
    if table.folds:
        held_out_subjects = {subject for subject in subjects if table.folds.get(subject) == settings.fold}
        reason = f"the table {settings.scans} assigns none or all of them to fold {settings.fold}"
    else:
        held_out_subjects = set(subjects[settings.fold :: settings.folds])
        reason = f"there are {len(subjects)} subjects for {settings.folds} folds"
    held_out = [name for name in names if table.subject(name) in held_out_subjects]
    trained = [name for name in names if table.subject(name) not in held_out_subjects]
    if not trained or not held_out:
        raise SettingsError(f"{len(names)} labelled scans cannot be split into {settings.folds} folds: {reason}")
    return trained, held_out


def subject_folds(
    settings: TrainSettings, names: list[str], count: int, setting: str = "earlier_folds"
) -> list[list[str]]:
    """The names of scans in folds; all scans of a subject are in one fold.

    Parameters
    ----------
    setting : str
        Name of the setting that gives the number of folds, for the error message.

    Raises
    ------
    SettingsError
        If there are fewer subjects than folds.
    """
    table = read_table(settings.scans)
    subjects = sorted({table.subject(name) for name in names})
    if len(subjects) < count:
        raise SettingsError(
            f"{setting} = {count} needs at least {count} training subjects, found {len(subjects)}; use fewer folds"
        )
    return [[name for name in names if table.subject(name) in subjects[k::count]] for k in range(count)]


def auxiliary_names(settings: TrainSettings, manual: list[str]) -> list[str]:
    """Sorted names of the auxiliary training scans.

    Scans of held-out subjects are left out, and those that ``quality.tsv`` in their folder marks as outliers.
    ``manual`` are the names of all scans with manual labels.

    Raises
    ------
    SettingsError
        If a name is in both folders, or auxiliary labels were made from the manual labels of held-out subjects.
    InputError
        If the folder contains no pairs of image and labels, or no scan is left.
    """
    if settings.auxiliary_dir is None:
        return []
    table = read_table(settings.scans)
    names = labelled_names(settings.auxiliary_dir)
    both = sorted(set(names) & set(manual))
    if both:
        raise SettingsError(
            f"found {', '.join(both)} in both {settings.data} and {settings.auxiliary_dir}; keep each scan in one "
            "folder"
        )
    _, held_out = split(settings, manual)
    held_out_subjects = {table.subject(name) for name in held_out}
    outliers = _outliers(settings.auxiliary_dir)
    kept = [name for name in names if table.subject(name) not in held_out_subjects and name not in outliers]
    for name in kept:
        leaked = sorted({a for a in _atlases(settings.auxiliary_dir, name) if table.subject(a) in held_out_subjects})
        if leaked:
            raise SettingsError(
                f"the auxiliary labels of {name} were made with the atlases {', '.join(leaked)}, whose subjects are "
                f"held out in fold {settings.fold}; make them again with slant multiatlas --exclude "
                + " --exclude ".join(held_out)
            )
    if not kept:
        raise InputError(
            f"{settings.auxiliary_dir}: all scans are outliers or of subjects held out in fold {settings.fold}; add "
            "other scans or unset auxiliary_dir"
        )
    return kept


def _outliers(folder: Path) -> set[str]:
    """Names that the table of `slant multiatlas` marks as outliers; empty without a table."""
    path = folder / "quality.tsv"
    if not path.is_file():
        return set()
    try:
        table = pd.read_csv(path, sep="\t", dtype=str)
        return set(table.loc[table["outlier"] == "yes", "name"])
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{path} is not a table of `slant multiatlas`: {error!r}, expected the columns name and outlier (yes or no)"
        ) from error


def _atlases(folder: Path, name: str) -> list[str]:
    """Names of the atlases of automatic labels, from their record; empty without a record."""
    record = folder / f"{name}_multiatlas.json"
    if not record.is_file():
        return []
    try:
        return [str(a) for a in json.loads(record.read_text(encoding="utf-8"))["atlases"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{record} is not a record of `slant multiatlas`: {error!r}; make the labels again") from error
