"""Times of visits from ages and from the tables of BIDS."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from slant.errors import InputError, SettingsError
from slant.io.visit_times import VisitTime, note_on_times, times_of, years_since_first


def table(path: Path, *lines: str) -> Path:
    """A table whose cells are separated by spaces here and by tabs in the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line.replace(" ", "\t") + "\n" for line in lines), "utf-8")
    return path


def bids_scans(folder: Path, *sessions: str) -> list[Path]:
    return [folder / "sub-01" / s / "anat" / f"sub-01_{s}_T1w.nii.gz" for s in sessions]


def sessions_table(folder: Path, *lines: str) -> Path:
    return table(folder / "sub-01" / "sub-01_sessions.tsv", *lines)


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    return bids_scans(tmp_path, "ses-1", "ses-2")


def test_ages_come_first_and_tables_are_not_read(scans: list[Path], tmp_path: Path) -> None:
    sessions_table(tmp_path, "damaged")
    times = times_of(scans, [61.5, 63])
    assert times == (VisitTime(None, 61.5), VisitTime(None, 63.0))
    assert years_since_first(times) == (0, 1.5)


def test_dates_and_ages_of_sessions(scans: list[Path], tmp_path: Path) -> None:
    sessions_table(
        tmp_path,
        "session_id acq_time age",
        "ses-2 1903-06-15T13:45:30.000000Z 62",
        "ses-3 nonsense nonsense",
        "ses-1 1902-06-15T13:45:30 61",
    )
    times = times_of(scans)
    assert times[0] == VisitTime("1902-06-15T13:45:30", 61.0)
    assert years_since_first(times) == (0, pytest.approx(365 / 365.25))


def test_tables_of_scans_come_before_tables_of_sessions(scans: list[Path], tmp_path: Path) -> None:
    sessions_table(tmp_path, "session_id acq_time age", "ses-1 2001-01-01 60", "ses-2 2002-01-01 61")
    table(
        tmp_path / "sub-01" / "ses-1" / "sub-01_ses-1_scans.tsv",
        "filename acq_time",
        "func/sub-01_ses-1_task-rest_bold.nii.gz 2001-01-31T00:00:00",
        "anat/sub-01_ses-1_T1w.nii.gz 2001-01-21T12:00:00",
    )
    table(tmp_path / "sub-01" / "ses-2" / "sub-01_ses-2_scans.tsv", "filename acq_time", "anat/other.nii.gz 1999-01-01")
    assert times_of(scans) == (VisitTime("2001-01-21T12:00:00", 60.0), VisitTime("2002-01-01", 61.0))


@pytest.mark.parametrize("unknown", ["", "n/a"])
def test_values_that_are_not_available_are_unknown(scans: list[Path], tmp_path: Path, unknown: str) -> None:
    sessions_table(tmp_path, "session_id acq_time age", f"ses-1 2001-01-01 {unknown}", f"ses-2 {unknown} 89+")
    times = times_of(scans)
    assert times == (VisitTime("2001-01-01", None), VisitTime())
    assert years_since_first(times) is None
    note = note_on_times(["one", "two"], times)
    assert note.startswith("the times of visits two are unknown")
    assert "sessions.tsv" in note
    assert "--age" in note


def test_missing_tables_rows_and_columns_are_no_errors(scans: list[Path], tmp_path: Path) -> None:
    assert times_of(scans) == (VisitTime(), VisitTime())
    sessions_table(tmp_path, "session_id pathology", "ses-1 healthy")
    times = times_of(scans)
    assert times == (VisitTime(), VisitTime())
    assert note_on_times(["one", "two"], times).startswith("the times of all visits are unknown")
    assert times_of([]) == ()


def test_a_dataset_without_sessions(tmp_path: Path) -> None:
    runs = [tmp_path / "sub-01" / "anat" / f"sub-01_run-{i}_T1w.nii.gz" for i in (1, 2)]
    table(
        tmp_path / "sub-01" / "sub-01_scans.tsv",
        "filename acq_time",
        *(f"anat/{run.name} 2001-01-0{i}" for i, run in enumerate(runs, 1)),
    )
    assert years_since_first(times_of(runs)) == (0, pytest.approx(1 / 365.25))


def test_a_table_next_to_scans_in_plain_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path / "study" / "scans.tsv", "filename age", "a/T1.nii.gz 50", "b/T1.nii.gz 52")
    monkeypatch.chdir(tmp_path / "study")
    assert years_since_first(times_of([Path("a/T1.nii.gz"), Path("b/T1.nii.gz")])) == (0, 2)


def test_tables_above_the_folder_of_the_subject_are_not_read(scans: list[Path], tmp_path: Path) -> None:
    table(tmp_path / "scans.tsv", "filename acq_time", "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz 2001-01-01")
    assert times_of(scans) == (VisitTime(), VisitTime())


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (
            "15.06.2009 60",
            r"sub-01_sessions.tsv, line 2 \(ses-1\): found acq_time '15.06.2009', expected a date as YYYY",
        ),
        ("2009-06 60", "found acq_time '2009-06'"),
        ("n/a sixty", "found age 'sixty', expected years from 0 to 125"),
        ("n/a -1", "found age '-1'"),
        ("n/a nan2", "found age 'nan2'"),
        ("n/a 1e9", "found age '1e9'"),
    ],
)
def test_malformed_cells_name_file_line_found_and_expected(
    scans: list[Path], tmp_path: Path, cells: str, expected: str
) -> None:
    sessions_table(tmp_path, "session_id acq_time age", f"ses-1 {cells}")
    with pytest.raises(InputError, match=expected):
        times_of(scans)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["session acq_time", "ses-1 n/a"], "line 1: found the columns session, acq_time, expected session_id"),
        (["session_id", "ses-1 2001-01-01"], "some lines have more columns than the header"),
        (["session_id age", "ses-1 1", "ses-2 2", "ses-1 3"], "lines 2, 4: found 2 rows of ses-1, expected one"),
        ([], "cannot read the table .*sub-01_sessions.tsv"),
    ],
)
def test_malformed_tables_are_one_error(scans: list[Path], tmp_path: Path, lines: list[str], expected: str) -> None:
    sessions_table(tmp_path, *lines)
    with pytest.raises(InputError, match=expected):
        times_of(scans)


def test_a_table_that_is_not_text(scans: list[Path], tmp_path: Path) -> None:
    sessions_table(tmp_path).write_bytes(b"\xff\x00\xd8session_id")
    with pytest.raises(InputError, match="expected text with tabs"):
        times_of(scans)


@pytest.mark.parametrize(
    ("ages", "expected"),
    [([60], r"found 1 age\(s\) for 2 scan\(s\)"), ([60, -2], "found -2 for "), ([60, float("nan")], "found nan for ")],
)
def test_impossible_ages_are_refused(scans: list[Path], ages: list[float], expected: str) -> None:
    with pytest.raises(SettingsError, match=f"--age: {expected}"):
        times_of(scans, ages)


def test_years_do_not_depend_on_the_order() -> None:
    times = [VisitTime("2003-01-01"), VisitTime("2001-01-01T12:00:00"), VisitTime("2001-07-02")]
    years = dict(zip(times, years_since_first(times), strict=True))
    for order in itertools.permutations(times):
        assert years_since_first(order) == tuple(years[time] for time in order)
    assert years[times[1]] == 0


def test_two_scans_at_one_time() -> None:
    assert years_since_first([VisitTime("2001-01-01"), VisitTime("2001-01-01")]) == (0, 0)
    assert years_since_first([VisitTime()]) is None
    assert years_since_first([]) is None


def test_ages_are_used_if_a_date_is_missing_or_all_dates_are_replaced() -> None:
    assert years_since_first([VisitTime("2001-01-01", 60), VisitTime(None, 61)]) == (0, 1)
    replaced = "1900-01-01T00:00:00"
    assert years_since_first([VisitTime(replaced, 60), VisitTime(replaced, 61)]) == (0, 1)
    assert years_since_first([VisitTime(replaced, 60), VisitTime(replaced)]) == (0, 0)


def test_the_note_is_empty_if_all_times_are_known() -> None:
    assert note_on_times(["a", "b"], [VisitTime("2001-01-01"), VisitTime("2002-01-01")]) == ""
    assert note_on_times(["a"], [VisitTime()]) == ""
