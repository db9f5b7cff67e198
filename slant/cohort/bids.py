"""A BIDS dataset goes in, a BIDS derivatives dataset comes out."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slant
from slant.cohort.failures import write_table
from slant.cohort.jobs import Job, JobList, absolute, unique
from slant.errors import InputError, OutputError, SettingsError

BIDS_VERSION = "1.10.0"
CODE_URL = "https://github.com/slant-brain/slant"

_FILTER_KEYS = ("t1w", "T1w")
_SIDES = {"L": "left", "R": "right", "midline": "both, or on the midline"}
_IGNORED = """\
logs/
volumes.tsv
volumes.json
failures.tsv
group.html
group_data.js
group_thumbnails/
**/*_volumes.tsv
**/*_record.json
**/*_overlay.png
**/*_report.html
**/*_report.pdf
**/*_xfm.mat
"""

_SIDECARS: dict[str, dict[str, Any]] = {
    "space-MNI305_desc-preproc_T1w.json": {
        "Description": "What the networks saw: corrected for bias, intensities harmonized, 1 mm",
        "SpatialReference": "MNI305, the space of the networks",
    },
    "desc-brain_mask.json": {
        "Description": "Brain mask by deepbet, or the non-zero voxels of a skull-stripped image",
        "Type": "Brain",
        "SpatialReference": "orig",
    },
    "desc-confidence_probseg.json": {
        "Description": "Share of the votes of the tiles that the label won; not a probability",
        "SpatialReference": "orig",
    },
    "seg-BrainCOLOR_dseg.json": {
        "hemisphere": {"LongName": "Hemisphere", "Description": "Side of the region", "Levels": _SIDES}
    },
}

BOILERPLATE = """\
T1-weighted images were segmented into 132 regions of the BrainCOLOR protocol with slant {version} (model {model},
SHA-256 {sha256:.12}), which follows SLANT [1, 2]. The brain was extracted with deepbet [3] and registered affinely to
the MNI305 template with ANTs [4]; intensity inhomogeneity was corrected with N4 [5] and intensities were harmonized to
a common reference. Networks, each trained for one of a set of overlapping tiles that cover the brain, then labelled
every voxel; the tiles voted, and the labels were carried back to the space of each image, where volumes were measured.
The total intracranial volume was estimated from the affine registration [6].

1. Huo et al. (2018). Spatially localized atlas network tiles enables 3D whole brain segmentation from limited data.
   MICCAI, 698-705.
2. Huo et al. (2019). 3D whole brain segmentation using spatially localized atlas network tiles. NeuroImage 194,
   105-119.
3. Fisch et al. (2024). deepbet: Fast brain extraction of T1-weighted MRI using convolutional neural networks. Computers
   in Biology and Medicine 179, 108845.
4. Avants et al. (2011). A reproducible evaluation of ANTs similarity metric performance in brain image registration.
   NeuroImage 54, 2033-2044.
5. Tustison et al. (2010). N4ITK: improved N3 bias correction. IEEE Transactions on Medical Imaging 29, 1310-1320.
6. Buckner et al. (2004). A unified approach for morphometric and functional data analysis in young, old, and demented
   adults using automated atlas-based head size normalization. NeuroImage 23, 724-738.
"""


@dataclass(frozen=True)
class Selection:
    """Which scans of a dataset are wanted.

    Attributes
    ----------
    participants, sessions : tuple of str
        Labels with or without ``sub-`` and ``ses-``; all if empty.
    filter_file : Path, optional
        JSON with pybids' entities under ``t1w``.
    validate : bool
        Whether the dataset must have a valid description and only files with BIDS names count.
    """

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    filter_file: Path | None = None
    validate: bool = True


def list_bids_jobs(bids_dir: Path, out: Path, selection: Selection) -> JobList:
    """The T1w images of a BIDS dataset, indexed by pybids.

    Parameters
    ----------
    bids_dir : Path
    out : Path
        Folder of the derivatives dataset.
    selection : Selection

    Raises
    ------
    InputError
        If the dataset is none, or has no such scan; a participant asked for and not found is named.
    SettingsError
        If the filter file cannot be used.
    """
    bids_dir, out = absolute(bids_dir), absolute(out)
    filters = _filters(selection)
    participants = _labels(selection.participants, "sub-")
    sessions = _labels(selection.sessions, "ses-")
    unreadable = _unreadable(bids_dir, participants)
    if participants:
        filters["subject"] = list(participants)
    if sessions:
        filters["session"] = list(sessions)
    layout = _layout(bids_dir, selection)
    try:
        images = layout.get(suffix="T1w", datatype="anat", extension=[".nii.gz", ".nii"], **filters)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{selection.filter_file}: {error}; wanted entities as pybids names them") from error
    images = [image for image in images if image.entities.get("part", "mag") == "mag"]
    known = sorted(layout.get_subjects())
    missing = [p for p in participants if p not in known and f"sub-{p}" not in unreadable]
    if missing or not (images or unreadable):
        what = f"participant {', '.join(missing)}" if missing else "T1w image that was asked for"
        raise InputError(f"{bids_dir} has no {what}; it has the participants {', '.join(known) or 'none'}")
    found = unique(sorted((_job(Path(image.path), image.entities, out) for image in images), key=lambda job: job.id))
    return JobList(found, {os.fspath(bids_dir / name): reason for name, reason in unreadable.items()})


def _job(scan: Path, entities: dict[str, Any], out: Path) -> Job:
    from slant.io.read import scan_name

    name = scan_name(scan)
    folder = out / f"sub-{entities['subject']}"
    if "session" in entities:
        folder /= f"ses-{entities['session']}"
    return Job(name, scan, folder / "anat", name)


def _layout(bids_dir: Path, selection: Selection) -> Any:
    if not bids_dir.is_dir():
        raise InputError(f"{bids_dir} is no folder; wanted a BIDS dataset")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pybids about itself
        from bids import BIDSLayout
        from bids.layout import BIDSLayoutIndexer

        try:
            indexer = BIDSLayoutIndexer(validate=selection.validate, index_metadata=False)
            return BIDSLayout(bids_dir, validate=selection.validate, derivatives=False, indexer=indexer)
        except (ValueError, OSError) as error:
            hint = "mend it, or use --skip-bids-validation if the names are right" if selection.validate else "mend it"
            raise InputError(f"{bids_dir} is no BIDS dataset: {' '.join(str(error).split())}; {hint}") from error


def _labels(given: Sequence[str], prefix: str) -> tuple[str, ...]:
    return tuple(label.removeprefix(prefix) for label in given)


def _filters(selection: Selection) -> dict[str, Any]:
    path = selection.filter_file
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read the filter file {path}: {error}; wanted JSON") from error
    wanted = [key for key in _FILTER_KEYS if isinstance(found, dict) and isinstance(found.get(key), dict)]
    if not wanted:
        raise SettingsError(f'{path}: found no filter for T1w images; wanted {{"t1w": {{"acquisition": "mprage"}}}}')
    return {**found[wanted[0]]}


def _unreadable(bids_dir: Path, participants: Sequence[str]) -> dict[str, str]:
    """Folders of participants that cannot be read, from the dataset's folder, which pybids would pass over."""
    reasons: dict[str, str] = {}

    def note(error: OSError) -> None:
        folder = os.path.relpath(error.filename, bids_dir)
        reasons[folder] = f"the folder cannot be read: {error.strerror}; check its permissions"

    tops = [bids_dir / f"sub-{p}" for p in participants] or sorted(bids_dir.glob("sub-*/"))
    for top in tops:
        for _ in os.walk(top, onerror=note) if top.is_dir() else ():
            pass
    return reasons


def write_dataset(out: Path, bids_dir: Path, model: dict[str, str], *, keep_head: bool = False) -> None:
    """Make the folder a derivatives dataset: its description, README, common sidecars and list of files not in BIDS.

    Parameters
    ----------
    out, bids_dir : Path
    model : dict
        ``name``, ``sha256`` and ``licence`` of the model.
    keep_head : bool, optional
        Whether the networks saw the head around the brain.

    Raises
    ------
    OutputError
        If there is another dataset, or a file cannot be written.
    """
    out, bids_dir = absolute(out), absolute(bids_dir)
    if out == bids_dir:
        raise OutputError(f"{out} is the dataset itself; give another folder, such as {out / 'derivatives' / 'slant'}")
    path = out / "dataset_description.json"
    _check_ours(path)
    source = _source(bids_dir)
    description = {
        "Name": f"slant: BrainCOLOR regions of {source.get('Name', bids_dir.name)}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "slant",
                "Version": slant.__version__,
                "CodeURL": CODE_URL,
                "Description": f"Model {model['name']}, SHA-256 {model['sha256']}, {model['licence']}",
            }
        ],
        "SourceDatasets": [_origin(bids_dir, source)],
        "HowToAcknowledge": "Please cite Huo et al. 2019, NeuroImage 194, 105-119, and see slant-bids --boilerplate",
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {out}: {error.strerror}; choose a folder that may be written") from error
    write_table(path, json.dumps(description, indent=2, ensure_ascii=False) + "\n")
    for name, text in (("README", _readme(model)), (".bidsignore", _IGNORED)):
        if not (out / name).exists():
            write_table(out / name, text)
    for name, values in _SIDECARS.items():
        skull = {"SkullStripped": not keep_head} if name.endswith("_T1w.json") else {}
        write_table(out / name, json.dumps(values | skull, indent=2) + "\n")


def _check_ours(path: Path) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        makers = [maker.get("Name") for maker in found.get("GeneratedBy", [])]
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError) as error:
        raise OutputError(f"{path} cannot be read: {error}; choose another folder") from error
    if "slant" not in makers:
        raise OutputError(f"{path.parent} holds a dataset that slant did not make; choose another folder")


def _source(bids_dir: Path) -> dict[str, Any]:
    try:
        found = json.loads((bids_dir / "dataset_description.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _origin(bids_dir: Path, source: dict[str, Any]) -> dict[str, str]:
    origin = {"URL": bids_dir.as_uri()}
    doi = str(source.get("DatasetDOI", "")).strip()
    return origin | ({"DOI": doi} if doi else {})


def _readme(model: dict[str, str]) -> str:
    return f"""\
# Whole-brain segmentation by slant

132 BrainCOLOR regions of every T1-weighted image, in the image's own space, by slant {slant.__version__}
({CODE_URL}), model {model["name"]}, SHA-256 {model["sha256"]}.

In each folder `anat` there are the label map (`_seg-BrainCOLOR_dseg.nii.gz`) with its look-up table, the volumes in mm3
(`_seg-BrainCOLOR_volumes.tsv`), the confidence, the brain mask, label map and image in MNI305, the affine transform for
ANTs, a picture (`_overlay.png`) and a record of how they were made (`_record.json`); what each holds is described in
docs/outputs.md of slant. `slant-bids ... group` makes `volumes.tsv`, a row an image, with `volumes.json`, and
`failures.tsv`. `logs/` has what was said while each image was at work.

Not a medical device; for research only. Licence of the weights: {model["licence"]}.
"""
