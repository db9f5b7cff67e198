"""The dashboard of a cohort: a page that finds the scans to look at, its numbers beside it in a script."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slant.report.page import environment, script_json

PAGE, DATA, THUMBNAILS = "group.html", "group_data.js", "group_thumbnails"
"""Names of the page, of its numbers, and of the folder with its pictures."""

UNUSUAL = 4.0
"""Robust standard deviations of the cohort from which a region counts as unusual."""

_THUMBNAIL = (400, 340)  # pixels, at most
_LEAST_SCANS = 5  # fewer have no spread worth a z-score
_TENTHS = 127
_NONE = -128
_MAD = 1.4826


@dataclass(frozen=True)
class GroupScan:
    """One scan of a cohort.

    Attributes
    ----------
    name : str
    grade : str
        pass, look, fail, or empty if it was not graded.
    reasons : str
        Why it is not ``pass``, and warnings.
    page, thumbnail : str
        Paths from the dashboard's folder; empty if there is none.
    about : dict of str to str
        What else is known: entities, similarity, seconds, what ``participants.tsv`` has.
    volumes : dict of str to float
        mm3 by abbreviation of the region.
    tiv_mm3 : float
        Total intracranial volume; nan if unknown.
    """

    name: str
    grade: str
    reasons: str
    page: str
    thumbnail: str
    about: dict[str, str]
    volumes: dict[str, float]
    tiv_mm3: float


@dataclass(frozen=True)
class GroupRegion:
    """A column of the heat map."""

    abbreviation: str
    name: str


def draw_group(
    title: str, scans: Sequence[GroupScan], regions: Sequence[GroupRegion], failures: Sequence[tuple[str, str]]
) -> dict[str, bytes]:
    """The dashboard's files by name; the same bytes for the same contents.

    Parameters
    ----------
    title : str
    scans : sequence of GroupScan
    regions : sequence of GroupRegion
        In the order of the columns.
    failures : sequence of (str, str)
        Name and reason of each scan without results.
    """
    volumes = np.array(
        [[scan.volumes.get(r.abbreviation, np.nan) for r in regions] for scan in scans], dtype=np.float64
    ).reshape(len(scans), len(regions))
    tiv = np.array([scan.tiv_mm3 for scan in scans], dtype=np.float64)
    z = robust_z(volumes, tiv)
    grades = {grade: sum(scan.grade == grade for scan in scans) for grade in ("fail", "look", "pass", "")}
    seconds = [float(scan.about["seconds"]) for scan in scans if _is_number(scan.about.get("seconds", ""))]
    columns = list(dict.fromkeys(key for scan in scans for key in scan.about))
    data = {
        "columns": columns,
        "regions": [[r.abbreviation, r.name] for r in regions],
        "scans": [
            [s.name, s.grade, s.reasons, s.page, s.thumbnail, [s.about.get(key, "") for key in columns]] for s in scans
        ],
        "z": _base64(np.where(np.isnan(z), _NONE, np.clip(np.rint(10 * z), -_TENTHS, _TENTHS)).astype(np.int8)),
        "volumes": _base64(np.where(np.isnan(volumes), -1, np.rint(volumes)).astype("<i4")),
        "tiv": _base64(np.where(np.isnan(tiv), -1, np.rint(tiv)).astype("<i4")),
    }
    html = (
        environment()
        .get_template("group.html.j2")
        .render(
            title=title,
            scans=len(scans),
            grades=grades,
            failures=failures,
            seconds=float(np.median(seconds)) if seconds else None,
            unusual=UNUSUAL,
            regions=regions,
            data=DATA,
            group_css=(Path(__file__).parent / "pages" / "group.css").read_text("utf-8"),
            group_js=(Path(__file__).parent / "pages" / "group.js").read_text("utf-8"),
        )
    )
    return {PAGE: html.encode(errors="replace"), DATA: f"window.slantGroup={script_json(data)};\n".encode()}


def robust_z(volumes: NDArray[np.float64], tiv_mm3: NDArray[np.float64]) -> NDArray[np.float64]:
    """Robust z-scores of the logarithm of each region's share of the intracranial volume, within the cohort.

    Parameters
    ----------
    volumes : (N, R) float64 array
        mm3; nan or 0 where there is none.
    tiv_mm3 : (N,) float64 array

    Returns
    -------
    (N, R) float64 array
        (value - median) / (1.4826 median absolute deviation); nan where a volume is missing, or fewer than five scans
        have the region.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(volumes / tiv_mm3[:, None])
    logs[~np.isfinite(logs)] = np.nan
    z = np.full(logs.shape, np.nan)
    for column, values in enumerate(logs.T):
        known = values[~np.isnan(values)]
        if known.size < _LEAST_SCANS:
            continue
        middle = np.median(known)
        spread = _MAD * np.median(np.abs(known - middle))
        z[:, column] = (values - middle) / spread if spread > 0 else np.where(np.isnan(values), np.nan, 0)
    return z


def shrink(picture: Path) -> bytes:
    """A small WebP of a picture file.

    Raises
    ------
    OSError
        If it cannot be read as a picture.
    """
    from PIL import Image

    with Image.open(picture) as image:
        image.draft("RGB", _THUMBNAIL)
        small = image.convert("RGB")
        small.thumbnail(_THUMBNAIL)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=60, method=4)
    return buffer.getvalue()


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
