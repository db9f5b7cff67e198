"""Finds the scans of a BIDS dataset."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slant.cohort.bids_files import IGNORE_FILE, SKIP, check_description, read_filters, read_ignored
from slant.cohort.jobs import images_below, resolve
from slant.cohort.left_out import derivatives_finder, notes_about, reason_against, stem_and_suffix
from slant.engine.job import Job, JobList
from slant.engine.layout import absolute
from slant.errors import InputError, SettingsError
from slant.extras import require_extra

_ANATOMICAL: dict[str, Any] = {"datatype": "anat", "extension": [".nii.gz", ".nii"]}
_NOT_BIDS = "not a valid BIDS name and folder, see --skip-bids-validation"
_ASK_FOR_UNIT1 = (
    "UNIT1 (MP2RAGE) is T1-weighted: ask for it with --bids-filter-file FILE, where FILE holds "
    '{"t1w": {"suffix": "UNIT1"}}'
)
_RENAME = "rename one, or select one with --bids-filter-file"
_SHOWN = 10


@dataclass(frozen=True)
class Selection:
    """Which scans of a dataset to segment.

    Attributes
    ----------
    participants, sessions : tuple of str
        Labels with or without ``sub-`` and ``ses-``; empty for all.
    filter_file : Path, optional
        JSON file with pybids entities under ``t1w``; a ``suffix`` there replaces ``T1w``.
    validate : bool
        Whether the dataset must have a valid description, and files without BIDS names are ignored.
    """

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    filter_file: Path | None = None
    validate: bool = True


def list_bids_jobs(bids_dir: Path, out: Path, selection: Selection) -> JobList:
    """List the selected T1w images of a BIDS dataset, indexed by pybids, for the derivatives dataset ``out``.

    What ``.bidsignore`` lists, results and phase images are left out; of ``.nii.gz`` and ``.nii`` files of one name
    the first is taken. The notes of the list say so, and name the participants of whom no image was selected.

    Raises
    ------
    InputError
        If the folder is not a BIDS dataset or no image is selected; the message names participants not found.
    SettingsError
        If the filter file is invalid.
    MissingExtraError
        If pybids is not installed.
    """
    bids_dir, out = absolute(bids_dir), absolute(out)
    query = _query(selection)
    layout = _layout(bids_dir, selection)
    matches = _matches(layout, query, selection.filter_file)
    not_processed: dict[str, str] = {}
    images = _images(bids_dir, query, not_processed)
    closed = {_subject(bids_dir, Path(folder)) for folder in not_processed}
    unnamed = set(images) - {Path(path) for path in layout.files} if selection.validate else set()
    left_out = _left_out(bids_dir, matches, unnamed, query)
    kept = {image: entities for image, entities in matches.items() if image not in left_out}
    resolved = resolve(sorted((_job(*item, out) for item in kept.items()), key=lambda job: job.id))
    notes = notes_about(left_out | resolved.left_out)
    known = sorted(layout.get_subjects())
    missing = [p for p in _labels(selection.participants, "sub-") if p not in {*known, *closed}]
    if missing:
        raise InputError(f"{bids_dir} has no participant {', '.join(missing)}; {_has(known)}")
    asked = {str(subject) for subject in _listed(query.get("subject") or known)}
    seen = {str(entities.get("subject")) for entities in matches.values()} | {_subject(bids_dir, i) for i in unnamed}
    without = sorted(asked - closed - seen)
    others = _matches(layout, {**_ANATOMICAL, "subject": without}) if without else {}
    if not resolved.jobs and not closed:
        details = "; ".join([_has(known), *_summary(others, query), *notes])
        raise InputError(f"{bids_dir} has no {_kind(query)} image that matches the selection; {details}")
    not_processed |= {
        os.fspath(second.scan): f"its results would have the same names as those of {first.scan}; {_RENAME}"
        for first, second in resolved.clashes
    }
    return JobList(resolved.jobs, not_processed, (*notes, *_note_on_others(without, others, query)))


def _query(selection: Selection) -> dict[str, Any]:
    """Values of pybids entities that an image must have; those of the command line come before the filter file."""
    filters = {} if selection.filter_file is None else read_filters(selection.filter_file)
    labels = {
        "subject": _labels(selection.participants, "sub-"),
        "session": _labels(selection.sessions, "ses-"),
    }
    return {
        "suffix": "T1w",
        **_ANATOMICAL,
        **filters,
        **{entity: values for entity, values in labels.items() if values},
    }


def _labels(labels: Iterable[str], prefix: str) -> list[str]:
    return [label.removeprefix(prefix) for label in labels]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _kind(query: Mapping[str, Any]) -> str:
    return " or ".join(map(str, _listed(query["suffix"])))


def _layout(bids_dir: Path, selection: Selection) -> Any:
    if not bids_dir.is_dir():
        raise InputError(f"{bids_dir} is not a folder; expected the root folder of a BIDS dataset")
    require_extra("bids")
    if selection.validate:
        check_description(bids_dir)  # pybids does not read byte-order marks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pybids warns about its own internals
        from bids import BIDSLayout
        from bids.layout import BIDSLayoutIndexer

        try:
            indexer = BIDSLayoutIndexer(validate=selection.validate, index_metadata=False)
            return BIDSLayout(bids_dir, validate=False, derivatives=False, indexer=indexer)
        except (ValueError, OSError, AttributeError, TypeError) as error:  # the last two from an odd description
            raise InputError(f"{bids_dir} is not a BIDS dataset: {' '.join(str(error).split())}; {SKIP}") from error


def _matches(layout: Any, query: Mapping[str, Any], source: Path | None = None) -> dict[Path, dict[str, Any]]:
    """Images with these entities, sorted, with all their entities; ``source`` is the filter file."""
    unknown = sorted(set(query) - set(layout.get_entities()))
    if unknown:
        raise SettingsError(f"{source}: found {', '.join(unknown)}, expected entities as pybids names them")
    try:
        images = layout.get(**query)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{source}: {error}; expected entities as pybids names them") from error
    return {Path(image.path): dict(image.entities) for image in sorted(images, key=lambda image: str(image.path))}


def _images(bids_dir: Path, query: Mapping[str, Any], unreadable: dict[str, str]) -> list[Path]:
    """Image files of the selected participants and sessions with the suffix, whether their names are valid or not."""
    subjects = [bids_dir / f"sub-{subject}" for subject in _listed(query.get("subject", []))]
    folders = [folder for folder in subjects or sorted(bids_dir.glob("sub-*/")) if folder.is_dir()]
    images = [image for folder in folders for image in images_below(folder, unreadable)]  # pybids skips closed folders
    sessions = {f"ses-{session}" for session in _listed(query.get("session", []))}
    suffixes = _listed(query["suffix"])
    return [
        image
        for image in images
        if stem_and_suffix(image)[0].rpartition("_")[2] in suffixes and (not sessions or sessions & {*image.parts})
    ]


def _subject(bids_dir: Path, path: Path) -> str:
    """Label of the participant whose folder a path is, or is in."""
    return path.relative_to(bids_dir).parts[0].removeprefix("sub-")


def _left_out(
    bids_dir: Path, matches: Mapping[Path, Mapping[str, Any]], unnamed: set[Path], query: Mapping[str, Any]
) -> dict[Path, str]:
    """Images of the dataset that are not to be segmented, with the reasons."""
    is_ignored, find_derivatives = read_ignored(bids_dir), derivatives_finder(bids_dir, inside_only=True)
    reasons = {}
    for image in sorted({*matches, *unnamed}):
        if is_ignored(image):
            reasons[image] = f"listed in {IGNORE_FILE}"
        elif image in matches and "subject" not in matches[image]:
            reasons[image] = "not in the folder of a participant"
        elif reason := reason_against(image, find_derivatives, asked=query.keys()):
            reasons[image] = reason
        elif image in unnamed:
            reasons[image] = _NOT_BIDS
    return reasons


def _job(scan: Path, entities: Mapping[str, Any], out: Path) -> Job:
    name = stem_and_suffix(scan)[0].removesuffix(f"_{entities['suffix']}")
    folder = out / f"sub-{entities['subject']}"
    if "session" in entities:
        folder /= f"ses-{entities['session']}"
    return Job(name, scan, folder / "anat", name)


def _has(known: Sequence[str]) -> str:
    return f"it has the participants {', '.join(known) or 'none'}"


def _summary(others: Mapping[Path, Mapping[str, Any]], query: Mapping[str, Any]) -> list[str]:
    """Which anatomical images of other kinds there are, and whether one can be asked for."""
    by_kind: dict[str, list[str]] = {}
    for image, entities in others.items():
        if entities.get("suffix") not in _listed(query["suffix"]):
            by_kind.setdefault(str(entities.get("suffix")), []).append(image.name)
    if not by_kind:
        return []
    kinds = (f"{len(names)} {kind}, for example {names[0]}" for kind, names in sorted(by_kind.items()))
    advice = _ASK_FOR_UNIT1 if "UNIT1" in by_kind else "slant segments T1-weighted images only"
    return [f"there are other anatomical images ({'; '.join(kinds)}): {advice}"]


def _note_on_others(
    without: Sequence[str], others: Mapping[Path, Mapping[str, Any]], query: Mapping[str, Any]
) -> list[str]:
    """Note that names the participants of whom no image was selected, and says which images they have."""
    if not without:
        return []
    shown = ", ".join(without[:_SHOWN]) + (", ..." if len(without) > _SHOWN else "")
    text = f"no {_kind(query)} image was selected of {len(without)} participant(s): {shown}"
    return ["; ".join([text, *_summary(others, query)])]
