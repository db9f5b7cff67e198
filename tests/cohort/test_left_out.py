"""What a folder holds beside scans is left out of a cohort, and the list says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slant.cohort.jobs import list_jobs
from slant.cohort.left_out import notes_about
from slant.engine.job import JobList
from slant.errors import InputError
from slant.io.names import ResultNames

DERIVATIVE = {"Name": "x", "BIDSVersion": "1.8.0", "DatasetType": "derivative"}


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tmp_path / "study"


def touch(top: Path, *names: str) -> None:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).touch()


def describe(folder: Path, description: object = None, encoding: str = "utf-8") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(DERIVATIVE if description is None else description)
    (folder / "dataset_description.json").write_text(text, encoding=encoding)


def listed(*inputs: object) -> JobList:
    return list_jobs([str(path) for path in inputs], Path("/out"))


def ids(job_list: JobList) -> list[str]:
    return [job.id for job in job_list.jobs]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_derivatives_datasets_are_left_out_by_their_description(top: Path, encoding: str) -> None:
    touch(top, "sub-01_T1w.nii.gz", "tool/sub-01/sub-01_T1w.nii.gz", "tool/sub-01/sub-01_bold.nii.gz")
    describe(top / "tool", encoding=encoding)
    found = listed(top)
    assert ids(found) == ["sub-01"]
    assert found.notes == (
        f"left out 2 image(s): in the derivatives dataset {top / 'tool'}; for example sub-01_T1w.nii.gz",
    )


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ({"DatasetType": "raw"}, ["a", "deep/b"]),
        ({"DatasetType": "study"}, ["a", "deep/b"]),
        ({}, ["a", "deep/b"]),
        (["no object"], ["a", "deep/b"]),
        ({"DatasetType": "Derivative"}, ["a"]),
        ({"PipelineDescription": {"Name": "before BIDS 1.4"}}, ["a"]),
    ],
)
def test_other_datasets_are_not_left_out(top: Path, description: object, expected: list[str]) -> None:
    touch(top, "a_T1w.nii", "deep/b_T1w.nii")
    describe(top / "deep", description)
    assert ids(listed(top)) == expected


def test_the_nearest_description_decides(top: Path) -> None:
    touch(top, "a_T1w.nii", "derivatives/tool/b_T1w.nii", "derivatives/tool/sourcedata/raw/c_T1w.nii")
    describe(top, {"Name": "raw"})
    assert ids(listed(top)) == ["a"]
    describe(top / "derivatives" / "tool" / "sourcedata" / "raw", {"Name": "raw"})
    assert ids(listed(top)) == ["a", "derivatives/tool/sourcedata/raw/c"]
    assert ids(listed(top / "derivatives")) == ["tool/b", "tool/sourcedata/raw/c"], "a folder that the user chose"
    tool = top / "derivatives" / "tool"
    describe(tool)
    touch(tool, "sub/d_T1w.nii")
    assert ids(listed(tool)) == ["sourcedata/raw/c"]
    with pytest.raises(InputError, match=f"in the derivatives dataset {tool}"):
        listed(tool / "sub")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sub-01_space-MNI152_T1w.nii.gz", "results of a tool (space- or desc- in the name)"),
        ("sub-01_desc-preproc_T1w.nii.gz", "results of a tool (space- or desc- in the name)"),
        ("sub-01_part-phase_T1w.nii.gz", "not the magnitude (part-phase in the name)"),
        ("sub-01_part-real_T1w.nii.gz", "not the magnitude (part-real in the name)"),
        ("sub-01_part-imag_T1w.nii.gz", "not the magnitude (part-imag in the name)"),
        ("sub-01_bold.nii.gz", "not named _T1w, as other images are"),
    ],
)
def test_images_are_left_out_by_their_entities(top: Path, name: str, reason: str) -> None:
    touch(top, "sub-01_part-mag_T1w.nii.gz", "spaced-out_desc_T1w.nii", name)
    found = listed(top)
    assert ids(found) == ["spaced-out_desc", "sub-01_part-mag"]
    assert found.notes == (f"left out 1 image(s): {reason}; for example {name}",)


def test_results_of_slant_are_left_out_and_the_scan_beside_them_is_not(top: Path) -> None:
    touch(top, "p/x_T1w.nii.gz", "p/x_other_T1w.nii.gz", *(f"p/{name}" for name in ResultNames("x").all))
    touch(top, "q/y_seg-BrainCOLOR_dseg.nii.gz")
    assert ids(listed(top)) == ["p/x", "p/x_other"]
    (top / "p" / "x_T1w.nii.gz").rename(top / "p" / "x.nii.gz")
    (top / "p" / "x_other_T1w.nii.gz").unlink()
    found = listed(top)
    assert ids(found) == ["p/x", "q/y_seg-BrainCOLOR_dseg"], "no record is beside the second"
    assert found.notes[0].startswith("left out 5 image(s): results of slant, whose records are beside them; for exam")


def test_if_all_images_are_left_out_the_error_says_what_to_do(top: Path) -> None:
    touch(top, "a_desc-x_T1w.nii", "b_part-phase_T1w.nii", "c_space-y_T1w.nii")
    message = (
        r"study: all 3 image\(s\) are left out \(2 results of a tool .*, 1 not the magnitude .*\); files, quoted "
        r"patterns and tables are never filtered"
    )
    with pytest.raises(InputError, match=message):
        listed(top)


def test_files_patterns_and_tables_are_never_filtered(top: Path) -> None:
    touch(top, "a_desc-x_T1w.nii", "b_part-phase_T1w.nii")
    describe(top)
    expected = ["a_desc-x", "b_part-phase"]
    (top / "scans.tsv").write_text("name\tT1w\na_desc-x\ta_desc-x_T1w.nii\nb_part-phase\tb_part-phase_T1w.nii\n")
    for inputs in ((top / "*.nii",), sorted(top.glob("*.nii")), (top / "scans.tsv",)):
        found = listed(*inputs)
        assert ids(found) == expected
        assert found.notes == ()


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (("a_T1w.nii", "a_T1w.nii.gz"), "a_T1w.nii.gz"),
        (("a_T1w.nii.gz", "a_T1w.mgz"), "a_T1w.nii.gz"),
        (("a_T1w.mgz", "a_T1w.nii"), "a_T1w.nii"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "pattern", "files"])
def test_of_files_with_one_name_the_first_by_extension_is_taken(
    top: Path, names: tuple[str, str], taken: str, kind: str
) -> None:
    touch(top, *names, "b_T1w.nii")
    inputs = {"folder": [top], "pattern": [top / "*_T1w.*"], "files": [top / name for name in (*names, "b_T1w.nii")]}
    found = listed(*inputs[kind])
    assert [job.scan.name for job in found.jobs] == [taken, "b_T1w.nii"]
    (note,) = found.notes
    (other,) = set(names) - {taken}
    assert note.startswith("left out 1 image(s): beside a file of the same name, and .nii.gz is taken before .nii")
    assert note.endswith(f"; for example {other}")


def test_a_note_gives_the_number_for_each_reason() -> None:
    reasons = {Path("b"): "first", Path("c"): "second", Path("a"): "first"}
    assert notes_about(reasons) == (
        "left out 2 image(s): first; for example a",
        "left out 1 image(s): second; for example c",
    )
    assert notes_about({}) == ()
