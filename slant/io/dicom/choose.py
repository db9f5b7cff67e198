"""Which series of a folder is the T1-weighted one, by what its headers say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slant.errors import InputError, SettingsError
from slant.io.dicom.series import Series

_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "enhanced MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "legacy converted enhanced MR",
}
_OTHER_KINDS = {
    *("DERIVED", "SECONDARY", "LOCALIZER", "PROJECTION IMAGE", "MPR", "MIP", "MNIP", "REFORMATTED"),
    *("P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY", "T1 MAP", "T2 MAP"),
}
_LEAST_IMAGES, _LEAST_EXTENT_MM, _THICKEST_MM = 40, 100.0, 3.2  # a whole head, in slices that make a volume

# Contrasts, beginning where a word does, or after a plane or "3d", as in "sagT1" and "3DT2".
_BEGIN = r"(?:(?<![a-z])|(?<=3d)|(?<=2d)|(?<=ax)|(?<=sag)|(?<=cor)|(?<=tra))"
_T1 = re.compile(rf"{_BEGIN}t1(?!\d)|mp[-_ ]?2?[-_ ]?rage|f?spgr|bravo|{_BEGIN}tfl|{_BEGIN}tfe|mdeft")
_OTHERS = re.compile(
    rf"{_BEGIN}t2|flair|stir|{_BEGIN}pdw?(?![a-z])|proton|dwi|dti|diff|tensor|trace|{_BEGIN}(?:adc|fa)(?![a-z])"
    r"|bold|fmri|(?<![a-z])rest(?!ore)|task|ep2d|epfid|(?<![a-z])epi(?![a-z])|pcasl|(?<![a-z])p?asl|perf|(?<![a-z])d[sc]e"
    r"|locali[sz]|scout|survey|(?<![a-z])(?:3[-_ ]?)?pl?(?:ane)?[-_ ]?loc|(?<![a-z])loc(?![a-z])|smartbrain"
    r"|(?<![a-z])(?:mra|mrv|mip|tof|svs|csi)(?![a-z])|tof[-_ ]?3d|angio|venogra"
    r"|swi|swan|susc|qsm|field|(?<![a-z])b[01](?!\d)|calib|asset|shim|spectro|phase"
    r"|t1[-_ ]?(?:map|rho)|(?<![a-z])inv[-_ ]?[12]?(?![a-z])"
)
_SHORT_ECHO_MS, _SPOILED_REPETITION_MS, _INVERSION_MS = 10.0, 15.0, (400.0, 1500.0)


@dataclass(frozen=True)
class Choice:
    """The series to segment.

    Attributes
    ----------
    series : Series
    reason : str
        In plain words.
    warnings : tuple of str
        What a user should know about it.
    """

    series: Series
    reason: str
    warnings: tuple[str, ...]


def evidence(series: Series) -> str:
    """Why a series counts as T1-weighted; empty if nothing says so.

    Its name says so, or, where no contrast is named, a short echo after an inversion (MPRAGE and its kind) or with a
    spoiled, rapidly repeated pulse (SPGR and its kind).
    """
    found = _T1.search(series.names)
    if found:
        return f"its name holds {found.group()!r}"
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


def objection(series: Series) -> str:
    """Why a series is not taken without being asked for; empty if it may be."""
    if series.modality != "MR":
        return f"its modality is {series.modality or 'not given'}, not MR"
    if series.sop_class not in _IMAGES or not series.count:
        return "it holds no MR images"
    kinds, other = sorted(_OTHER_KINDS & set(series.image_type)), _OTHERS.search(series.names)
    if kinds or other is not None:
        return f"its image type holds {kinds[0]}" if other is None else f"its name holds {other.group().strip()!r}"
    extent_mm = series.count * series.slices_mm
    if series.count < _LEAST_IMAGES:
        return f"{series.count} images are few for a whole head"
    if series.planes and (series.slices_mm > _THICKEST_MM or extent_mm < _LEAST_EXTENT_MM):
        return f"slices {series.slices_mm:.3g} mm apart over {extent_mm:.0f} mm are not a 3D scan of a whole head"
    return "" if evidence(series) else "nothing in its header says T1-weighted"


def choose_series(folder: Path, found: Sequence[Series], wanted: str | None) -> Choice:
    """The series that was asked for, or the only T1-weighted one.

    Parameters
    ----------
    folder : Path
        Said in errors.
    found : sequence of Series
    wanted : str, optional
        Number or SeriesInstanceUID.

    Raises
    ------
    InputError
        If none or several qualify; the message lists all series.
    SettingsError
        If the one asked for is not there, not the only one of its number, or not MR.
    """
    if wanted is not None:
        series = _asked_for(folder, found, wanted.strip())
        doubt = objection(series)
        doubts = (f"{series.title} was asked for, although {doubt}",) if doubt else ()
        return Choice(series, "it was asked for", doubts + _notes(series))
    fitting = [series for series in found if not objection(series)]
    if len(fitting) != 1:
        count = "no T1-weighted series" if not fitting else f"{len(fitting)} series that may be the T1-weighted one"
        raise InputError(f"{folder}: found {count}; choose one with --series NUMBER or UID:\n{listing(found)}")
    chosen, reason = fitting[0], evidence(fitting[0])
    told = (f"{chosen.title} was chosen of {len(found)} series: {reason}",) if len(found) > 1 else ()
    return Choice(chosen, reason, told + _notes(chosen))


def listing(found: Sequence[Series]) -> str:
    """A line a series, with why it is or is not taken; the UID where a number is not enough."""
    numbers = [series.number for series in found]
    lines = []
    for series in found:
        known = series.number is not None and numbers.count(series.number) == 1
        modality = _IMAGES.get(series.sop_class, series.modality or "?")
        said = objection(series) or f"T1-weighted: {evidence(series)}"
        uid = "" if known or series.number is None else f" ({series.uid})"
        agent = f", contrast agent {series.contrast_agent}" if series.contrast_agent else ""
        lines.append(f"  {series.title}{uid}: {modality}, {series.size}{agent}; {said}")
    return "\n".join(lines)


def _asked_for(folder: Path, found: Sequence[Series], wanted: str) -> Series:
    matches = [series for series in found if wanted == series.uid]
    if not matches and wanted.isdecimal():
        matches = [series for series in found if series.number == int(wanted)]
    if len(matches) != 1:
        count = "no series" if not matches else f"{len(matches)} series"
        raise SettingsError(f"{folder}: found {count} {wanted!r}; --series wants one of these:\n{listing(found)}")
    if matches[0].modality != "MR" or not matches[0].count:
        raise SettingsError(f"{folder}: {matches[0].title} cannot be segmented: {objection(matches[0])}")
    return matches[0]


def _notes(series: Series) -> tuple[str, ...]:
    notes = []
    if series.contrast_agent:
        notes.append(
            f"{series.title} was taken with a contrast agent ({series.contrast_agent}): the models were trained on "
            "scans without, so vessels and membranes may be labelled as brain"
        )
    if series.copies:
        notes.append(f"{series.copies} files of {series.title} hold images that others hold, and were left out")
    return tuple(notes)
