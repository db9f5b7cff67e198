"""Writes results with the file names of the original SLANT container (github.com/MASILab/SLANTbrainSeg)."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path

from slant.cohort.jobs import list_jobs
from slant.engine.job import Job, JobList
from slant.errors import OutputError
from slant.files import write_atomic
from slant.io.names import ResultNames
from slant.io.volume_table import read_volumes

HEADER = ("Label Name (BrainCOLOR)", "Label Number (BrainCOLOR)", "Label Volume (mm^3)")
"""Columns of the table of volumes of the original container."""

FOLDER = "slant"
"""Folder in the output directory for the results with the file names of slant."""


def list_inputs(inputs: Path, outputs: Path) -> JobList:
    """List the images in a folder, without subfolders, like the original container does with ``/INPUTS``.

    Of ``NAME.nii.gz`` and ``NAME.nii`` the first is taken; the notes of the list say so.

    Raises
    ------
    InputError
        If the folder contains no image.
    """
    images = sorted(path for path in inputs.glob("*.nii*") if path.is_file()) if os.access(inputs, os.R_OK) else []
    paths = [str(path) for path in images] or [str(inputs)]  # `list_jobs` rejects an empty or unreadable folder
    return list_jobs(paths, outputs / FOLDER)


def write_legacy(job: Job, outputs: Path) -> list[Path]:
    """Write the labels, report and volumes of a finished scan with the names of the original; unchanged files stay.

    ``FinalResult/NAME_seg.nii.gz`` has the region ids on the scan's grid, ``FinalPDF/NAME_result.pdf`` is the report,
    and ``FinalVolTxt/NAME_label_volumes.txt`` has the volumes of the 132 regions in mm3. NAME is the file name of the
    scan without extension. Each file is written atomically. Returns the three paths.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    names = ResultNames(job.name)
    stem = job.scan.name.removesuffix(".gz").removesuffix(".nii")
    contents: dict[Path, Callable[[], bytes]] = {
        outputs / "FinalResult" / f"{stem}_seg.nii.gz": (job.folder / names.labels).read_bytes,
        outputs / "FinalPDF" / f"{stem}_result.pdf": (job.folder / names.pdf).read_bytes,
        outputs / "FinalVolTxt" / f"{stem}_label_volumes.txt": lambda: _volumes(job.folder / names.volumes),
    }
    for path, content in contents.items():
        try:
            data = content()
            if not path.is_file() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, data)
        except (OSError, ValueError) as error:
            raise OutputError(
                f"cannot write {path}: {error}; the results are in {job.folder}: check free space and run again, "
                "or run `slant report --pdf` if the PDF is missing there"
            ) from error
    return list(contents)


def _volumes(table: Path) -> bytes:
    """Table of the regional volumes in the format of the original container."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    rows = [row for row in read_volumes(table) if row.level == "region"]
    writer.writerows((row.name, row.index, f"{row.volume_mm3:.2f}") for row in rows)
    return text.getvalue().encode()
