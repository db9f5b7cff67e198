"""Atlases and targets are found in folders, tables and files; missing or repeated names and labels are errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from slant.errors import InputError, SettingsError, SlantError
from slant.multiatlas.atlases import AtlasScan, atlases_for, read_atlas_scans, without


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_folder_of_pairs(tmp_path: Path) -> None:
    touch(tmp_path, "b_T1w.nii.gz", "b_dseg.nii.gz", "a_T1w.nii.gz", "a_dseg.nii.gz", "readme", ".x_T1w.nii.gz")
    found = read_atlas_scans([tmp_path], labelled=True)
    assert [(scan.name, scan.subject) for scan in found] == [("a", "a"), ("b", "b")]
    assert found[0].dseg == tmp_path / "a_dseg.nii.gz"


def test_nested_folders_and_the_subject_in_the_name(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz")
    found = read_atlas_scans([tmp_path], labelled=False)
    assert [(scan.name, scan.subject, scan.dseg) for scan in found] == [
        ("sub-01_ses-1", "sub-01", None),
        ("sub-01_ses-2", "sub-01", None),
    ]


def test_table_with_paths_from_its_own_folder(tmp_path: Path) -> None:
    touch(tmp_path, "scans/x_T1w.nii.gz", "labels/x.nii.gz")
    table = tmp_path / "library.tsv"
    table.write_text("name\tT1w\tdseg\tsubject\nann-1\tscans/x_T1w.nii.gz\tlabels/x.nii.gz\tann\n")
    (atlas_scan,) = read_atlas_scans([table], labelled=True)
    assert atlas_scan == AtlasScan("ann-1", tmp_path / "scans/x_T1w.nii.gz", tmp_path / "labels/x.nii.gz", "ann")


def test_one_file(tmp_path: Path) -> None:
    touch(tmp_path, "x_T1w.nii.gz")
    assert [scan.name for scan in read_atlas_scans([tmp_path / "x_T1w.nii.gz"], labelled=False)] == ["x"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name\tfile\n", "found the columns name, file"),
        ("name\tT1w\n", "no rows"),
        ("name\tT1w\tage\na\tb\t3\n", "age"),
        (None, "cannot read the table"),
    ],
)
def test_bad_table(tmp_path: Path, content: str | None, message: str) -> None:
    table = tmp_path / "library.tsv"
    if content is not None:
        table.write_text(content)
    with pytest.raises(SlantError, match=message):
        read_atlas_scans([table], labelled=True)


def test_empty_library_missing_labels_and_repeated_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found no \*_T1w\.nii\.gz"):
        read_atlas_scans([tmp_path], labelled=True)
    touch(tmp_path, "one/a_T1w.nii.gz", "one/a_dseg.nii.gz", "one/b_T1w.nii.gz")
    with pytest.raises(InputError, match="found none for b"):
        read_atlas_scans([tmp_path], labelled=True)
    touch(tmp_path, "two/a_T1w.nii.gz")
    with pytest.raises(InputError, match="two scans are named a"):
        read_atlas_scans([tmp_path], labelled=False)
    with pytest.raises(InputError, match="expected one of"):
        read_atlas_scans([tmp_path / "image.png"], labelled=False)


def atlas_scan(name: str, subject: str) -> AtlasScan:
    return AtlasScan(name, Path(f"/{name}_T1w.nii.gz"), None, subject)


def test_own_subject_and_own_name_are_excluded() -> None:
    library = [atlas_scan("a1", "ann"), atlas_scan("a2", "ann"), atlas_scan("b", "bob")]
    assert [scan.name for scan in atlases_for(atlas_scan("new", "ann"), library)] == ["b"]
    assert [scan.name for scan in atlases_for(atlas_scan("b", "someone"), library)] == ["a1", "a2"]
    with pytest.raises(InputError, match="no atlas from another subject"):
        atlases_for(atlas_scan("new", "ann"), library[:2])


def test_exclusion_by_name_or_subject() -> None:
    library = [atlas_scan("a1", "ann"), atlas_scan("a2", "ann"), atlas_scan("b", "bob")]
    assert [scan.name for scan in without(library, ["ann"])] == ["b"]
    assert [scan.name for scan in without(library, ["a1"])] == ["a2", "b"]
    with pytest.raises(SettingsError, match="--exclude carl is not a name or subject"):
        without(library, ["carl"])
