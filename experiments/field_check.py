"""What a run of field.py gave, and which expectations it did not meet."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from field_inputs import Expected, Made, Matrix
from numpy.typing import NDArray
from scipy import ndimage

_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}
_PROGRESS = r" *\d+/\d+ scans \|"
_SAME_MM = 1e-3
"""Largest difference of two equal affines."""


@dataclass(frozen=True)
class Run:
    """Exit status, output and runtime of a command."""

    status: int
    stdout: str
    stderr: str
    runtime_s: float

    @property
    def lines(self) -> list[str]:
        """Lines on stderr that are neither blank nor the progress of a cohort."""
        return [line for line in self.stderr.splitlines() if line.strip() and not re.match(_PROGRESS, line)]

    @property
    def traceback(self) -> bool:
        """Whether a traceback was printed."""
        return "Traceback (most recent call last)" in self.stderr

    @property
    def message(self) -> str:
        """First line of slant on stderr or, without one, the last line."""
        return next((line for line in self.lines if line.startswith("slant")), *self.lines[-1:] or [""])


@dataclass(frozen=True, eq=False)
class Reference:
    """(X, Y, Z) labels of an untouched scan, their affine, and its eTIV."""

    labels: NDArray[np.int32]
    affine: Matrix
    etiv_mm3: float


@dataclass(frozen=True)
class Measures:
    """Dice to the untouched scan, whether the grid was kept, eTIV ratio, and grade; None if there are no results."""

    dice: float | None = None
    grid: bool | None = None
    etiv: float | None = None
    grade: str | None = None


def labels_of(out: Path) -> Path | None:
    """The label map in native space below an output directory, if there is exactly one."""
    found = [p for p in out.rglob("*_dseg.nii.gz") if "_space-" not in p.name]
    return found[0] if len(found) == 1 else None


def read_reference(out: Path) -> Reference:
    """The results of an untouched scan."""
    path = labels_of(out)
    if path is None:
        raise FileNotFoundError(f"{out} has no label map; the untouched scan could not be segmented")
    image = nib.load(path)
    record = json.loads(next(out.rglob("*_record.json")).read_text("utf-8"))
    return Reference(np.asarray(image.dataobj).astype(np.int32), image.affine, record["etiv_mm3"])


def measure(made: Made, folder: Path, reference: Reference) -> Measures:
    """Compare the results in ``folder/out`` with those of the untouched scan."""
    path = labels_of(folder / "out")
    if path is None:
        return Measures()
    record = json.loads(next((folder / "out").rglob("*_record.json")).read_text("utf-8"))
    grade, etiv = (record.get("quality") or {}).get("grade"), record.get("etiv_mm3")
    ratio = None if etiv is None else etiv / reference.etiv_mm3
    if not made.scan:
        return Measures(etiv=ratio, grade=grade)
    image = nib.load(path)
    labels = np.asarray(image.dataobj).astype(np.int32)
    wanted = reference.labels
    if not made.same_voxels:
        matrix = np.linalg.inv(reference.affine) @ affine_mm(image)
        wanted = ndimage.affine_transform(wanted, matrix[:3, :3], matrix[:3, 3], labels.shape, order=0)
    dice = mean_dice(labels, wanted) if labels.shape == wanted.shape else None
    return Measures(dice, same_grid(made, folder / "in" / made.scan, image), ratio, grade)


def same_grid(made: Made, scan: Path, labels: nib.Nifti1Image) -> bool | None:
    """Whether the labels are on the grid that they must have; None if the scan is not a single file."""
    if made.affine is not None:
        return bool(np.allclose(affine_mm(labels), made.affine, atol=_SAME_MM))
    if not scan.is_file():
        return None
    image = nib.load(scan)
    return image.shape == labels.shape and bool(np.allclose(affine_mm(labels), affine_mm(image), atol=_SAME_MM))


def affine_mm(image: nib.Nifti1Image) -> Matrix:
    """(4, 4) RAS mm from voxels, in the units that the header names."""
    units = image.header.get_xyzt_units()[0] if hasattr(image.header, "get_xyzt_units") else "mm"
    return np.diag([*[_MM.get(units, 1.0)] * 3, 1.0]) @ np.asarray(image.affine)


def mean_dice(a: NDArray[np.int32], b: NDArray[np.int32]) -> float:
    """Mean Dice over the regions of ``b``."""
    ids = np.unique(b)[1:] if (b == 0).any() else np.unique(b)
    counts = [np.bincount(x.ravel(), minlength=int(ids.max()) + 1) for x in (a, b, a[a == b])]
    of_a, of_b, of_both = (count[ids] for count in counts)
    return float(np.mean(2 * of_both / (of_a + of_b)))


def unmet(expected: Expected, run: Run, measures: Measures, out: Path) -> list[str]:
    """What is not as expected, in words; empty if all is."""
    said = f"{run.stderr}\n{run.stdout}".replace(str(out.parent), "")  # its name is not a message
    failed = [] if run.status == expected.status else [f"exit {run.status}, expected {expected.status}"]
    if run.traceback:
        failed.append("traceback")
    elif any(not line.startswith("slant") for line in run.lines):
        failed.append("lines on stderr that are not of slant")
    failed += [f"no {word!r} in the messages" for word in expected.words if not re.search(word, said, re.I)]
    failed += [f"{word!r} in the messages" for word in expected.absent if re.search(word, said, re.I)]
    if expected.scans is not None:
        count = sum(line.startswith("slant segment") for line in run.stdout.splitlines())
        failed += [f"{count} scans listed, expected {expected.scans}"] * (count != expected.scans)
    failed += [f"no {word!r} in {name}" for name, word in expected.files if not _has(out, name, word)]
    return failed + _not_measured(expected, measures)


def _not_measured(expected: Expected, measures: Measures) -> list[str]:
    failed = []
    if expected.dice is not None and not (measures.dice or 0) >= expected.dice:
        failed.append(f"Dice {_number(measures.dice, 3)}, expected {expected.dice}")
    if expected.dice is not None and measures.grid is False:
        failed.append("labels on another grid")
    if expected.etiv is not None and not abs((measures.etiv or 0) - 1) <= expected.etiv:
        failed.append(f"eTIV ratio {_number(measures.etiv, 3)}")
    if expected.grades and measures.grade not in expected.grades:
        failed.append(f"grade {measures.grade or 'none'}, expected {' or '.join(expected.grades)}")
    return failed


def _has(out: Path, name: str, word: str) -> bool:
    return any(re.search(word, path.read_text("utf-8"), re.I) for path in out.glob(name))


def _number(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}f}"
