"""Finds the scans of a BIDS dataset."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slant.cohort.jobs import unique
from slant.engine.job import Job, JobList
from slant.engine.layout import absolute
from slant.errors import InputError, SettingsError
from slant.extras import require_extra


@dataclass(frozen=True)
class Selection:
    """Which scans of a dataset to segment.

    Attributes
    ----------
    participants, sessions : tuple of str
        Labels with or without ``sub-`` and ``ses-``; empty for all.
    filter_file : Path, optional
        JSON file with pybids entities under ``t1w``.
    validate : bool
        Whether the dataset must have a valid description, and files without BIDS names are ignored.
    """

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    filter_file: Path | None = None
    validate: bool = True


def list_bids_jobs(bids_dir: Path, out: Path, selection: Selection) -> JobList:
    """List the selected T1w images of a BIDS dataset, indexed by pybids, for the derivatives dataset ``out``.

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
    filters = _filters(selection)
    participants = [label.removeprefix("sub-") for label in selection.participants]
    sessions = [label.removeprefix("ses-") for label in selection.sessions]
    unreadable = _unreadable(bids_dir, participants)
    if participants:
        filters["subject"] = participants
    if sessions:
        filters["session"] = sessions
    layout = _layout(bids_dir, selection)
    try:
        images = layout.get(suffix="T1w", datatype="anat", extension=[".nii.gz", ".nii"], **filters)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{selection.filter_file}: {error}; expected entities as pybids names them") from error
    images = [image for image in images if image.entities.get("part", "mag") == "mag"]
    known = sorted(layout.get_subjects())
    missing = [p for p in participants if p not in known and f"sub-{p}" not in unreadable]
    if missing or not (images or unreadable):
        not_found = f"participant {', '.join(missing)}" if missing else "T1w image that matches the selection"
        raise InputError(f"{bids_dir} has no {not_found}; it has the participants {', '.join(known) or 'none'}")
    jobs = unique(sorted((_job(Path(image.path), image.entities, out) for image in images), key=lambda job: job.id))
    return JobList(jobs, {os.fspath(bids_dir / name): reason for name, reason in unreadable.items()})


def _job(scan: Path, entities: dict[str, Any], out: Path) -> Job:
    from slant.io.read import scan_name

    name = scan_name(scan)
    folder = out / f"sub-{entities['subject']}"
    if "session" in entities:
        folder /= f"ses-{entities['session']}"
    return Job(name, scan, folder / "anat", name)


def _layout(bids_dir: Path, selection: Selection) -> Any:
    if not bids_dir.is_dir():
        raise InputError(f"{bids_dir} is not a folder; expected the root folder of a BIDS dataset")
    require_extra("bids")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pybids warns about its own internals
        from bids import BIDSLayout
        from bids.layout import BIDSLayoutIndexer

        try:
            indexer = BIDSLayoutIndexer(validate=selection.validate, index_metadata=False)
            return BIDSLayout(bids_dir, validate=selection.validate, derivatives=False, indexer=indexer)
        except (ValueError, OSError) as error:
            advice = "fix it"
            if selection.validate:
                advice += ", or use --skip-bids-validation if the file names are right"
            raise InputError(f"{bids_dir} is not a BIDS dataset: {' '.join(str(error).split())}; {advice}") from error


def _filters(selection: Selection) -> dict[str, Any]:
    path = selection.filter_file
    if path is None:
        return {}
    try:
        filters = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read the filter file {path}: {error}; expected JSON") from error
    for key in ("t1w", "T1w"):
        if isinstance(filters, dict) and isinstance(filters.get(key), dict):
            return dict(filters[key])
    example = '{"t1w": {"acquisition": "mprage"}}'
    raise SettingsError(f"{path}: found no filter for T1w images, expected for example {example}")


def _unreadable(bids_dir: Path, participants: Sequence[str]) -> dict[str, str]:
    """Unreadable folders of participants, relative to the dataset, with the reasons; pybids would skip them."""
    reasons: dict[str, str] = {}

    def note(error: OSError) -> None:
        folder = os.path.relpath(error.filename, bids_dir)
        reasons[folder] = f"the folder cannot be read: {error.strerror}; check its permissions"

    folders = [bids_dir / f"sub-{p}" for p in participants] or sorted(bids_dir.glob("sub-*/"))
    for folder in folders:
        for _ in os.walk(folder, onerror=note) if folder.is_dir() else ():
            pass
    return reasons
