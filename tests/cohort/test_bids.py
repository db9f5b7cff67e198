"""Which images of BIDS datasets are segmented, and what is said about the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slant.cohort.bids import Selection, list_bids_jobs
from slant.cohort.bids_dataset import write_dataset
from slant.engine.job import JobList
from slant.errors import InputError, SettingsError

DESCRIPTION = {"Name": "Toys", "BIDSVersion": "1.8.0"}
MODEL = {"name": "toy", "sha256": "ab" * 32, "licence": "CC0"}


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tmp_path / "toys"


def image(label: str, rest: str = "T1w.nii.gz", folder: str = "anat") -> str:
    return f"sub-{label}/{folder}/sub-{label}_{rest}"


def dataset(top: Path, *images: str, description: object = DESCRIPTION, encoding: str = "utf-8") -> Path:
    for name in images:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).touch()
    (top / "dataset_description.json").write_text(json.dumps(description), encoding=encoding)
    return top


def listed(top: Path, filters: object = None, **selection: Any) -> JobList:
    if filters is not None:
        selection["filter_file"] = top.with_name("filter.json")
        selection["filter_file"].write_text(json.dumps({"t1w": filters}), encoding="utf-8-sig")
    return list_bids_jobs(top, Path("/out"), Selection(**selection))


def scans(job_list: JobList) -> list[str]:
    return [job.scan.name for job in job_list.jobs]


def test_of_two_files_of_one_name_the_compressed_one_is_taken(top: Path) -> None:
    found = listed(dataset(top, image("01"), image("01", "T1w.nii"), image("02", "T1w.nii")))
    assert scans(found) == ["sub-01_T1w.nii.gz", "sub-02_T1w.nii"]
    (note,) = found.notes
    assert note.startswith("left out 1 image(s): beside a file of the same name, and .nii.gz is taken before .nii")
    assert note.endswith("; for example sub-01_T1w.nii")


@pytest.mark.parametrize(
    ("patterns", "ignored"),
    [
        ("sub-02\n", "02"),
        ("sub-02/\n", "02"),
        ("# comment\n\n**/sub-0[23]_T1w.nii.gz\n!sub-03_T1w.nii.gz\n", "02"),
        ("\ufeff/sub-02/anat\r\n", "02"),
        ("/anat\n", ""),
    ],
)
def test_what_bidsignore_lists_is_left_out(top: Path, patterns: str, ignored: str) -> None:
    dataset(top, *(image(label) for label in ("01", "02", "03")))
    (top / ".bidsignore").write_text(patterns, encoding="utf-8", newline="")
    found = listed(top)
    assert scans(found) == [f"sub-{label}_T1w.nii.gz" for label in ("01", "02", "03") if label != ignored]
    note = "left out 1 image(s): listed in .bidsignore; for example sub-02_T1w.nii.gz"
    assert found.notes == ((note,) if ignored else ())


@pytest.mark.parametrize("pattern", ["!", "[z-a]"])
def test_an_invalid_pattern_is_named_with_its_line(top: Path, pattern: str) -> None:
    (dataset(top, image("01")) / ".bidsignore").write_text(f"extra/\n{pattern}\n")
    with pytest.raises(InputError, match=r"\.bidsignore, line 2: .*; expected a pattern as in \.gitignore"):
        listed(top)


def test_results_phase_images_and_invalid_names_are_left_out(top: Path) -> None:
    names = ("part-phase_T1w.nii.gz", "desc-x_T1w.nii.gz", "T1w_T1w.nii.gz", "part-mag_T1w.nii.gz")
    dataset(top, *(image("01", name) for name in names), image("01", "T1w.nii.gz", "func"))
    found = listed(top)
    assert scans(found) == ["sub-01_part-mag_T1w.nii.gz"]
    assert [note.partition(":")[2].strip() for note in found.notes] == [
        "not a valid BIDS name and folder, see --skip-bids-validation; for example sub-01_T1w_T1w.nii.gz",
        "results of a tool (space- or desc- in the name); for example sub-01_desc-x_T1w.nii.gz",
        "not the magnitude (part-phase in the name); for example sub-01_part-phase_T1w.nii.gz",
    ]
    assert scans(listed(top, validate=False)) == ["sub-01_T1w_T1w.nii.gz", "sub-01_part-mag_T1w.nii.gz"]
    assert scans(listed(top, {"part": "phase"})) == ["sub-01_part-phase_T1w.nii.gz"], "asked for"


def test_images_of_no_participant_are_left_out_without_validation(top: Path) -> None:
    found = listed(dataset(top, image("01"), "anat/x_T1w.nii.gz"), validate=False)
    assert scans(found) == ["sub-01_T1w.nii.gz"]
    assert found.notes == ("left out 1 image(s): not in the folder of a participant; for example x_T1w.nii.gz",)


def test_derivatives_in_an_unusual_folder_are_left_out_without_validation(top: Path) -> None:
    dataset(top, image("01"), f"tool/{image('09')}")
    dataset(top / "tool", description=DESCRIPTION | {"DatasetType": "derivative"})
    found = listed(top, validate=False)
    assert scans(found) == ["sub-01_T1w.nii.gz"]
    (note,) = found.notes
    assert f"in the derivatives dataset {top / 'tool'}" in note
    own = dataset(top, description=DESCRIPTION | {"DatasetType": "derivative", "GeneratedBy": [{"Name": "defacing"}]})
    assert scans(listed(own)) == ["sub-01_T1w.nii.gz"], "the dataset that the user gave"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_in_the_description_is_read(top: Path, tmp_path: Path, encoding: str) -> None:
    dataset(top, image("01"), image("01", "T1w_T1w.nii.gz"), encoding=encoding)
    assert scans(listed(top)) == ["sub-01_T1w.nii.gz"], "names are still validated"
    write_dataset(tmp_path / "out", top, MODEL)
    assert "of Toys" in (tmp_path / "out" / "dataset_description.json").read_text("utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"Name": "x",\n "BIDSVersion": }',
            r"dataset_description\.json, line 2, column 17: not valid JSON: Expecting",
        ),
        ('{"Name": "x"}', r"dataset_description\.json has no BIDSVersion, expected for example \{"),
        ("[]", r"dataset_description\.json has no Name and no BIDSVersion, expected"),
        ("\x80", r"dataset_description\.json cannot be read: .* expected JSON in UTF-8"),
    ],
)
def test_an_invalid_description_is_an_error_that_names_the_place(top: Path, text: str, message: str) -> None:
    (dataset(top, image("01")) / "dataset_description.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=f"is not a BIDS dataset: .*{message}.*--skip-bids-validation"):
        listed(top)
    if text != "[]":
        assert scans(listed(top, validate=False)) == ["sub-01_T1w.nii.gz"]


def test_a_dataset_of_mp2rage_says_how_to_ask_for_it(top: Path) -> None:
    dataset(top, image("01", "UNIT1.nii.gz"), image("01", "inv-1_MP2RAGE.nii.gz"))
    with pytest.raises(InputError) as error:
        listed(top)
    for part in (
        "has no T1w image that matches the selection; it has the participants 01; there are other anatomical images",
        "1 UNIT1, for example sub-01_UNIT1.nii.gz",
        '--bids-filter-file FILE, where FILE holds {"t1w": {"suffix": "UNIT1"}}',
    ):
        assert part in str(error.value)
    (job,) = listed(top, {"suffix": "UNIT1"}).jobs
    assert (job.id, job.name, job.folder) == ("sub-01", "sub-01", Path("/out/sub-01/anat"))


def test_a_dataset_without_t1_weighted_images_says_what_it_has(top: Path) -> None:
    dataset(top, image("01", "T2w.nii.gz"), image("01", "FLAIR.nii"), image("02", "T2w.nii.gz"))
    message = r"\(1 FLAIR, for .*_FLAIR.nii; 2 T2w, for .*_T2w.nii.gz\): slant segments T1-weighted images only"
    with pytest.raises(InputError, match=message):
        listed(top)


def test_participants_of_whom_no_image_is_selected_are_named(top: Path) -> None:
    dataset(
        top, image("01"), image("02", "UNIT1.nii.gz"), image("03", "T2w.nii.gz"), image("04", "task-x_bold.nii", "func")
    )
    (note,) = listed(top).notes
    assert note.startswith("no T1w image was selected of 3 participant(s): 02, 03, 04; there are other anatomical")
    assert note.endswith('{"t1w": {"suffix": "UNIT1"}}')
    assert listed(top, participants=("01",)).notes == ()
    assert listed(top, {"subject": ["01"]}).notes == ()


def test_a_filter_may_name_any_entity_and_the_command_line_comes_first(top: Path) -> None:
    dataset(top, image("01"), image("01", "run-1_T1w.nii"), image("02"))
    both = ["sub-01_T1w.nii.gz", "sub-02_T1w.nii.gz"]
    assert scans(listed(top, {"extension": "nii.gz", "datatype": "anat", "suffix": "T1w"})) == both
    assert scans(listed(top, {"run": None, "subject": "02"}, participants=("01",))) == both[:1]
    assert scans(listed(top, {"suffix": ["T1w", "UNIT1"]})) == [both[0], "sub-01_run-1_T1w.nii", both[1]]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"return_type": "id"}, "found return_type, expected entities as pybids names them"),
        ({"run": {"a": 1}}, r'found \{"a": 1\} for run, expected a value or a list of values'),
        ({"run": [[1]]}, r"found \[\[1\]\] for run"),
    ],
)
def test_invalid_filters_are_errors(top: Path, filters: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        listed(dataset(top, image("01")), filters)


def test_images_with_the_same_results_are_one_failure_and_the_rest_goes_on(top: Path) -> None:
    dataset(top, image("01"), image("01", "UNIT1.nii.gz"), image("02", "UNIT1.nii.gz"))
    found = listed(top, {"suffix": ["T1w", "UNIT1"]})
    assert scans(found) == ["sub-01_T1w.nii.gz", "sub-02_UNIT1.nii.gz"]
    (reason,) = found.unreadable.values()
    assert list(found.unreadable) == [str(top / image("01", "UNIT1.nii.gz"))]
    assert reason == (
        f"its results would have the same names as those of {top / image('01')}; rename one, or select one with "
        "--bids-filter-file"
    )
