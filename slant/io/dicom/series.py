"""Find the DICOM series of a folder and read their headers."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slant.errors import InputError
from slant.io.dicom.files import files_below, has_preamble, no_dicom_message, open_dicom
from slant.io.dicom.planes import ImagePlane, planes_of, slice_distance_mm

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DAMAGE = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, TypeError, ValueError),
    *(struct.error, zlib.error),
)
"""Exceptions that pydicom raises for damaged files."""

_DIRECTORY = "1.2.840.10008.1.3.10"  # DICOMDIR
_NAMES = ("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName")
_NO_CONTRAST = re.compile(r"(no|none|n/?a|without|ohne|sans|0)?", re.IGNORECASE)
_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality", "ImageType", *_NAMES),
    *("ScanningSequence", "SequenceVariant", "EchoTime", "RepetitionTime", "InversionTime"),
    *("ContrastBolusAgent", "ContrastBolusAgentSequence", "PatientName", "PatientID", "PatientIdentityRemoved"),
    *("Rows", "Columns", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)


@dataclass(frozen=True)
class Image:
    """One file of a series; ``uid`` is its SOPInstanceUID.

    Attributes
    ----------
    shape : tuple of 2 int
        Rows and columns; 0 if the file is not an image.
    planes : tuple of ImagePlane
        Planes of its frames; empty if the header lacks the position of a frame.
    """

    path: Path
    uid: str
    shape: tuple[int, int]
    planes: tuple[ImagePlane, ...] = field(repr=False)


@dataclass(frozen=True)
class Series:
    """One series, as its headers describe it.

    Attributes
    ----------
    uid : str
        SeriesInstanceUID.
    description : str
        SeriesDescription; ``withheld`` if it contains a word of the patient's name.
    names : str
        Names of series, protocol and sequence, in lower case.
    contrast_agent : str
        Name of the contrast agent; empty without one.
    patient_words : tuple of str
        Lower-case words of the patient's name, which are kept out of results.
    images : tuple of Image
        Each image once, in order of file paths.
    copies : int
        Number of files that were ignored because another file has the same image.
    """

    uid: str
    number: int | None
    description: str
    modality: str
    sop_class: str
    names: str
    image_type: tuple[str, ...]
    sequence: tuple[str, ...]
    variant: tuple[str, ...]
    echo_ms: float | None
    repetition_ms: float | None
    inversion_ms: float | None
    contrast_agent: str
    patient_words: tuple[str, ...] = field(repr=False)
    images: tuple[Image, ...] = field(repr=False)
    copies: int = 0

    @property
    def title(self) -> str:
        """Name of the series in messages, for example ``series 5 'MPRAGE'``."""
        number = self.uid if self.number is None else str(self.number)
        return f"series {number} {self.description!r}" if self.description else f"series {number}"

    @property
    def planes(self) -> tuple[ImagePlane, ...]:
        """Planes of all frames, file by file."""
        return tuple(plane for image in self.images for plane in image.planes)

    @property
    def count(self) -> int:
        """Number of images, with every frame of a file counted."""
        return sum(max(1, len(image.planes)) for image in self.images if image.shape[0])

    @property
    def slices_mm(self) -> float:
        """Distance between neighbouring slices; 0 if unknown."""
        return slice_distance_mm(self.planes) if self.planes else 0.0

    @property
    def size(self) -> str:
        """Number of images, with their size in pixels and mm, for messages."""
        if not self.count:
            return f"{len(self.images)} files without images"
        rows, columns = self.images[0].shape
        text = f"{self.count} image{'s' if self.count > 1 else ''} of {columns} x {rows} pixels"
        if self.planes:
            row_mm, column_mm = self.planes[0].spacing_mm
            text += f", {column_mm:.3g} x {row_mm:.3g} x {self.slices_mm:.3g} mm"
        return text

    def names_patient(self, text: str) -> bool:
        """Whether a text contains a word of the patient's name."""
        return not set(_words(text)).isdisjoint(self.patient_words)


def find_series(folder: Path) -> tuple[Series, ...]:
    """All series, at least one, of the DICOM files in a folder and its subfolders, whatever the names of the files.

    They are sorted by number, then UID.

    Raises
    ------
    InputError
        If there are no DICOM files, or one of them is damaged.
    """
    files = files_below(folder)
    members: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    for path, header in _headers(files):
        members[str(header.SeriesInstanceUID)].append((path, header))
    if not members:
        raise InputError(no_dicom_message(folder, files))
    found = [_series(uid, group) for uid, group in members.items()]
    return tuple(sorted(found, key=lambda series: (series.number is None, series.number or 0, series.uid)))


def _headers(files: Sequence[Path]) -> Iterator[tuple[Path, Dataset]]:
    """Headers of the files that are DICOM."""
    from pydicom import dcmread

    for path in files:
        preamble = has_preamble(path)
        if preamble is None:
            continue
        try:
            with open_dicom(path) as stream, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about invalid values; those that are used are checked
                header = dcmread(stream, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
                uid, series = header.get("SOPInstanceUID"), header.get("SeriesInstanceUID")
                kind = str(header.file_meta.get("MediaStorageSOPClassUID", ""))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
        except DAMAGE:
            uid, series, kind = None, None, ""
        if uid and series:
            yield path, header
        elif preamble and kind != _DIRECTORY:
            raise InputError(
                f"{path}: the DICOM file is damaged or incomplete: its header does not name its series; "
                "copy it again, or remove it from the folder"
            )


def _series(uid: str, members: Sequence[tuple[Path, Dataset]]) -> Series:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images: dict[str, Image] = {}
        for path, header in members:
            shape = (int(header.get("Rows") or 0), int(header.get("Columns") or 0))
            image = Image(path, str(header.SOPInstanceUID), shape, planes_of(header) if shape[0] else ())
            images.setdefault(image.uid, image)
        first = members[0][1]
        number, patient_words = _number(first.get("SeriesNumber")), _patient_words(first)
        description = _text(first.get("SeriesDescription"))
        return Series(
            uid=uid,
            number=None if number is None else int(number),
            description=description if set(_words(description)).isdisjoint(patient_words) else "withheld",
            modality=_text(first.get("Modality")),
            sop_class=_text(first.get("SOPClassUID")),
            names=" ".join(_text(first.get(name)) for name in _NAMES).lower().strip(),
            image_type=_many(first.get("ImageType")),
            sequence=_many(first.get("ScanningSequence")),
            variant=_many(first.get("SequenceVariant")),
            echo_ms=_time_ms(first, "EchoTime", "MREchoSequence", "EffectiveEchoTime"),
            repetition_ms=_time_ms(first, "RepetitionTime", "MRTimingAndRelatedParametersSequence", "RepetitionTime"),
            inversion_ms=_time_ms(first, "InversionTime", "MRModifierSequence", "InversionTimes"),
            contrast_agent=_contrast(first),
            patient_words=patient_words,
            images=tuple(images.values()),
            copies=len(members) - len(images),
        )


def _time_ms(header: Dataset, name: str, group: str, enhanced: str) -> float | None:
    """A time in ms from the tag of single-frame files or, if it is absent, from the groups of multi-frame files."""
    if header.get(name) is not None:
        return _number(header.get(name))
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for item in (header.get(groups) or [])[:1]:
            for inner in (item.get(group) or [])[:1]:
                return _number(inner.get(enhanced))
    return None


def _contrast(header: Dataset) -> str:
    agent = _text(header.get("ContrastBolusAgent"))
    if not agent and header.get("ContrastBolusAgentSequence"):
        agent = _text(header.ContrastBolusAgentSequence[0].get("CodeMeaning")) or "not named"
    return "" if _NO_CONTRAST.fullmatch(agent) else agent


def _patient_words(header: Dataset) -> tuple[str, ...]:
    """Words of the patient's name; none if the name is the patient ID or the data are de-identified."""
    name = _text(header.get("PatientName"))
    if _text(header.get("PatientIdentityRemoved")).upper() == "YES" or name == _text(header.get("PatientID")):
        return ()
    return tuple(word for word in _words(name) if len(word) > 2)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def _text(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())


def _many(value: Any) -> tuple[str, ...]:
    if value is None or isinstance(value, str):
        return (value.upper(),) if value else ()
    return tuple(str(part).upper() for part in value)


def _number(value: Any) -> float | None:
    if value is not None and not isinstance(value, (str, int, float)):
        try:
            value = next(iter(value), None)  # the first of several
        except TypeError:
            return None
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
