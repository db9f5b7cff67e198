"""File names of the results of one scan, and the subject in a name."""

from __future__ import annotations

import re
from dataclasses import dataclass

RESULT_FILES = {
    "report": "_report.html",  # HTML report for visual quality control
    "pdf": "_report.pdf",  # the report as PDF
    "dicom_seg": "_seg-BrainCOLOR_dseg.dcm",  # labels as a DICOM Segmentation
    "labels": "_seg-BrainCOLOR_dseg.nii.gz",  # region ids in native space
    "template_labels": "_space-MNI305_seg-BrainCOLOR_dseg.nii.gz",  # region ids in MNI305
    "preprocessed": "_space-MNI305_desc-preproc_T1w.nii.gz",  # input of the networks, in MNI305
    "brain": "_desc-brain_mask.nii.gz",  # brain mask in native space
    "confidence": "_desc-confidence_map.nii.gz",  # confidence of each label, 0 to 1, in native space
    "transform": "_from-T1w_to-MNI305_mode-image_xfm.mat",  # affine from native space to MNI305, for ANTs
    "lookup": "_seg-BrainCOLOR_dseg.tsv",  # names and colours of the ids
    "volumes": "_seg-BrainCOLOR_volumes.tsv",  # volumes of regions, tissues, lobes, brain and eTIV
    "sidecar": "_seg-BrainCOLOR_dseg.json",  # metadata of the label map
    "overlay": "_overlay.png",  # picture of the scan with the outlines of the regions
    "record": "_record.json",  # how the results were made; its presence means finished
}
"""Ends of the file names by kind of result file, in the order in which the files are put in place."""

OPTIONAL = ("report", "pdf", "dicom_seg")
"""Kinds of result files without which results are complete."""


def subject_of(name: str) -> str:
    """Subject of a scan by its name or path: its first ``sub-LABEL`` or, without one, the whole name."""
    match = re.search(r"(?:^|[_/])(sub-[A-Za-z0-9]+)", name)
    return match[1] if match else name


@dataclass(frozen=True)
class ResultNames:
    """File names of one scan's results: an attribute for each kind in `RESULT_FILES`, for example ``names.labels``.

    Attributes
    ----------
    name : str
        The scan's name without extension and without a trailing ``_T1w``.
    """

    name: str

    def __getattr__(self, kind: str) -> str:
        if kind not in RESULT_FILES:
            raise AttributeError(f"{kind!r} is not a kind of result file, expected one of {', '.join(RESULT_FILES)}")
        return self.of(kind)

    def of(self, kind: str) -> str:
        """Name of the file of this kind."""
        return self.name + RESULT_FILES[kind]

    @property
    def record(self) -> str:
        """Name of the file that is written last."""
        return self.of("record")

    @property
    def all(self) -> tuple[str, ...]:
        """Names of all files that are not optional, in the order in which they are put in place."""
        return tuple(self.of(kind) for kind in RESULT_FILES if kind not in OPTIONAL)

    @property
    def optional(self) -> tuple[str, ...]:
        """Names of the optional files."""
        return tuple(self.of(kind) for kind in OPTIONAL)
