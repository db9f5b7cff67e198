"""Convert one DICOM series to a `Scan` with dcm2niix, in a temporary folder."""

from __future__ import annotations

import hashlib
import io
import math
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from slant.errors import InputError, SlantError
from slant.files import temporary_folder
from slant.io.dicom.choose import Choice, DicomSource, choose_series
from slant.io.dicom.files import dicom_bytes, missing_warnings
from slant.io.dicom.planes import check_stack
from slant.io.dicom.series import DAMAGE, Image, Series, find_series
from slant.io.read import Scan, read_scan

_TIMEOUT_S = 900
_MAX_VOXEL_BYTES = 4
_OPTIONS = ("-g", "i", "-b", "n", "-z", "n", "-f", "scan")  # ignore user defaults, no sidecar, fixed name, uncompressed


def read_dicom(folder: str | Path, *, series: str | None = None) -> Scan:
    """Read the T1-weighted series of a folder of DICOM files.

    Parameters
    ----------
    folder : str or Path
        Searched with its subfolders; files may have any names, and may be compressed with gzip.
    series : str, optional
        Series number or SeriesInstanceUID; by default the only series that is T1-weighted by its header.

    Returns
    -------
    Scan
        The scan as dcm2niix converts it. ``name`` is the name of the folder and ``path`` the folder, unless the path
        contains the patient's name; ``sha256`` is that of the sorted lines ``SOPInstanceUID SHA-256-of-the-file``, of
        uncompressed files.

    Raises
    ------
    InputError
        If no series or more than one qualifies, or the series is damaged or incomplete or cannot be segmented.
    SettingsError
        If the requested series does not exist.
    GeometryError
        If the voxels are too large.
    """
    folder = Path(folder)
    choice = choose_series(folder, find_series(folder), series)
    image_bytes = _MAX_VOXEL_BYTES * _voxels(choice.series)
    with _series_in_errors(folder, choice.series), temporary_folder(image_bytes) as temporary:
        check_stack(choice.series.planes)
        sha256 = _copy_files(choice.series, temporary)
        scan = read_scan(_converted(temporary))
        _check_complete(choice.series, scan)
    return _as_dicom(scan, folder, choice, sha256)


def _as_dicom(scan: Scan, folder: Path, choice: Choice, sha256: str) -> Scan:
    from dcm2niix import __version__

    series, notes = choice.series, choice.warnings + missing_warnings(folder) + scan.warnings
    name, path = folder.resolve().name.removesuffix("_T1w").lstrip(".") or "dicom", folder
    if series.names_patient(f"{folder} {folder.resolve().name}"):
        name, path = f"series-{series.uid if series.number is None else series.number}", Path("withheld")
        notes += (f"the patient's name is in the path, so the record omits the path; the scan is called {name}",)
    source = DicomSource(series, choice.reason, __version__)
    return replace(scan, path=path, name=name, sha256=sha256, warnings=notes, source=source)


@contextmanager
def _series_in_errors(folder: Path, series: Series) -> Iterator[None]:
    """Name the folder and the series in errors instead of the temporary file."""
    try:
        yield
    except SlantError as error:
        text = str(error).rpartition("scan.nii: ")[2]
        raise type(error)(f"{folder}, {series.title}: {text}") from error


def _copy_files(series: Series, folder: Path) -> str:
    """Copy the files of a series under plain names, check that they are complete, and return their hash."""
    (folder / "dicom").mkdir()
    lines = []
    for number, image in enumerate(series.images):
        raw = dicom_bytes(image.path)
        _check_pixels(image, raw)
        (folder / "dicom" / f"{number:06d}.dcm").write_bytes(raw)
        lines.append(f"{image.uid} {hashlib.sha256(raw).hexdigest()}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _check_pixels(image: Image, raw: bytes) -> None:
    """Check that a file has as many bytes of pixels as its header says."""
    from pydicom import dcmread

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset: Any = dcmread(io.BytesIO(raw), force=True)
            found = len(dataset.PixelData)
            bits = int(dataset.BitsAllocated) * int(dataset.get("SamplesPerPixel") or 1)
            syntax = dataset.file_meta.get("TransferSyntaxUID")
    except DAMAGE as error:
        raise InputError(f"{image.path} is damaged or incomplete ({error}); copy or export it again") from error
    expected = 1 if syntax is not None and syntax.is_encapsulated else math.prod(image.shape) * bits // 8
    expected *= max(1, len(image.planes))
    if found < expected:
        raise InputError(
            f"{image.path} is truncated: found {found} bytes of pixels, expected {expected}; copy or export it again"
        )


def _converted(folder: Path) -> Path:
    """Run dcm2niix on the copied files; the NIfTI file that it makes."""
    from dcm2niix import bin as program

    out = folder / "nifti"
    out.mkdir()
    command = [program, *_OPTIONS, "-o", str(out), str(folder / "dicom")]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603 (our own program)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"dcm2niix failed to run ({error}); install slant again") from error
    made = sorted(path.name for path in out.iterdir())
    if done.returncode or not made:
        output = (done.stdout + done.stderr).decode(errors="replace").replace(str(folder), "").strip()
        last = " | ".join(output.splitlines()[1:][-3:])
        raise InputError(
            f"dcm2niix could not convert it (exit status {done.returncode}): {last}; "
            "export the series again, without compression, or convert it to NIfTI with another program"
        )
    if made != ["scan.nii"]:
        raise InputError(
            f"dcm2niix made {len(made)} images of it ({', '.join(made)}), expected one 3D scan; "
            "convert the series with dcm2niix and give the T1-weighted image"
        )
    return out / "scan.nii"


def _voxels(series: Series) -> int:
    return math.prod(series.images[0].shape) * series.count


def _check_complete(series: Series, scan: Scan) -> None:
    found, expected = scan.volume.data.size, _voxels(series)
    if found != expected:
        raise InputError(
            f"dcm2niix made {found} voxels from {expected} pixels in {series.count} images; export the series again, "
            "or convert it to NIfTI with another program"
        )
