"""Makes the output directory of a BIDS App a BIDS derivatives dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slant._version import __version__
from slant.cohort.bids_files import IGNORE_FILE
from slant.cohort.left_out import DESCRIPTION
from slant.engine.failures import write_text
from slant.engine.layout import absolute
from slant.errors import OutputError
from slant.files import read_text
from slant.io.staging import json_text

BIDS_VERSION = "1.10.0"

_SIDES = {"L": "left", "R": "right", "midline": "both hemispheres, or on the midline"}
_IGNORED = """\
logs/
volumes.tsv
volumes.json
failures.tsv
group.html
group_data.js
group_thumbnails/
longitudinal.tsv
longitudinal.json
desc-confidence_map.json
**/*_desc-confidence_map.nii.gz
**/*_volumes.tsv
**/*_record.json
**/*_overlay.png
**/*_report.html
**/*_report.pdf
**/*_xfm.mat
**/*_longitudinal.html
**/*_longitudinal.json
**/*_desc-template_T1w.nii.gz
"""

_SIDECARS: dict[str, dict[str, Any]] = {
    "space-MNI305_desc-preproc_T1w.json": {
        "Description": "Input of the networks: T1w after bias field correction and intensity normalization, 1 mm",
        "SpatialReference": "MNI305, the space in which the networks work",
    },
    "desc-brain_mask.json": {
        "Description": "Brain mask computed by deepbet, or the non-zero voxels of a skull-stripped image",
        "Type": "Brain",
        "SpatialReference": "orig",
    },
    "desc-confidence_map.json": {
        "Description": "Vote fraction: fraction of the votes of the tiles for the label, interpolated in native space",
        "SpatialReference": "orig",
    },
    "seg-BrainCOLOR_dseg.json": {
        "hemisphere": {"LongName": "Hemisphere", "Description": "Hemisphere of the region", "Levels": _SIDES}
    },
}

BOILERPLATE = """\
T1-weighted images were segmented into 132 regions of the BrainCOLOR protocol with slant {version} (model {model},
SHA-256 {sha256:.12}), which follows SLANT [1, 2]. The brain was extracted with deepbet [3] and registered affinely to
the MNI305 template with ANTs [4]. Intensity inhomogeneity was corrected with N4 [5], and intensities were normalized
to a common reference. Each voxel was then labelled by networks that were trained for overlapping tiles of the brain,
and the labels of overlapping tiles were combined by voting. The votes were resampled to the native space of each
image, where regional volumes were computed. The total intracranial volume was estimated from the affine
registration [6].{added}

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
{references}"""

ATLASES = """ Manually labelled scans of other subjects were registered nonlinearly to each image [7]; their labels
were combined by joint label fusion [8] and had half of the votes at each voxel."""

ATLAS_REFERENCES = """\
7. Avants et al. (2008). Symmetric diffeomorphic image registration with cross-correlation. Medical Image Analysis 12,
   26-41.
8. Wang et al. (2013). Multi-atlas segmentation with joint label fusion. IEEE Transactions on Pattern Analysis and
   Machine Intelligence 35, 611-623.
"""

LONGITUDINAL = """ The sessions of each participant were segmented together. They were aligned rigidly [7], with one
scaling for all, and their brightness was equalized [8]. Each was registered nonlinearly to their mean, through which
the deformed atlas and the votes of the networks were carried to the other sessions."""

LONGITUDINAL_REFERENCES = """\
7. Reuter et al. (2010). Highly accurate inverse consistent registration: a robust approach. NeuroImage 53, 1181-1196.
8. Lewis and Fox (2004). Correction of differential intensity inhomogeneity in longitudinal MR images. NeuroImage 23,
   75-83.
"""


def write_dataset(out: Path, bids_dir: Path, model: dict[str, Any], *, mask_brain: bool = True) -> None:
    """Make the output directory a derivatives dataset: description, README, shared sidecars and ``.bidsignore``.

    Parameters
    ----------
    out, bids_dir : Path
        Output directory, created if missing, and root folder of the source dataset.
    model : dict
        ``name``, ``sha256`` and ``licence`` of the model.
    mask_brain : bool, optional
        Whether the input of the networks is zero outside the brain mask.

    Raises
    ------
    OutputError
        If the directory holds another dataset, or a file cannot be written.
    """
    out, bids_dir = absolute(out), absolute(bids_dir)
    if out == bids_dir:
        raise OutputError(
            f"{out} is the source dataset itself; choose another folder, for example {out / 'derivatives' / 'slant'}"
        )
    path = out / DESCRIPTION
    _check_made_by_slant(path)
    source = _read_description(bids_dir)
    doi = str(source.get("DatasetDOI", "")).strip()
    about_model = f"Model {model['name']}, SHA-256 {model['sha256']}, {model['licence']}"
    description = {
        "Name": f"slant: BrainCOLOR regions of {source.get('Name', bids_dir.name)}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "slant", "Version": __version__, "Description": about_model}],
        "SourceDatasets": [{"URL": bids_dir.as_uri()} | ({"DOI": doi} if doi else {})],
        "HowToAcknowledge": "Please cite Huo et al. 2019, NeuroImage 194, 105-119; see slant-bids --boilerplate",
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create {out}: {error.strerror}; check free space and write permission") from error
    write_text(path, json_text(description))
    if not (out / "README").exists():
        write_text(out / "README", _readme(model))
    _ignore(out / IGNORE_FILE)
    for name, values in _SIDECARS.items():
        skull_stripped = {"SkullStripped": mask_brain} if name.endswith("_T1w.json") else {}
        write_text(out / name, json.dumps(values | skull_stripped, indent=2) + "\n")


def _ignore(path: Path) -> None:
    """Add the lines that are missing in ``.bidsignore``, which an older version, or the user, may have written."""
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError:
        lines = []
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"cannot read {path}: {error}; expected one pattern per line in UTF-8") from error
    missing = [line for line in _IGNORED.splitlines() if line not in lines]
    if missing:
        write_text(path, "\n".join([*lines, *missing]) + "\n")


def _check_made_by_slant(path: Path) -> None:
    try:
        description = json.loads(read_text(path))
        generators = [entry.get("Name") for entry in description.get("GeneratedBy", [])]
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError) as error:
        raise OutputError(f"cannot read {path}: {error}; choose another output directory") from error
    if "slant" not in generators:
        raise OutputError(f"{path.parent} holds a dataset that slant did not make; choose another output directory")


def _read_description(bids_dir: Path) -> dict[str, Any]:
    """The description of the source dataset; empty if it cannot be read."""
    try:
        description = json.loads(read_text(bids_dir / DESCRIPTION))
    except (OSError, ValueError):
        return {}
    return description if isinstance(description, dict) else {}


def _readme(model: dict[str, Any]) -> str:
    return f"""\
# Whole-brain segmentation by slant

Every T1-weighted image was segmented into 132 BrainCOLOR regions in native space, by slant {__version__},
model {model["name"]}, SHA-256 {model["sha256"]}.

Each folder `anat` has the label map (`_seg-BrainCOLOR_dseg.nii.gz`) with its look-up table, the volumes in mm3
(`_seg-BrainCOLOR_volumes.tsv`), the confidence, the brain mask, the label map and the image in MNI305, the affine
transform for ANTs, an overlay of the outlines (`_overlay.png`), and a record of how the results were made
(`_record.json`). The page "Outputs" of the documentation of slant describes each file. `slant-bids ... group` writes
`volumes.tsv` with one row per image, `volumes.json`, `failures.tsv`, and the dashboard `group.html`. `logs/` has one
log per image. Participants whose sessions were segmented together (`--longitudinal`) also have a table of volumes, a
page and a record in their own folder `sub-LABEL`, and rows in `longitudinal.tsv`.

Not a medical device; for research only. Licence of the weights: {model["licence"]}.
"""
