"""Cohorts of the kinds that users report; all scans but one are tiny, see field_files.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from field_files import ANNEX, GET, READ, TINY, TINY_GZ, Content
from field_inputs import FULL_HEAD, Base, Expected, FieldInput, Made, refused, write_scan


def tree(command: str, files: dict[str, Content], links: dict[str, str] | None = None) -> Callable[[Base, Path], Made]:
    """Makes an input that is a folder ``data`` with these files and links."""

    def make(_: Base, folder: Path) -> Made:
        for name, content in files.items():
            (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "data" / name).write_bytes(content.encode() if isinstance(content, str) else content)
        for name, target in (links or {}).items():
            (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "data" / name).symlink_to(target)
        return Made(command)

    return make


def mixed_cohort(base: Base, folder: Path) -> Made:
    """A cohort of a scan with contradictory voxel sizes and one whose content is missing."""
    (folder / "data").mkdir()
    header = base.header.copy()
    header.set_sform(base.affine, 1)
    header["qform_code"], header["pixdim"][1:4] = 0, 2
    write_scan(folder / "data" / "sub-01_T1w.nii.gz", header, base.stored)
    (folder / "data" / "sub-02_T1w.nii.gz").write_text(f"/{ANNEX}\n", "utf-8")
    return Made("slant cohort $(echo $OPTIONS | sed s,--no-report,,) --jobs 1 data ../out", "data/sub-01_T1w.nii.gz")


def bids_scans(*names: str) -> dict[str, Content]:
    """Tiny scans of a BIDS dataset, by names such as ``sub-01_T1w.nii.gz``."""
    return {f"{n.split('_')[0]}/anat/{n}": TINY_GZ if n.endswith(".gz") else TINY for n in names}


def described(kind: str = "raw", start: str = "") -> str:
    """A ``dataset_description.json``."""
    return start + json.dumps({"Name": "field", "BIDSVersion": "1.8.0", "DatasetType": kind})


_DESCRIPTION = "dataset_description.json"
_BIDS = "slant-bids data ../out participant $OPTIONS --n-procs 1"
_COHORT = "slant cohort $OPTIONS --jobs 1 data ../out"
_JOBS = "slant cohort $OPTIONS --print-jobs {} ../out"
_GROUP = f"{_BIDS} --skip-bids-validation > said.txt; eval \"$(sed -n 's/.*tables: //p' said.txt)\""
_TWO = bids_scans("sub-01_T1w.nii.gz", "sub-02_T1w.nii.gz")
_PAIR = _TWO | bids_scans("sub-01_T1w.nii")
_DERIVATIVES = {
    "sub-01/anat/sub-01_T1w.nii.gz": TINY_GZ,
    "sub-01/anat/sub-01_part-phase_T1w.nii.gz": TINY_GZ,
    f"derivatives/fmriprep/{_DESCRIPTION}": described("derivative"),
    "derivatives/fmriprep/sub-01/anat/sub-01_T1w.nii.gz": TINY_GZ,
    "derivatives/fmriprep/sub-01/anat/sub-01_space-MNI152NLin2009cAsym_T1w.nii.gz": TINY_GZ,
    "preprocessed/sub-01_desc-preproc_T1w.nii.gz": TINY_GZ,
    "results/sub-01/sub-01_record.json": json.dumps({"input": {"path": "x"}, "model": {}, "versions": {"slant": "0"}}),
    "results/sub-01/sub-01_space-MNI305_desc-preproc_T1w.nii.gz": TINY_GZ,
}

_ONE: dict[str, Content] = {"a.nii.gz": TINY_GZ}
_DESCRIBED: dict[str, Content] = {_DESCRIPTION: described()}
_TABLE = _JOBS.format("data/scans.tsv")
_READ_2 = f"sub-02.*({READ})"
_SIZES = "pixdim|voxel size"
_TOLD = (("volumes.tsv", _SIZES), ("failures.tsv", GET), ("*/*_report.html", _SIZES))
_COHORTS: dict[str, tuple[Callable[[Base, Path], Made], Expected]] = {
    "bids-nii-beside-nii-gz": (tree(_BIDS, _DESCRIBED | _PAIR), Expected(1, ("sub-01", _READ_2))),
    "bidsignore": (
        tree(_BIDS, {**_DESCRIBED, ".bidsignore": "sub-02/\n", **_TWO}),
        Expected(1, (f"sub-01.*({READ})", "left out 1 image"), (f"sub-02.*({READ})",)),
    ),
    "own-results-and-derivatives": (
        tree(_JOBS.format("data"), _DERIVATIVES),
        Expected(0, ("left out|ignored|skipped|not segmented",), scans=1),
    ),
    "byte-order-mark": (tree(_BIDS, {_DESCRIPTION: described(start="\ufeff"), **_TWO}), Expected(1, (_READ_2,))),
    "mp2rage-only": (tree(_BIDS, _DESCRIBED | bids_scans("sub-01_UNIT1.nii.gz")), Expected(2, ("UNIT1",))),
    "blank-in-header": (tree(_TABLE, {"scans.tsv": "name\tT1w \na\ta.nii.gz\n", **_ONE}), Expected(scans=1)),
    "group-as-printed": (tree(_GROUP, _TWO), Expected(0, ("volumes of 0 scan",))),
    "warnings-reach-tables": (mixed_cohort, Expected(1, (GET,), dice=0.99, files=_TOLD)),
    "nii-beside-nii-gz": (tree(_JOBS.format("data"), _PAIR), Expected(0, ("sub-01",), scans=2)),
    "half-of-dataset": (
        tree(_COHORT, bids_scans("sub-02_T1w.nii.gz"), {"sub-01/anat/sub-01_T1w.nii.gz": f"../../.git/{ANNEX}"}),
        Expected(1, (GET, READ)),
    ),
    "table-from-spreadsheet": (
        tree(_TABLE, {"scans.tsv": "\ufeffname\tT1w\r\na\ta.nii.gz\r\n\t\r\n", **_ONE}),
        Expected(scans=1),
    ),
    "table-in-utf-16": (
        tree(_TABLE, {"scans.tsv": "name\tT1w\na\ta.nii.gz\n".encode("utf-16"), **_ONE}),
        Expected(scans=1),
    ),
    "table-with-commas": (tree(_TABLE, {"scans.tsv": "name,T1w\na,a.nii.gz\n", **_ONE}), refused(r"\btabs?\b|tab-sep")),
    "apple-double": (
        tree(_JOBS.format("data"), {"a_T1w.nii.gz": TINY_GZ, "._a_T1w.nii.gz": b"\x00\x05\x16\x07"}),
        Expected(scans=1),
    ),
}

INPUTS: tuple[FieldInput, ...] = tuple(
    FieldInput("cohorts", name, FULL_HEAD, make, (e,)) for name, (make, e) in _COHORTS.items()
)
