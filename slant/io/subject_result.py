"""The results of all visits of a subject, from memory or from files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slant.errors import InputError
from slant.io.names import ResultNames
from slant.io.read import read_volume
from slant.io.read_results import read_record
from slant.io.subject_record import SubjectNames, SubjectRecord, VisitRecord
from slant.io.visit_times import years_since_first
from slant.io.volume_table import read_volumes

if TYPE_CHECKING:
    from slant.volume import Volume
    from slant.volumes import VolumeRow


@dataclass(frozen=True, eq=False)
class SubjectResult:
    """Volumes and grades of the visits of a subject.

    Attributes
    ----------
    volumes : tuple of tuple of VolumeRow
        Rows of the table of volumes of each visit with results, in the order of ``visits``.
    grades : tuple of str
        Grade of each of them; empty if it is not graded.
    template : Volume or None
        Within-subject template, on the template grid; None if it is not needed or its file is missing.
    """

    record: SubjectRecord
    volumes: tuple[tuple[VolumeRow, ...], ...]
    grades: tuple[str, ...]
    template: Volume | None = None

    @property
    def visits(self) -> tuple[VisitRecord, ...]:
        """The visits with results, in the order of time or, if it is unknown, of their names."""
        return self.record.segmented

    @property
    def years(self) -> tuple[float, ...] | None:
        """Years of each of them since the first; None if the time of one is unknown."""
        return years_since_first([visit.time for visit in self.visits])


def read_subject_record(folder: Path, subject: str) -> SubjectRecord:
    """Read the record of a subject.

    Parameters
    ----------
    folder : Path
        Folder of the subject's files.
    subject : str
        Prefix of their names, for example ``sub-01``.

    Raises
    ------
    InputError
        If the file cannot be read or is not such a record.
    """
    path = folder / SubjectNames(subject).record
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}; segment the visits of {subject} together first") from error
    return SubjectRecord.from_json(text, str(path))


def read_subject(folder: Path, subject: str, *, template: bool = True) -> SubjectResult:
    """Read the results of a subject from the files of the subject and of the visits.

    Parameters
    ----------
    folder, subject : Path, str
        See `read_subject_record`.
    template : bool, optional
        Whether to read the within-subject template, if its file exists.

    Raises
    ------
    InputError
        If a file is missing or damaged.
    """
    record, path = read_subject_record(folder, subject), folder / SubjectNames(subject).template
    volume = read_volume(path) if template and path.is_file() else None
    return subject_result(record, folder, volume)


def subject_result(record: SubjectRecord, folder: Path, template: Volume | None = None) -> SubjectResult:
    """The result of a record, with the volumes and grades in the files of the visits; errors as `read_subject`."""
    volumes, grades = [], []
    for visit in record.segmented:
        names, visit_folder = ResultNames(visit.prefix), folder / visit.folder
        quality = read_record(visit_folder / names.record).quality
        grades.append("" if quality is None else quality.grade)
        try:
            volumes.append(read_volumes(visit_folder / names.volumes))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{visit_folder / names.volumes} cannot be read as a table of volumes: {error}; segment the visits of "
                f"{record.subject} again"
            ) from error
    return SubjectResult(record, tuple(volumes), tuple(grades), template)
