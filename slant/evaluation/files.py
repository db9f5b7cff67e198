"""Which predicted file belongs to which true one: label maps are found in folders and matched by the scan's name."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from slant.errors import InputError
from slant.io.read import SUFFIXES, scan_name

_LABELS = re.compile(r"_(dseg|seg)$")
_ENTITIES = re.compile(r"_(desc|seg|atlas|label)-[^_]+|_space-(orig|T1w)(?=_|$)")
_OTHER_SPACE = re.compile(r"(^|_)space-(?!(orig|T1w)(_|$))")
_SHOWN = 5


@dataclass(frozen=True)
class Match:
    """One scan's files.

    Attributes
    ----------
    scan : str
        Name that the files share.
    truth : Path
    predictions : tuple of Path
        One of every method.
    """

    scan: str
    truth: Path
    predictions: tuple[Path, ...]


def label_name(path: Path) -> str:
    """The scan's name in the name of its label map.

    Examples
    --------
    >>> label_name(Path("out/sub-01_run-2_seg-BrainCOLOR_dseg.nii.gz"))
    'sub-01_run-2'
    >>> label_name(Path("1000_dseg.nii.gz"))
    '1000'
    """
    stem = _LABELS.sub("", scan_name(path))
    return _ENTITIES.sub("", stem).removesuffix("_T1w") or stem


def find_labels(place: Path) -> dict[str, Path]:
    """Label maps by the names of their scans.

    Parameters
    ----------
    place : Path
        A label map; or a folder, searched with the folders in it, where every ``NAME_dseg`` or ``NAME_seg`` image is
        taken, or every image if there is none of these. Images in a space other than the scan's (``space-MNI305``)
        and hidden files are left out. If two files in different folders have one name, the folders become part of it.

    Raises
    ------
    InputError
        If there is none, or two in one folder have the same name.
    """
    if not place.is_dir():
        return {label_name(place): place}
    images = [p for p in sorted(place.rglob("*")) if p.name.lower().endswith(SUFFIXES) and p.is_file()]
    images = [p for p in images if not any(part.startswith(".") for part in p.relative_to(place).parts)]
    images = [p for p in images if not _OTHER_SPACE.search(p.name)]
    files = [p for p in images if _LABELS.search(scan_name(p))] or images
    if not files:
        raise InputError(f"{place} holds no label map; wanted files such as NAME_dseg.nii.gz")
    names = [label_name(p) for p in files]
    if len(set(names)) < len(names):
        names = [(p.parent.relative_to(place) / n).as_posix() for p, n in zip(files, names, strict=True)]
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        same = ", ".join(p.name for p, n in zip(files, names, strict=True) if n == doubled[0])
        raise InputError(f"{place} holds several label maps of scan '{doubled[0]}': {same}; keep one in the folder")
    return dict(zip(names, files, strict=True))


def match_files(
    predictions: tuple[Path, ...], truth: Path, *, allow_missing: bool = False
) -> tuple[tuple[Match, ...], tuple[str, ...]]:
    """Match the label maps of one or more methods with the true ones.

    Parameters
    ----------
    predictions : tuple of Path
        Of each method, a label map or a folder.
    truth : Path
        A label map or a folder. Two single files are a match whatever their names.
    allow_missing : bool, optional
        Leave out a true map which a method has no prediction for, instead of an error.

    Returns
    -------
    matches : tuple of Match
        In order of the scans' names.
    notes : tuple of str
        What was left out.

    Raises
    ------
    InputError
        If a true map has no prediction, or no names match.
    """
    for place in (*predictions, truth):
        if not place.exists():
            raise InputError(f"{place}: no such file or folder; check the spelling of the path")
    if not any(place.is_dir() for place in (*predictions, truth)):
        return (Match(label_name(truth), truth, predictions),), ()
    true, notes, found = find_labels(truth), [], []
    for place in predictions:
        own = find_labels(place)
        found.append(own)
        missing, extra = sorted(set(true) - set(own)), sorted(set(own) - set(true))
        if len(missing) == len(true):
            raise InputError(
                f"no label map of {place} ({_few(sorted(own))}) has the name of one of {truth} ({_few(sorted(true))}); "
                "names are compared without extension, _dseg, _seg and entities such as _seg-BrainCOLOR"
            )
        if missing and not allow_missing and place.is_dir():
            raise InputError(
                f"{place} has no label map for {_few(missing)} of {truth}; predict them, or leave them out with "
                "--allow-missing"
            )
        if missing:
            notes.append(f"{place} has no label map for {_few(missing)}: left out")
        if extra:
            notes.append(f"{truth} has no label map for {_few(extra)} of {place}: left out")
    scans = sorted(set(true).intersection(*found))
    if not scans:
        raise InputError("the two methods have no scan in common that has a true label map; nothing can be compared")
    return tuple(Match(scan, true[scan], tuple(own[scan] for own in found)) for scan in scans), tuple(notes)


def _few(names: list[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
