"""Lists of jobs from folders, patterns, tables and files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slant.cohort.jobs import list_jobs
from slant.errors import InputError, SettingsError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(*inputs: object, out: Path) -> dict[str, tuple[str, str, str]]:
    jobs = list_jobs([str(path) for path in inputs], out).jobs
    return {job.id: (job.scan.as_posix(), job.folder.relative_to(out).as_posix(), job.name) for job in jobs}


def test_a_folder_gives_its_t1w_images_at_any_depth(tmp_path: Path) -> None:
    top, out = tmp_path / "study", tmp_path / "study" / "out"
    touch(top / "b" / "x_T1w.nii.gz", top / "b" / "x_bold.nii.gz", top / "a_T1w.mgz", top / ".git" / "c_T1w.nii.gz")
    touch(out / "a" / "a_space-MNI305_desc-preproc_T1w.nii.gz", top / "notes.txt")
    assert listed(top, out=out) == {
        "a": (f"{top}/a_T1w.mgz", "a", "a"),
        "b/x": (f"{top}/b/x_T1w.nii.gz", "b/x", "x"),
    }


def test_a_folder_without_t1w_in_the_names_gives_all_images(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "p1" / "T1.nii.gz", tmp_path / "in" / "p2" / "T1.nii.gz")
    assert list(listed(tmp_path / "in", out=tmp_path / "out")) == ["p1/T1", "p2/T1"]


def test_a_pattern_names_scans_by_the_parts_that_vary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(*(tmp_path / "in" / p / "anat" / "T1.nii.gz" for p in ("p1", "p2")), tmp_path / "in" / "p1" / "T2.nii.gz")
    monkeypatch.chdir(tmp_path)
    by_folder = {"p1/anat/T1", "p2/anat/T1"}
    assert set(listed("in/*/anat/T1.nii.gz", out=tmp_path / "out")) == by_folder
    assert set(listed(tmp_path / "in" / "**" / "T1.nii.gz", out=tmp_path / "out")) == by_folder
    assert set(listed("in/p1/anat/T?.nii.gz", out=tmp_path / "out")) == {"T1"}


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    touch(tmp_path / "a[1].nii")
    assert list(listed(tmp_path / "a[1].nii", out=tmp_path / "out")) == ["a[1]"]


def test_a_table_gives_the_names(tmp_path: Path) -> None:
    table = tmp_path / "scans.tsv"
    table.write_text("\ufeffage\tT1w\tname\n61\tin/../a.nii\tone\n70\t/data/b.nii.gz\tt w o\n\n", encoding="utf-8")
    assert listed(table, out=tmp_path / "out") == {
        "one": (f"{tmp_path}/a.nii", "one", "one"),
        "t w o": ("/data/b.nii.gz", "t w o", "t w o"),
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_white_space_around_the_cells_of_a_table_does_not_count(tmp_path: Path, encoding: str) -> None:
    table = tmp_path / "scans.tsv"
    table.write_bytes("name\tT1w \r\n one \t a b.nii\u00a0\r\n \t\r\n".encode(encoding))
    assert listed(table, out=tmp_path / "out") == {"one": (f"{tmp_path}/a b.nii", "one", "one")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,T1w\na,b\n", "found columns name,T1w, expected name and T1w, separated by tabs"),
        ("", "found columns none, expected name and T1w"),
        ("name\tT1w\n", "the table has no rows"),
        ("name\tT1w\na\n", "the row 'a' has no T1w"),
        ("name\tT1w\n../a\tb.nii\n", "'../a' cannot be the name of a scan"),
        ("name\tT1w\n.a\tb.nii\n", "'.a' cannot be the name of a scan"),
        ("name\tT1w\na\tb.nii\na\tc.nii\n", "two scans are named a: .*b.nii and .*c.nii"),
    ],
)
def test_invalid_tables_are_errors(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "scans.tsv").write_text(text)
    with pytest.raises((SettingsError, InputError), match=message):
        list_jobs([str(tmp_path / "scans.tsv")], tmp_path / "out")


def test_a_missing_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the table of scans .*none\.tsv"):
        list_jobs([str(tmp_path / "none.tsv")], tmp_path / "out")


def test_inputs_without_scans_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no scan in this folder"):
        list_jobs([str(tmp_path)], tmp_path / "out")
    with pytest.raises(InputError, match="no file matches the pattern"):
        list_jobs([str(tmp_path / "*.nii")], tmp_path / "out")
    with pytest.raises(InputError, match=r"found the extension '\.txt'"):
        list_jobs([str(tmp_path / "a.txt")], tmp_path / "out")


def test_a_repeated_file_is_one_job_and_two_files_of_one_name_are_an_error(tmp_path: Path) -> None:
    touch(tmp_path / "p1" / "T1.nii", tmp_path / "p2" / "T1.nii")
    first, second = tmp_path / "p1" / "T1.nii", tmp_path / "p2" / "T1.nii"
    assert list(listed(first, first, out=tmp_path / "out")) == ["T1"]
    with pytest.raises(InputError, match=r"two scans are named T1: .* a quoted pattern"):
        list_jobs([str(first), str(second)], tmp_path / "out")


def test_an_unreadable_folder_is_listed_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "in" / "a" / "x.nii", tmp_path / "in" / "b" / "y.nii")
    real = os.scandir
    closed = tmp_path / "in" / "a"

    def scandir(path: str) -> object:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    job_list = list_jobs([str(tmp_path / "in")], tmp_path / "out")
    assert [job.id for job in job_list.jobs] == ["b/y"]
    assert job_list.unreadable == {str(closed): "the folder cannot be read: Permission denied; check its permissions"}
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        list_jobs([str(closed)], tmp_path / "out")
