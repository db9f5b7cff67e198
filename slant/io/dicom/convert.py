"""One DICOM series becomes a `Scan` by way of dcm2niix, in a folder of its own that is removed again."""

from __future__ import annotations

import hashlib
import io
import math
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from slant.errors import InputError, SlantError
from slant.io.dicom.choose import Choice, choose_series
from slant.io.dicom.planes import check_stack
from slant.io.dicom.series import DAMAGE, Image, Series, find_series
from slant.io.dicom.source import DicomSource
from slant.io.read import Scan, read_scan

_LIMIT_S = 900
_OPTIONS = ("-g", "i", "-b", "n", "-z", "n", "-f", "scan")  # no user's defaults, no sidecar, one name, not compressed


def read_dicom(folder: str | Path, *, series: str | None = None) -> Scan:
    """Read the T1-weighted series of a folder of DICOM files.

    Parameters
    ----------
    folder : str or Path
        Searched with the folders in it; files may have any names.
    series : str, optional
        Number or SeriesInstanceUID of the one to take; by default the only one that is T1-weighted by its header.

    Returns
    -------
    Scan
        As dcm2niix converts it. ``name`` is the folder's name and ``path`` the folder, unless the patient's name is in
        them; ``sha256`` is that of the sorted lines ``SOPInstanceUID SHA-256-of-the-file``.

    Raises
    ------
    InputError
        If there is no such series, several fit, it is damaged or incomplete, or it cannot be segmented.
    SettingsError
        If the series asked for is not there.
    GeometryError
        If its voxels are too large.
    """
    folder = Path(folder)
    choice = choose_series(folder, find_series(folder), series)
    with _naming(folder, choice.series), tempfile.TemporaryDirectory(prefix="slant-") as place:
        check_stack(choice.series.planes)
        sha256 = _gather(choice.series, Path(place))
        scan = read_scan(_converted(Path(place)))
        _check_complete(choice.series, scan)
    return _as_dicom(scan, folder, choice, sha256)


def _as_dicom(scan: Scan, folder: Path, choice: Choice, sha256: str) -> Scan:
    from dcm2niix import __version__

    series, said = choice.series, choice.warnings + scan.warnings
    name, path = folder.resolve().name.removesuffix("_T1w").lstrip(".") or "dicom", folder
    if series.names_patient(f"{folder} {folder.resolve().name}"):
        name, path = f"series-{series.uid if series.number is None else series.number}", Path("withheld")
        said += (f"the patient's name is in the folder's, so the record does not name it; the scan is called {name}",)
    return replace(
        scan, path=path, name=name, sha256=sha256, warnings=said, source=DicomSource(series, choice.reason, __version__)
    )


@contextmanager
def _naming(folder: Path, series: Series) -> Iterator[None]:
    """Say in errors where the scan is from, not where it was while it was converted."""
    try:
        yield
    except SlantError as error:
        text = str(error).rpartition("scan.nii: ")[2]
        raise type(error)(f"{folder}, {series.title}: {text}") from error


def _gather(series: Series, place: Path) -> str:
    """Copy the files of a series under names of ours, see that they are whole, and hash them."""
    (place / "dicom").mkdir()
    lines = []
    for number, image in enumerate(series.images):
        try:
            raw = image.path.read_bytes()
        except OSError as error:
            raise InputError(f"{image.path} cannot be read: {error.strerror or error}") from error
        _check_whole(image, raw)
        (place / "dicom" / f"{number:06d}.dcm").write_bytes(raw)
        lines.append(f"{image.uid} {hashlib.sha256(raw).hexdigest()}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _check_whole(image: Image, raw: bytes) -> None:
    from pydicom import dcmread

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole: Any = dcmread(io.BytesIO(raw), force=True)
            found = len(whole.PixelData)
            bits = int(whole.BitsAllocated) * int(whole.get("SamplesPerPixel") or 1)
            syntax = whole.file_meta.get("TransferSyntaxUID")
    except DAMAGE as error:
        raise InputError(f"{image.path} is damaged or incomplete ({error}); copy or export it again") from error
    wanted = 1 if syntax is not None and syntax.is_encapsulated else math.prod(image.shape) * bits // 8
    wanted *= max(1, len(image.planes))
    if found < wanted:
        raise InputError(
            f"{image.path} is truncated: found {found} bytes of pixels, wanted {wanted}; copy or export it again"
        )


def _converted(place: Path) -> Path:
    from dcm2niix import bin as program

    out = place / "nifti"
    out.mkdir()
    command = [program, *_OPTIONS, "-o", str(out), str(place / "dicom")]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_LIMIT_S, check=False)  # noqa: S603 (our own program)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"dcm2niix could not be run to its end ({error}); install slant again") from error
    made = sorted(path.name for path in out.iterdir())
    if done.returncode or not made:
        said = (done.stdout + done.stderr).decode(errors="replace").replace(str(place), "").strip()
        raise InputError(
            f"dcm2niix could not convert it (exit status {done.returncode}): {' | '.join(said.splitlines()[1:][-3:])}; "
            "export the series again, without compression, or convert it to NIfTI by another program"
        )
    if made != ["scan.nii"]:
        raise InputError(
            f"dcm2niix made {len(made)} images of it ({', '.join(made)}), wanted one 3D scan; "
            "convert the series with dcm2niix and give the one that is T1-weighted"
        )
    return out / "scan.nii"


def _check_complete(series: Series, scan: Scan) -> None:
    found, wanted = scan.volume.data.size, math.prod(series.images[0].shape) * series.count
    if found != wanted:
        raise InputError(
            f"dcm2niix made {found} voxels of {wanted} pixels in {series.count} images; export the series again, or "
            "convert it to NIfTI by another program"
        )
