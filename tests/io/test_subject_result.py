"""The results of a subject from its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slant.errors import InputError
from slant.grid import Grid
from slant.io.names import ResultNames
from slant.io.read_results import read_record
from slant.io.subject_record import SubjectNames, SubjectRecord, VisitRecord
from slant.io.subject_result import read_subject
from slant.io.visit_times import VisitTime
from slant.io.write import write_image
from slant.volume import Volume


@pytest.fixture
def subject(copy: Path) -> Path:
    """Folder of a subject with one visit, whose results are those of the toy scan, and one that was left out."""
    own = read_record(copy / ResultNames("toy").record)
    visits = (
        VisitRecord("toy", "ses-1", own.input.path, own.input.sha256, copy.name, VisitTime(age=60), 0.9),
        VisitRecord("b", "ses-2", "/b", "", "b", VisitTime(), None, "damaged"),
    )
    record = SubjectRecord("sub-1", visits, own.model, own.versions, own.settings, {})
    (copy.parent / SubjectNames("sub-1").record).write_text(record.to_json())
    return copy.parent


def test_volumes_and_grades_are_those_of_the_visits_with_results(subject: Path) -> None:
    result = read_subject(subject, "sub-1")
    assert [visit.name for visit in result.visits] == ["toy"]
    assert (len(result.volumes), result.grades, result.years, result.template) == (1, ("",), (0.0,), None)
    assert sum(row.level == "region" for row in result.volumes[0]) == 132


def test_the_template_is_read_if_it_is_wanted(subject: Path) -> None:
    template = Volume(np.arange(60, dtype=np.float32).reshape(3, 4, 5), Grid((3, 4, 5), np.eye(4)))
    write_image(subject / SubjectNames("sub-1").template, template, None)
    read = read_subject(subject, "sub-1").template
    assert read is not None
    assert np.array_equal(read.data, template.data)
    assert read_subject(subject, "sub-1", template=False).template is None


def test_missing_and_damaged_files_are_errors(subject: Path, copy: Path) -> None:
    with pytest.raises(InputError, match=r"sub-2_longitudinal\.json cannot be read: .*; segment the visits of sub-2"):
        read_subject(subject, "sub-2")
    table = copy / ResultNames("toy").volumes
    table.write_text("x\ty\n")
    with pytest.raises(InputError, match=r"cannot be read as a table of volumes: .*; segment the visits of sub-1"):
        read_subject(subject, "sub-1")
    (copy / ResultNames("toy").record).unlink()
    with pytest.raises(InputError, match="cannot be read as the record of a run"):
        read_subject(subject, "sub-1")
