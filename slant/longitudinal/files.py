"""Writes the files of a subject: the template, the table of volumes, the page and the record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slant.io.names import ResultNames
from slant.io.read import read_volume
from slant.io.staging import staged
from slant.io.subject_result import SubjectResult, subject_result
from slant.io.write import write_image
from slant.longitudinal.tables import subject_table
from slant.report.trajectories import trajectories_page

if TYPE_CHECKING:
    from slant.config import RunReportSettings
    from slant.io.subject_record import SubjectRecord
    from slant.longitudinal.visits import SubjectVisits
    from slant.volume import Volume


def write_subject(
    record: SubjectRecord,
    subject: SubjectVisits,
    template: Volume,
    reports: RunReportSettings,
    unfinished: Path | None = None,
) -> SubjectResult:
    """Write all files of a subject whose visits are written, the record last.

    Parameters
    ----------
    template : Volume
        Within-subject template, on the template grid.
    reports : RunReportSettings
        Display convention of the page, which is always written.
    unfinished : Path, optional
        Staging folder, see `slant.io.staging.staged`.

    Raises
    ------
    InputError
        If the results of a visit cannot be read.
    OutputError
        If a file cannot be written; existing ones are then unchanged.
    """
    names = subject.names
    with staged(subject.folder, names, unfinished=unfinished) as folder:
        write_image(folder / names.template, template, None)
        result = subject_result(record, subject.folder, read_volume(folder / names.template))
        texts = {
            names.volumes: subject_table(result),
            names.page: trajectories_page(result, _links(result, subject.folder), reports),
            names.record: record.to_json(),
        }
        for name, text in texts.items():
            (folder / name).write_bytes(text.encode("utf-8", "backslashreplace"))
    return result


def _links(result: SubjectResult, folder: Path) -> dict[str, str]:
    """Paths of the reports of the visits that have one, relative to the folder of the subject, by visit."""
    paths = {visit.name: f"{visit.folder}/{ResultNames(visit.prefix).report}" for visit in result.visits}
    return {name: path for name, path in paths.items() if (folder / path).is_file()}
