"""Select the T1-weighted series of a folder by the DICOM headers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slant.errors import InputError, SettingsError
from slant.grid import exceeds
from slant.io.dicom.series import Series

_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "enhanced MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "legacy converted enhanced MR",
}
_OTHER_IMAGE_TYPES = {
    *("DERIVED", "SECONDARY", "LOCALIZER", "PROJECTION IMAGE", "MPR", "MIP", "MNIP", "REFORMATTED"),
    *("P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY", "T1 MAP", "T2 MAP"),
}
_MIN_IMAGES, _MIN_EXTENT_MM, _MAX_SLICE_DISTANCE_MM = 40, 100.0, 3.2  # a whole head as a 3D scan

# Names of contrasts, at the beginning of a word or after a plane or "3d", as in "sagT1" and "3DT2".
_START = r"(?:(?<![a-z])|(?<=3d)|(?<=2d)|(?<=ax)|(?<=sag)|(?<=cor)|(?<=tra))"
_T1 = re.compile(rf"{_START}t1(?!\d)|mp[-_ ]?2?[-_ ]?rage|f?spgr|bravo|{_START}tfl|{_START}tfe|mdeft")
_OTHERS = re.compile(
    rf"{_START}t2|flair|stir|{_START}pdw?(?![a-z])|proton|dwi|dti|diff|tensor|trace|{_START}(?:adc|fa)(?![a-z])"
    r"|bold|fmri|(?<![a-z])rest(?!ore)|task|ep2d|epfid|(?<![a-z])epi(?![a-z])|pcasl|(?<![a-z])p?asl|perf|(?<![a-z])d[sc]e"
    r"|locali[sz]|scout|survey|(?<![a-z])(?:3[-_ ]?)?pl?(?:ane)?[-_ ]?loc|(?<![a-z])loc(?![a-z])|smartbrain"
    r"|(?<![a-z])(?:mra|mrv|mip|tof|svs|csi)(?![a-z])|tof[-_ ]?3d|angio|venogra"
    r"|swi|swan|susc|qsm|field|(?<![a-z])b[01](?!\d)|calib|asset|shim|spectro|phase"
    r"|t1[-_ ]?(?:map|rho)|(?<![a-z])inv[-_ ]?[12]?(?![a-z])"
)
_SHORT_ECHO_MS, _SPOILED_REPETITION_MS, _INVERSION_MS = 10.0, 15.0, (400.0, 1500.0)


@dataclass(frozen=True)
class Choice:
    """The series to segment, why it was selected, and warnings about it."""

    series: Series
    reason: str
    warnings: tuple[str, ...]


def evidence(series: Series) -> str:
    """Evidence in the header that a series is T1-weighted; empty if there is none.

    Evidence is the name or, where the name has no contrast, a short echo time after an inversion (as in MPRAGE) or with
    spoiling and a short repetition time (as in SPGR).
    """
    match = _T1.search(series.names)
    if match:
        return f"its name contains {match.group()!r}"
    echo, repetition, inversion = series.echo_ms, series.repetition_ms, series.inversion_ms
    if echo is None or echo > _SHORT_ECHO_MS or "EP" in series.sequence:
        return ""
    low, high = _INVERSION_MS
    if inversion is not None and low <= inversion <= high:
        return f"TE {echo:g} ms after an inversion at TI {inversion:g} ms"
    rapid = repetition is not None and repetition <= _SPOILED_REPETITION_MS
    if rapid and "SP" in series.variant:
        return f"spoiled, TR {repetition:g} ms, TE {echo:g} ms"
    return ""


def exclusion_reason(series: Series) -> str:
    """Why a series cannot be selected automatically; empty if it can."""
    if series.modality != "MR":
        return f"its modality is {series.modality or 'missing'}, not MR"
    if series.sop_class not in _IMAGES or not series.count:
        return "it has no MR images"
    types, other = sorted(_OTHER_IMAGE_TYPES & set(series.image_type)), _OTHERS.search(series.names)
    if types or other is not None:
        return f"its name contains {other.group().strip()!r}" if other else f"its image type contains {types[0]}"
    extent_mm = series.count * series.slices_mm
    if series.count < _MIN_IMAGES:
        return f"{series.count} images are too few for a whole head"
    if series.planes and (exceeds(series.slices_mm, _MAX_SLICE_DISTANCE_MM) or exceeds(_MIN_EXTENT_MM, extent_mm)):
        return f"slices {series.slices_mm:.3g} mm apart over {extent_mm:.0f} mm are not a 3D scan of a whole head"
    return "" if evidence(series) else "its header has no evidence of T1 weighting"


def choose_series(folder: Path, found: Sequence[Series], requested: str | None) -> Choice:
    """The requested series or, without a request, the only T1-weighted one.

    The request is a series number or SeriesInstanceUID; the folder is for error messages.

    Raises
    ------
    InputError
        If no series or more than one qualifies; the message lists all series.
    SettingsError
        If the requested series does not exist, shares its number with another one, or is not MR.
    """
    if requested is not None:
        series = _requested_series(folder, found, requested.strip())
        doubt = exclusion_reason(series)
        doubts = (f"{series.title} was asked for, although {doubt}",) if doubt else ()
        return Choice(series, "it was asked for", doubts + _notes(series))
    candidates = [series for series in found if not exclusion_reason(series)]
    if len(candidates) != 1:
        count = f"{len(candidates)} series that may be the T1-weighted one" if candidates else "no T1-weighted series"
        raise InputError(f"{folder}: found {count}; choose one with --series NUMBER or UID:\n{listing(found)}")
    chosen, reason = candidates[0], evidence(candidates[0])
    note = (f"{chosen.title} was chosen of {len(found)} series: {reason}",) if len(found) > 1 else ()
    return Choice(chosen, reason, note + _notes(chosen))


def listing(found: Sequence[Series]) -> str:
    """One line per series, with the reason why it is selected or not, and with the UID if its number is not unique."""
    numbers = [series.number for series in found]
    lines = []
    for series in found:
        unique = series.number is not None and numbers.count(series.number) == 1
        modality = _IMAGES.get(series.sop_class, series.modality or "?")
        reason = exclusion_reason(series) or f"T1-weighted: {evidence(series)}"
        uid = "" if unique or series.number is None else f" ({series.uid})"
        agent = f", contrast agent {series.contrast_agent}" if series.contrast_agent else ""
        lines.append(f"  {series.title}{uid}: {modality}, {series.size}{agent}; {reason}")
    return "\n".join(lines)


def _requested_series(folder: Path, found: Sequence[Series], requested: str) -> Series:
    matches = [series for series in found if requested == series.uid]
    if not matches and requested.isdecimal():
        matches = [series for series in found if series.number == int(requested)]
    if len(matches) != 1:
        count = f"{len(matches)} series" if matches else "no series"
        raise SettingsError(f"{folder}: found {count} {requested!r}; --series expects one of these:\n{listing(found)}")
    if matches[0].modality != "MR" or not matches[0].count:
        raise SettingsError(f"{folder}: {matches[0].title} cannot be segmented: {exclusion_reason(matches[0])}")
    return matches[0]


def _notes(series: Series) -> tuple[str, ...]:
    notes = []
    if series.contrast_agent:
        notes.append(
            f"{series.title} was taken with a contrast agent ({series.contrast_agent}): the models were trained on "
            "scans without one, so vessels and meninges may be labelled as brain"
        )
    if series.copies:
        notes.append(f"{series.copies} files of {series.title} hold images that others hold, and were ignored")
    return tuple(notes)


@dataclass(frozen=True)
class DicomSource:
    """The DICOM series of a scan, why it was selected, and the version of dcm2niix that converted it."""

    series: Series
    reason: str
    dcm2niix: str

    def plain(self) -> dict[str, Any]:
        """Plain values for the record; the only free text is the description, without the patient's name."""
        series = self.series
        return {
            "series_instance_uid": series.uid,
            "series_number": series.number,
            "series_description": series.description,
            "files": len(series.images),
            "images": series.count,
            "chosen": self.reason,
            "dcm2niix": self.dcm2niix,
        }
