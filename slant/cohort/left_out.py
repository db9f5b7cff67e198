"""Which images of a folder are not scans to segment: derivatives, results, phase images; and notes about them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path

from slant.files import read_text
from slant.io.names import RESULT_FILES, ResultNames

DESCRIPTION = "dataset_description.json"
"""Name of the description of a BIDS dataset."""

NEVER_FILTERED = "files, quoted patterns and tables are never filtered: give those to segment them all the same"
"""Advice of an error if all images of a folder are left out."""

_RESULTS_OF_TOOLS = ("space", "desc")
_MAGNITUDE = "mag"
_RESULTS_OF_SLANT = tuple(end for end in RESULT_FILES.values() if end.endswith(".nii.gz"))

FindDerivatives = Callable[[Path], Path | None]


def stem_and_suffix(path: Path) -> tuple[str, str]:
    """File name of an image without its extension, and the extension in lower case."""
    from slant.io.read import SUFFIXES

    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), path.suffix.lower())
    return path.name[: len(path.name) - len(suffix)], suffix


def entities_of(stem: str) -> dict[str, str]:
    """Values of the BIDS entities in a file name, by key.

    Examples
    --------
    >>> entities_of("sub-01_part-phase_T1w")
    {'sub': '01', 'part': 'phase'}
    """
    return dict(part.split("-", 1) for part in stem.split("_") if "-" in part)


def derivatives_finder(top: Path, *, inside_only: bool = False) -> FindDerivatives:
    """Function that finds the derivatives dataset that a folder belongs to, if any.

    The nearest description of a dataset, in the folder or above, decides. A folder ``derivatives`` in a dataset, below
    ``top``, is one without a description.

    Parameters
    ----------
    top : Path
        Folder that the user gave.
    inside_only : bool, optional
        Whether the description of ``top``, and everything above, does not count.
    """

    @cache
    def find(folder: Path) -> Path | None:
        if folder == top and inside_only:
            return None
        kind = _dataset_type(folder)
        if kind or folder.parent == folder:
            return folder if kind.startswith("derivative") else None
        below = folder != top and folder.is_relative_to(top)
        if below and folder.name == "derivatives" and (folder.parent / DESCRIPTION).is_file():
            return folder
        return find(folder.parent)

    return find


def _dataset_type(folder: Path) -> str:
    """Type of the BIDS dataset in a folder; empty if it has no description, or none that can be read."""
    try:
        description = json.loads(read_text(folder / DESCRIPTION))
    except (OSError, ValueError):
        return ""
    if not isinstance(description, dict):
        return ""
    before_bids_1_4 = "derivative" if "PipelineDescription" in description else "raw"
    return str(description.get("DatasetType", before_bids_1_4)).lower()


def reason_against(image: Path, find_derivatives: FindDerivatives, asked: Collection[str] = ()) -> str:
    """Why an image is not a scan to segment; empty if it may be one.

    Parameters
    ----------
    asked : collection of str
        BIDS entities that the user filters by; these are not a reason.
    """
    dataset = find_derivatives(image.parent)
    if dataset is not None:
        return f"in the derivatives dataset {dataset}"
    if _is_result(image):
        return "results of slant, whose records are beside them"
    entities = entities_of(stem_and_suffix(image)[0])
    if any(key in entities and key not in asked for key in _RESULTS_OF_TOOLS):
        return f"results of a tool ({' or '.join(f'{key}-' for key in _RESULTS_OF_TOOLS)} in the name)"
    part = entities.get("part", _MAGNITUDE)
    if part != _MAGNITUDE and "part" not in asked:
        return f"not the magnitude (part-{part} in the name)"
    return ""


def _is_result(image: Path) -> bool:
    names = (image.name.removesuffix(end) for end in _RESULTS_OF_SLANT if image.name.endswith(end))
    return any((image.parent / ResultNames(name).record).is_file() for name in names)


def notes_about(left_out: Mapping[Path, str]) -> tuple[str, ...]:
    """One line for each reason, with the number of images and the name of one of them.

    Parameters
    ----------
    left_out : dict of Path to str
        Images with the reasons.
    """
    by_reason: dict[str, list[Path]] = {}
    for image, reason in left_out.items():
        by_reason.setdefault(reason, []).append(image)
    return tuple(
        f"left out {len(images)} image(s): {reason}; for example {min(images).name}"
        for reason, images in by_reason.items()
    )
