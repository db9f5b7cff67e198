"""The record of a subject: which visits were segmented together, when they were, and which were left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from slant.errors import InputError
from slant.io.record import ModelRecord
from slant.io.staging import json_text
from slant.io.visit_times import VisitTime, years_since_first
from slant.timing import Timing

_ADVICE = "segment the visits again with `slant longitudinal` or `slant-bids --longitudinal`"


@dataclass(frozen=True)
class VisitRecord:
    """One visit of a subject.

    Attributes
    ----------
    name : str
        Unique among the visits: the name of the scan or, if scans of different folders share it, its relative path.
    session : str
        Label of the session with ``ses-``; empty if there is none.
    scan, sha256 : str
        Path of the file, and its SHA-256; the latter is empty if the file could not be read.
    folder : str
        Folder of the results, relative to that of the subject, with ``/``.
    similarity : float or None
        Similarity to the within-subject template; None if the visit was left out before it was aligned.
    reason : str
        Why the visit was left out; empty if it has results.
    """

    name: str
    session: str
    scan: str
    sha256: str
    folder: str
    time: VisitTime
    similarity: float | None = None
    reason: str = ""

    @property
    def prefix(self) -> str:
        """Prefix of the files of the visit's results, see `slant.io.names.ResultNames`."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class SubjectNames:
    """Names of the files of a subject, in the folder that has those of the visits.

    Attributes
    ----------
    subject : str
        Name of the subject, for example ``sub-01``.
    """

    subject: str

    @property
    def template(self) -> str:
        """Within-subject template in MNI305: the mean image of the visits."""
        return f"{self.subject}_space-MNI305_desc-template_T1w.nii.gz"

    @property
    def volumes(self) -> str:
        """Table with one row per volume and one column per visit."""
        return f"{self.subject}_volumes.tsv"

    @property
    def page(self) -> str:
        """Page with the trajectories of the volumes."""
        return f"{self.subject}_longitudinal.html"

    @property
    def record(self) -> str:
        """The record, which is written last."""
        return f"{self.subject}_longitudinal.json"

    @property
    def all(self) -> tuple[str, ...]:
        """Names of all files, in the order in which they are put in place."""
        return self.template, self.volumes, self.page, self.record


@dataclass(frozen=True, eq=False)
class SubjectRecord:
    """How the visits of a subject were segmented; the attributes are the keys of ``SUBJECT_longitudinal.json``.

    Attributes
    ----------
    visits : tuple of VisitRecord
        Those with results in the order of time or, if it is unknown, of their names; then those left out.
    software : dict of str to str
        Versions of slant and of the packages that the labels depend on.
    settings, requested : dict
        Settings, resolved and as given; ``requested`` has ``volume`` too, the index of the volume of 4D files.
    warnings : tuple of str
        Warnings about the subject; those about a visit are in the record of the visit.
    timings : tuple of Timing
        Steps that the visits share.
    """

    subject: str
    visits: tuple[VisitRecord, ...]
    model: ModelRecord
    software: dict[str, str]
    settings: dict[str, Any]
    requested: dict[str, Any]
    warnings: tuple[str, ...] = ()
    timings: tuple[Timing, ...] = ()

    @property
    def segmented(self) -> tuple[VisitRecord, ...]:
        """The visits that have results."""
        return tuple(visit for visit in self.visits if not visit.reason)

    @property
    def left_out(self) -> tuple[VisitRecord, ...]:
        """The visits without results."""
        return tuple(visit for visit in self.visits if visit.reason)

    def plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **vars(self),
            "visits": [{**vars(visit), "time": vars(visit.time)} for visit in self.visits],
            "model": vars(self.model),
            "warnings": list(self.warnings),
            "timings": [vars(timing) for timing in self.timings],
        }

    def to_json(self) -> str:
        """The text of ``SUBJECT_longitudinal.json``; bytes of file names that are not valid text are escaped."""
        return json_text(self.plain())

    @classmethod
    def from_json(cls, text: str, source: str = "the text") -> SubjectRecord:
        """The record in a text that `to_json` returned; ``source`` names the text in error messages.

        Raises
        ------
        InputError
            If the text is not such a record.
        """
        try:
            return cls.from_plain(json.loads(text))
        except KeyError as error:
            problem = f"it lacks {error.args[0]}"
        except (ValueError, TypeError, AttributeError) as error:
            problem = str(error)
        raise InputError(f"{source} cannot be read as the record of a longitudinal segmentation: {problem}; {_ADVICE}")

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> SubjectRecord:
        """The record of plain values; KeyError, TypeError or AttributeError if they are not those of a record."""
        return cls(
            plain["subject"],
            tuple(VisitRecord(**{**visit, "time": VisitTime(**visit["time"])}) for visit in plain["visits"]),
            ModelRecord(**plain["model"]),
            plain["software"],
            plain["settings"],
            plain["requested"],
            tuple(plain["warnings"]),
            tuple(Timing(**timing) for timing in plain["timings"]),
        )


def in_order(visits: Iterable[VisitRecord]) -> tuple[VisitRecord, ...]:
    """The visits in the order in which a record lists them, see `SubjectRecord`; it does not depend on their order."""
    by_name = sorted(visits, key=lambda visit: name_order(visit.name))
    segmented = [visit for visit in by_name if not visit.reason]
    years = years_since_first([visit.time for visit in segmented])
    if years is not None:
        in_time = sorted(zip(years, range(len(years)), strict=True))
        segmented = [segmented[i] for _, i in in_time]
    return (*segmented, *(visit for visit in by_name if visit.reason))


def name_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Key that sorts names, with numbers in them by their values.

    Examples
    --------
    >>> sorted(["ses-10", "ses-9", "ses-baseline"], key=name_order)
    ['ses-9', 'ses-10', 'ses-baseline']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name
