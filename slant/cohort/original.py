"""Results under the names that the original SLANT container gave them (github.com/MASILab/SLANTbrainSeg)."""

from __future__ import annotations

import csv
import filecmp
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from slant.cohort.jobs import Job, JobList, list_jobs, unique
from slant.errors import OutputError
from slant.io.results import ResultNames

HEADER = ("Label Name (BrainCOLOR)", "Label Number (BrainCOLOR)", "Label Volume (mm^3)")
"""Columns of the original's table of volumes."""

FOLDER = "slant"
"""Of the results under their own names, in the folder for the original's."""


def list_inputs(inputs: Path, outputs: Path) -> JobList:
    """Every image that lies in a folder, but not in folders below it: what the original's /INPUTS holds.

    Raises
    ------
    InputError
        If there is none, or two have one name.
    """
    out = outputs / FOLDER
    images = sorted(path for path in inputs.glob("*.nii*") if path.is_file()) if os.access(inputs, os.R_OK) else []
    places = [str(path) for path in images] or [str(inputs)]  # an empty or unreadable folder is an error of its own
    listed = list_jobs(places, out)
    return JobList(unique(listed.jobs), listed.unreadable)


def write_original(job: Job, outputs: Path) -> list[Path]:
    """Put a finished scan's labels, page and volumes where the original did; what is the same already stays.

    ``FinalResult/NAME_seg.nii.gz`` holds the region ids on the scan's grid, ``FinalPDF/NAME_result.pdf`` the page, and
    ``FinalVolTxt/NAME_label_volumes.txt`` the volumes of the 132 regions. NAME is the scan's file name without
    extension.

    Raises
    ------
    OutputError
        If they cannot be written; each of them appears whole or not at all.
    """
    names = ResultNames(job.name)
    stem = job.scan.name.removesuffix(".gz").removesuffix(".nii")
    wanted: dict[Path, Callable[[], bytes]] = {
        outputs / "FinalResult" / f"{stem}_seg.nii.gz": (job.folder / names.labels).read_bytes,
        outputs / "FinalPDF" / f"{stem}_result.pdf": (job.folder / names.pdf).read_bytes,
        outputs / "FinalVolTxt" / f"{stem}_label_volumes.txt": lambda: _volumes(job.folder / names.volumes),
    }
    for path, content in wanted.items():
        try:
            _put(path, content())
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written: {error}; the results are in {job.folder}, run again once there is space, "
                "or `slant report --pdf` if the PDF is missing there"
            ) from error
    return list(wanted)


def _volumes(table: Path) -> bytes:
    """The original's table of a scan's regions."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    with table.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            if row["level"] == "region":
                writer.writerow((row["name"], row["index"], f"{float(row['volume_mm3']):.2f}"))
    return text.getvalue().encode()


def _put(path: Path, content: bytes) -> None:
    """Write a file by way of another beside it, unless it is the same already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        if path.is_file() and filecmp.cmp(beside, path, shallow=False):
            return
        shutil.move(beside, path)
    finally:
        beside.unlink(missing_ok=True)
