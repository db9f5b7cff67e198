"""The record of a subject: the same from its text, and errors that say what is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_subjects import made_subject

from slant.errors import InputError
from slant.io.subject_record import SubjectNames, SubjectRecord, VisitRecord, in_order
from slant.io.visit_times import VisitTime
from slant.timing import Timing

LEFT_OUT = VisitRecord(
    "ses-3/T1", "ses-3", "/data/\udcff.nii", "", "ses-3/T1", VisitTime("2020-01-02"), None, "damaged"
)


def record() -> SubjectRecord:
    result = made_subject("sub-1", [VisitTime(age=60), VisitTime(age=61)], left_out=[LEFT_OUT])
    return replace(result.record, warnings=("blurred",), timings=(Timing("brain", 1.5, 200.0),))


def test_the_text_of_a_record_gives_the_same_record() -> None:
    read = SubjectRecord.from_json(record().to_json())
    assert read.plain() == record().plain()
    assert read.visits == record().visits
    assert read.visits[-1] == LEFT_OUT
    assert (read.left_out, len(read.segmented)) == ((LEFT_OUT,), 2)
    assert LEFT_OUT.prefix == "T1"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices"),
        ('{"subject": "sub-1"}', "it lacks visits"),
        ('{"subject": "sub-1", "visits": [{"name": "a", "time": {}}]}', "missing"),
    ],
)
def test_other_text_is_an_error(text: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        SubjectRecord.from_json(text, "x.json")
    assert str(caught.value).startswith("x.json cannot be read as the record of a longitudinal segmentation: ")
    assert problem in str(caught.value)
    assert str(caught.value).endswith(
        "segment the visits again with `slant longitudinal` or `slant-bids --longitudinal`"
    )


def visit(name: str, age: float | None = None, reason: str = "") -> VisitRecord:
    return VisitRecord(name, "", "", "", name, VisitTime(age=age), None, reason)


def test_visits_are_ordered_by_time_then_by_the_numbers_in_their_names() -> None:
    visits = [visit("b10"), visit("b9"), visit("a", reason="damaged"), visit("b10x")]
    assert [v.name for v in in_order(visits)] == ["b9", "b10", "b10x", "a"]
    assert in_order(visits[::-1]) == in_order(visits)
    dated = [visit("b10", 60), visit("b9", 61), visit("a", reason="damaged"), visit("a2", 60)]
    assert [v.name for v in in_order(dated)] == ["a2", "b10", "b9", "a"], "those left out need no time"


def test_the_record_is_the_last_file() -> None:
    assert SubjectNames("sub-1").all[-1] == SubjectNames("sub-1").record == "sub-1_longitudinal.json"
