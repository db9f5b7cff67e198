"""Libraries and targets are found in folders, tables and files, and refused where names or labels lack."""

from __future__ import annotations

from pathlib import Path

import pytest

from slant.errors import InputError, SettingsError, SlantError
from slant.multiatlas.library import Member, atlases_for, read_members, without


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_folder_of_pairs(tmp_path: Path) -> None:
    touch(tmp_path, "b_T1w.nii.gz", "b_dseg.nii.gz", "a_T1w.nii.gz", "a_dseg.nii.gz", "readme", ".x_T1w.nii.gz")
    found = read_members([tmp_path], labelled=True)
    assert [(m.name, m.person) for m in found] == [("a", "a"), ("b", "b")]
    assert found[0].dseg == tmp_path / "a_dseg.nii.gz"


def test_nested_folders_and_the_person_in_the_name(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz")
    found = read_members([tmp_path], labelled=False)
    assert [(m.name, m.person, m.dseg) for m in found] == [
        ("sub-01_ses-1", "sub-01", None),
        ("sub-01_ses-2", "sub-01", None),
    ]


def test_table_with_paths_from_its_own_folder(tmp_path: Path) -> None:
    touch(tmp_path, "scans/x_T1w.nii.gz", "labels/x.nii.gz")
    table = tmp_path / "library.tsv"
    table.write_text("name\tT1w\tdseg\tperson\nann-1\tscans/x_T1w.nii.gz\tlabels/x.nii.gz\tann\n")
    (member,) = read_members([table], labelled=True)
    assert member == Member("ann-1", tmp_path / "scans/x_T1w.nii.gz", tmp_path / "labels/x.nii.gz", "ann")


def test_one_file(tmp_path: Path) -> None:
    touch(tmp_path, "x_T1w.nii.gz")
    assert [m.name for m in read_members([tmp_path / "x_T1w.nii.gz"], labelled=False)] == ["x"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name\tfile\n", "found columns name, file"),
        ("name\tT1w\n", "no rows"),
        ("name\tT1w\tage\na\tb\t3\n", "age"),
        (None, "cannot read the table"),
    ],
)
def test_bad_table(tmp_path: Path, content: str | None, said: str) -> None:
    table = tmp_path / "library.tsv"
    if content is not None:
        table.write_text(content)
    with pytest.raises(SlantError, match=said):
        read_members([table], labelled=True)


def test_empty_library_missing_labels_and_doubled_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found no \*_T1w\.nii\.gz"):
        read_members([tmp_path], labelled=True)
    touch(tmp_path, "one/a_T1w.nii.gz", "one/a_dseg.nii.gz", "one/b_T1w.nii.gz")
    with pytest.raises(InputError, match="found none for b"):
        read_members([tmp_path], labelled=True)
    touch(tmp_path, "two/a_T1w.nii.gz")
    with pytest.raises(InputError, match="two scans are named a"):
        read_members([tmp_path], labelled=False)
    with pytest.raises(InputError, match="wanted one of"):
        read_members([tmp_path / "image.png"], labelled=False)


def member(name: str, person: str) -> Member:
    return Member(name, Path(f"/{name}_T1w.nii.gz"), None, person)


def test_own_person_and_own_name_are_left_out() -> None:
    library = [member("a1", "ann"), member("a2", "ann"), member("b", "bob")]
    assert [m.name for m in atlases_for(member("new", "ann"), library)] == ["b"]
    assert [m.name for m in atlases_for(member("b", "someone"), library)] == ["a1", "a2"]
    with pytest.raises(InputError, match="no atlas of another person"):
        atlases_for(member("new", "ann"), library[:2])


def test_excluded_by_name_or_person() -> None:
    library = [member("a1", "ann"), member("a2", "ann"), member("b", "bob")]
    assert [m.name for m in without(library, ["ann"])] == ["b"]
    assert [m.name for m in without(library, ["a1"])] == ["a2", "b"]
    with pytest.raises(SettingsError, match="carl"):
        without(library, ["carl"])
