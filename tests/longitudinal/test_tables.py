"""The tables of a longitudinal study."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from made_subjects import ETIV_MM3, made_subject, region_sizes, volume_rows

from slant.errors import InputError
from slant.io.subject_record import VisitRecord
from slant.io.visit_times import VisitTime
from slant.longitudinal.tables import describe_long_table, long_table, subject_table

AGES = (VisitTime(None, 60), VisitTime(None, 61), VisitTime(None, 63))
HIPPOCAMPI = {47: -2.0, 48: -1.0}
LEFT_OUT = VisitRecord("sub-1_ses-9", "ses-9", "/x", "", "ses-9/anat", VisitTime(), None, "not the same subject")


def read(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), sep="\t", na_values="n/a", keep_default_na=False)


def test_the_table_of_a_subject_has_a_row_per_volume_and_a_column_per_visit() -> None:
    result = made_subject("sub-1", AGES, HIPPOCAMPI, left_out=[LEFT_OUT])
    table = read(subject_table(result))
    visits = ["sub-1_ses-1_mm3", "sub-1_ses-2_mm3", "sub-1_ses-3_mm3"]
    leading = ["level", "index", "name", "abbreviation", "hemisphere", "tissue", "lobe"]
    assert list(table) == [*leading, *visits, "change_percent_per_year"]
    assert len(table) == len(result.volumes[0])
    right = table[table.name == "Right Hippocampus"].iloc[0]
    assert right["index"] == 47
    assert right[visits[2]] == pytest.approx(right[visits[0]] * 0.94, rel=1e-3)
    assert right.change_percent_per_year == pytest.approx(-2 / 0.9733, abs=0.02)
    assert table.change_percent_per_year[table.name == "eTIV"].tolist() == []
    assert table.change_percent_per_year[table.abbreviation == "eTIV"].tolist() == [0]
    assert table.change_percent_per_year[table.name == "Left Amygdala"].tolist() == [0]


@pytest.mark.parametrize("times", [(VisitTime(), VisitTime(None, 3)), (VisitTime(None, 3), VisitTime(None, 3))])
def test_without_times_there_is_no_change(times: tuple[VisitTime, ...]) -> None:
    lines = subject_table(made_subject("sub-1", times)).splitlines()
    assert {line.split("\t")[-1] for line in lines[1:]} == {"n/a"}


def test_a_volume_that_a_visit_lacks_is_not_available() -> None:
    result = made_subject("sub-1", AGES)
    without = replace(result, volumes=(volume_rows(region_sizes(), None), *result.volumes[1:]))
    table = read(subject_table(without))
    etiv = table[table.abbreviation == "eTIV"].iloc[0]
    assert etiv.filter(like="_mm3").isna().tolist() == [True, False, False]
    assert pd.isna(etiv.change_percent_per_year)
    assert len(table) == len(result.volumes[0])
    long = read(long_table([without]))
    assert long.groupby("scan").eTIV_mm3.first().isna().tolist() == [True, False, False]


def test_the_long_table_has_a_row_for_each_visit_and_region() -> None:
    dated = tuple(VisitTime(f"200{i}-01-01", 60 + i) for i in range(2))
    subjects = [made_subject("sub-2", AGES, HIPPOCAMPI, left_out=[LEFT_OUT]), made_subject("sub-1", dated)]
    text = long_table(subjects)
    assert text == long_table(subjects[::-1])
    table = read(text)
    assert list(table) == list(describe_long_table())
    assert len(table) == 132 * 5
    assert table.participant_id.unique().tolist() == ["sub-1", "sub-2"]
    hippocampus = table[(table.participant_id == "sub-2") & (table.region == "R-Hip")]
    assert hippocampus.years.tolist() == [0, 1, 3]
    assert hippocampus.age.tolist() == [60, 61, 63]
    assert hippocampus.grade.tolist() == ["pass", "review", "fail"]
    assert hippocampus.session_id.tolist() == ["ses-1", "ses-2", "ses-3"]
    assert hippocampus.hemisphere.unique().tolist() == ["R"]
    assert hippocampus.tissue.unique().tolist() == ["gray"]
    assert hippocampus.eTIV_mm3.tolist() == [ETIV_MM3] * 3
    assert hippocampus.volume_mm3.tolist()[0] == region_sizes()[hippocampus.index[0] % 132]
    assert table.years[table.participant_id == "sub-1"].unique() == pytest.approx([0, 366 / 365.25], abs=1e-4)


def test_unknown_values_are_not_available() -> None:
    visit = VisitTime()
    result = made_subject("person", [visit, visit])
    nameless = replace(result.record, visits=tuple(replace(v, session="") for v in result.record.visits))
    row = long_table([replace(result, record=nameless, grades=("", ""))]).splitlines()[1].split("\t")
    assert row[:7] == ["person", "n/a", "person_ses-1", "n/a", "n/a", "n/a", "1500000.0"]


def participants(folder: Path, *lines: str) -> Path:
    path = folder / "participants.tsv"
    path.write_text("".join(line.replace(" ", "\t") + "\n" for line in lines), "utf-8")
    return path


def test_columns_of_participants_come_last(tmp_path: Path) -> None:
    path = participants(tmp_path, "participant_id sex age group", "sub-1 F 60 ", "2 M 70 patient")
    subjects = [made_subject(name, AGES[:2]) for name in ("sub-1", "sub-2", "sub-3")]
    table = read(long_table(subjects, path))
    assert list(table)[-3:] == ["sex", "participant_age", "group"]
    assert table.groupby("participant_id").sex.first().tolist()[:2] == ["F", "M"]
    assert table.sex[table.participant_id == "sub-3"].isna().all()
    assert table.group.dropna().unique().tolist() == ["patient"]


def test_missing_participants_are_ignored(tmp_path: Path) -> None:
    subject = made_subject("sub-1", AGES[:2])
    assert long_table([subject], tmp_path / "participants.tsv") == long_table([subject])
    header = participants(tmp_path, "participant_id sex")
    assert long_table([subject], header).splitlines()[1].endswith("\tn/a")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["subject sex"], "line 1: found the columns subject, sex, expected participant_id"),
        (["participant_id sex", "sub-1 F", "1 M"], "found several lines of sub-1"),
        (["participant_id", "sub-1 F"], "more columns than the header"),
        ([], "cannot read the table"),
    ],
)
def test_malformed_participants_are_one_error(tmp_path: Path, lines: list[str], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        long_table([], participants(tmp_path, *lines))


def test_the_description_is_complete() -> None:
    about = describe_long_table()
    assert all(column["Description"] for column in about.values())
    assert {name for name, column in about.items() if column.get("Units") == "mm3"} == {"eTIV_mm3", "volume_mm3"}
