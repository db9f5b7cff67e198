"""The dashboard of a cohort: an HTML page for finding scans to review, with its numbers in a separate script file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slant.report.paint import base64_text, style_sheet, webp
from slant.report.rendering import render, script, script_json
from slant.robust import robust_sd

PAGE, DATA, THUMBNAILS = "group.html", "group_data.js", "group_thumbnails"
"""Names of the page, of the script file with its numbers, and of the folder with its thumbnails."""

OUTLIER_Z = 4.0
"""Absolute robust z-score within the cohort from which a region counts as an outlier."""

_THUMBNAIL = (400, 340)  # pixels, at most
_MIN_SCANS = 5  # a robust SD of fewer scans is not meaningful
_MAX_TENTHS = 127  # z-scores are stored as int8 in tenths
_MISSING = -128


@dataclass(frozen=True)
class GroupScan:
    """One scan of a cohort.

    Attributes
    ----------
    grade : str
        ``pass``, ``review`` or ``fail``; empty if the scan was not graded.
    reasons : str
        Why the grade is not ``pass``, and warnings.
    report, thumbnail : str
        Paths of the scan's report and thumbnail, relative to the folder of the dashboard; empty if there is none.
    about : dict of str to str
        Other columns: BIDS entities, registration similarity, runtime, and columns of ``participants.tsv``.
    volumes : dict of str to float
        Volumes in mm3 by abbreviation of the region.
    etiv_mm3 : float
        Estimated total intracranial volume; nan if it is not known.
    """

    name: str
    grade: str
    reasons: str
    report: str
    thumbnail: str
    about: dict[str, str]
    volumes: dict[str, float]
    etiv_mm3: float


@dataclass(frozen=True)
class GroupRegion:
    """A region, shown as one column of the heat map."""

    abbreviation: str
    name: str


def draw_group(
    title: str,
    scans: Sequence[GroupScan],
    regions: Sequence[GroupRegion],
    failures: Sequence[tuple[str, str]],
    common: Sequence[str] = (),
) -> dict[str, bytes]:
    """Contents of the dashboard's files by name; the same bytes for the same input.

    Parameters
    ----------
    regions : sequence of GroupRegion
        Regions in the order of the columns of the heat map.
    failures : sequence of (str, str)
        Name of each scan without results, and why it has none.
    common : sequence of str, optional
        Reasons that most scans share, shown at the top.
    """
    volumes = np.array(
        [[scan.volumes.get(r.abbreviation, np.nan) for r in regions] for scan in scans], dtype=np.float64
    ).reshape(len(scans), len(regions))
    etiv = np.array([scan.etiv_mm3 for scan in scans], dtype=np.float64)
    z = robust_z(volumes, etiv)
    grades = {grade: sum(scan.grade == grade for scan in scans) for grade in ("fail", "review", "pass", "")}
    runtimes = [float(scan.about["runtime_s"]) for scan in scans if _is_number(scan.about.get("runtime_s", ""))]
    columns = list(dict.fromkeys(key for scan in scans for key in scan.about))
    data = {
        "columns": columns,
        "regions": [[r.abbreviation, r.name] for r in regions],
        "scans": [
            [s.name, s.grade, s.reasons, s.report, s.thumbnail, [s.about.get(key, "") for key in columns]]
            for s in scans
        ],
        "z": _base64(
            np.where(np.isnan(z), _MISSING, np.clip(np.rint(10 * z), -_MAX_TENTHS, _MAX_TENTHS)).astype(np.int8)
        ),
        "volumes": _base64(np.where(np.isnan(volumes), -1, np.rint(volumes)).astype("<i4")),
        "etiv": _base64(np.where(np.isnan(etiv), -1, np.rint(etiv)).astype("<i4")),
    }
    page = render(
        "group.html.j2",
        title=title,
        scans=len(scans),
        grades=grades,
        failures=failures,
        common=common,
        runtime_s=float(np.median(runtimes)) if runtimes else None,
        outlier_z=OUTLIER_Z,
        regions=regions,
        data=DATA,
        group_css=style_sheet("group.css"),
        group_js=script("group.js"),
    )
    return {PAGE: page, DATA: f"window.slantGroup={script_json(data)};\n".encode()}


def robust_z(volumes: NDArray[np.float64], etiv_mm3: NDArray[np.float64]) -> NDArray[np.float64]:
    """Robust z-scores within the cohort of the logarithm of each region's fraction of the intracranial volume.

    Parameters
    ----------
    volumes : (N, R) float64 array
        Volumes in mm3; nan or 0 where a region is missing.
    etiv_mm3 : (N,) float64 array
        Estimated total intracranial volumes.

    Returns
    -------
    (N, R) float64 array
        nan where a volume is missing, or where fewer than five scans have the region.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(volumes / etiv_mm3[:, None])
    logs[~np.isfinite(logs)] = np.nan
    z = np.full(logs.shape, np.nan)
    for column, values in enumerate(logs.T):
        known = values[~np.isnan(values)]
        if known.size < _MIN_SCANS:
            continue
        median = np.median(known)
        spread = robust_sd(known)
        z[:, column] = (values - median) / spread if spread > 0 else np.where(np.isnan(values), np.nan, 0)
    return z


def shrink(picture: Path) -> bytes:
    """A thumbnail of a picture file, at most 400 x 340 pixels, as WebP.

    Raises
    ------
    OSError
        If the file cannot be read as a picture.
    """
    from PIL import Image

    with Image.open(picture) as image:
        image.draft("RGB", _THUMBNAIL)
        small = image.convert("RGB")
        small.thumbnail(_THUMBNAIL)
    return webp(small, quality=60)


def _base64(array: NDArray[Any]) -> str:
    return base64_text(np.ascontiguousarray(array).tobytes())


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
