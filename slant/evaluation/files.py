"""Find label maps in folders and match predictions with references by the name of the scan."""

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
_MAX_NAMES = 5


@dataclass(frozen=True)
class Match:
    """Name of a scan, its reference label map, and the predicted label map of each method."""

    scan: str
    reference: Path
    predictions: tuple[Path, ...]


def label_name(path: Path) -> str:
    """Name of the scan in the file name of its label map.

    Examples
    --------
    >>> label_name(Path("out/sub-01_run-2_seg-BrainCOLOR_dseg.nii.gz"))
    'sub-01_run-2'
    >>> label_name(Path("1000_dseg.nii.gz"))
    '1000'
    """
    stem = _LABELS.sub("", scan_name(path))
    return _ENTITIES.sub("", stem).removesuffix("_T1w") or stem


def find_labels(path: Path) -> dict[str, Path]:
    """Label maps by the names of their scans.

    Parameters
    ----------
    path : Path
        A label map, or a folder that is searched with its subfolders: label maps are the images ``NAME_dseg`` and
        ``NAME_seg`` or, if there are none, all images. Images in a space other than the scan's (``space-MNI305``) and
        hidden files are ignored. If files in different folders have one name, the folder becomes part of the name.

    Raises
    ------
    InputError
        If there is none, or two in one folder have the same name.
    """
    if not path.is_dir():
        return {label_name(path): path}
    images = [p for p in sorted(path.rglob("*")) if p.name.lower().endswith(SUFFIXES) and not p.is_dir()]
    images = [p for p in images if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    images = [p for p in images if not _OTHER_SPACE.search(p.name)]
    files = [p for p in images if _LABELS.search(scan_name(p))] or images
    if not files:
        raise InputError(f"{path} holds no label map; expected images with names like NAME_dseg.nii.gz")
    names = [label_name(p) for p in files]
    if len(set(names)) < len(names):
        names = [(p.parent.relative_to(path) / n).as_posix() for p, n in zip(files, names, strict=True)]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        same = ", ".join(p.name for p, n in zip(files, names, strict=True) if n == repeated[0])
        raise InputError(f"{path} holds several label maps of scan '{repeated[0]}': {same}; keep one in the folder")
    return dict(zip(names, files, strict=True))


def match_files(
    predictions: tuple[Path, ...], references: Path, *, allow_missing: bool = False
) -> tuple[tuple[Match, ...], tuple[str, ...]]:
    """Match the label maps of one or more methods with the reference label maps.

    Parameters
    ----------
    predictions : tuple of Path
        A label map or a folder for each method.
    references : Path
        A label map or a folder. Two single files are a match whatever their names.
    allow_missing : bool, optional
        Skip reference maps without a prediction instead of raising an error.

    Returns
    -------
    matches : tuple of Match
        Sorted by the names of the scans.
    notes : tuple of str
        Messages about skipped files.

    Raises
    ------
    InputError
        If a reference map has no prediction, or no names match.
    """
    for path in (*predictions, references):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; check the spelling of the path")
    if not any(path.is_dir() for path in (*predictions, references)):
        return (Match(label_name(references), references, predictions),), ()
    reference_files, notes, prediction_files = find_labels(references), [], []
    for path in predictions:
        files = find_labels(path)
        prediction_files.append(files)
        missing, extra = sorted(set(reference_files) - set(files)), sorted(set(files) - set(reference_files))
        if len(missing) == len(reference_files):
            raise InputError(
                f"no file names match between {path} ({_few(sorted(files))}) and {references} "
                f"({_few(sorted(reference_files))}); names are compared without extension, _dseg, _seg and entities "
                "like _seg-BrainCOLOR"
            )
        if missing and not allow_missing and path.is_dir():
            raise InputError(
                f"{path} has no label map for {_few(missing)} of {references}; predict them, or leave them out with "
                "--allow-missing"
            )
        if missing:
            notes.append(f"{path} has no label map for {_few(missing)}: skipped")
        if extra:
            notes.append(f"{references} has no label map for {_few(extra)} of {path}: skipped")
    scans = sorted(set(reference_files).intersection(*prediction_files))
    if not scans:
        raise InputError("the two methods have no scan with a reference label map in common; nothing can be compared")
    matches = (Match(scan, reference_files[scan], tuple(files[scan] for files in prediction_files)) for scan in scans)
    return tuple(matches), tuple(notes)


def _few(names: list[str]) -> str:
    """The first names, and the number of the others."""
    first = ", ".join(names[:_MAX_NAMES])
    return first if len(names) <= _MAX_NAMES else f"{first} and {len(names) - _MAX_NAMES} more"
