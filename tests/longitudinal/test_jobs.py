"""Which scans are visits of one subject, of BIDS datasets and of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from slant.engine.job import Job, JobList
from slant.errors import InputError, SettingsError
from slant.io.visit_times import VisitTime
from slant.longitudinal.jobs import GroupedJobs, group_by_subject, visits_of_files


def dataset(top: Path, *scans: str) -> JobList:
    """Jobs as `list_bids_jobs` makes them for these scans, for the folder ``out`` beside the dataset."""
    jobs = []
    for scan in scans:
        path = top / scan
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        name = path.name.removesuffix("_T1w.nii.gz")
        jobs.append(Job(name, path, top.with_name("out") / Path(scan).parent, name))
    return JobList(tuple(jobs), {"closed": "no permission"}, ("a note",))


def image(subject: str, session: str, more: str = "") -> str:
    name = "_".join(part for part in (subject, session, more, "T1w.nii.gz") if part)
    return "/".join(part for part in (subject, session, "anat", name) if part)


def grouped(top: Path, scans: Sequence[str], sessions: Sequence[str] = ()) -> GroupedJobs:
    return group_by_subject(dataset(top, *scans), top, top.with_name("out"), sessions)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tmp_path / "toys"


def ids(job_list: JobList) -> list[str]:
    return [job.id for job in job_list.jobs]


SCANS = [image("sub-1", "ses-a"), image("sub-1", "ses-b"), image("sub-2", "ses-a"), image("sub-3", "", "run-1")]


def test_sessions_of_a_subject_become_one_job_and_single_sessions_stay(top: Path) -> None:
    found = grouped(top, [*SCANS, image("sub-3", "", "run-2")])
    assert ids(found.job_list) == ["sub-1", "sub-2_ses-a", "sub-3_run-1", "sub-3_run-2"]
    job, out = found.job_list.jobs[0], top.with_name("out")
    assert job == Job("sub-1", top / SCANS[0], out / "sub-1", "sub-1")
    assert ids(found.scans) == ["sub-1_ses-a", "sub-1_ses-b", "sub-2_ses-a", "sub-3_run-1", "sub-3_run-2"]
    assert [(v.name, v.session, v.scan, v.folder) for v in found.subjects["sub-1"].visits] == [
        ("sub-1_ses-a", "ses-a", top / SCANS[0], out / "sub-1/ses-a/anat"),
        ("sub-1_ses-b", "ses-b", top / SCANS[1], out / "sub-1/ses-b/anat"),
    ]
    assert found.job_list.unreadable == {"closed": "no permission"}
    assert found.job_list.notes == (
        "a note",
        "2 participant(s) have one session and are segmented by themselves: sub-2, sub-3",
    )


def test_of_several_images_of_a_session_that_of_most_sessions_is_taken(top: Path) -> None:
    scans = [
        *(image("sub-1", "ses-a", more) for more in ("acq-x_run-1", "acq-x_run-2", "run-2")),
        *(image("sub-1", "ses-b", more) for more in ("acq-x_run-2", "run-2")),
        image("sub-1", "ses-c", "run-2"),
        *(image("sub-1", "ses-d", more) for more in ("acq-y", "acq-z")),
    ]
    found = grouped(top, scans)
    assert [visit.name for visit in found.subjects["sub-1"].visits] == [
        *(f"sub-1_ses-{session}_run-2" for session in "abc"),
        "sub-1_ses-d_acq-y",
    ]
    assert found.job_list.notes[1] == (
        "left out 4 image(s) of sessions with several, of which one is taken per session: sub-1_ses-a_acq-x_run-1, "
        "sub-1_ses-a_acq-x_run-2, sub-1_ses-b_acq-x_run-2, sub-1_ses-d_acq-z; choose with --bids-filter-file"
    )


def test_sessions_without_an_image_are_named(top: Path) -> None:
    (top / "sub-1/ses-empty/func").mkdir(parents=True)
    (top / "sub-2").mkdir()
    (top / "sub-2/sub-2_sessions.tsv").write_text("session_id\tage\nses-a\t60\nses-later\tn/a\n")
    note = "no image was selected of 2 session(s): sub-1 ses-empty, sub-2 ses-later"
    assert note in grouped(top, SCANS).job_list.notes
    assert note not in "".join(grouped(top, SCANS, ["ses-a", "b"]).job_list.notes)


def test_times_are_those_of_the_tables_and_a_damaged_table_fails_its_subject_only(top: Path) -> None:
    scans = [*SCANS, image("sub-4", "ses-1"), image("sub-4", "ses-2")]
    for subject, second in (("sub-1", "61"), ("sub-4", "old")):
        (top / subject).mkdir(parents=True)
        table = f"session_id\tage\nses-a\t60\nses-b\t{second}\nses-1\t70\nses-2\t{second}\n"
        (top / subject / f"{subject}_sessions.tsv").write_text(table)
    found = grouped(top, scans)
    assert [visit.time for visit in found.subjects["sub-1"].visits] == [VisitTime(age=60), VisitTime(age=61)]
    assert "sub-4" not in found.subjects
    assert "found age 'old', expected years" in found.job_list.unreadable[str(top / "sub-4")]


def test_a_job_stands_for_the_first_scan_that_exists(top: Path) -> None:
    images = dataset(top, *SCANS)
    (top / SCANS[0]).unlink()
    (top / SCANS[0]).symlink_to("nowhere")
    assert group_by_subject(images, top, top.with_name("out")).job_list.jobs[0].scan == top / SCANS[1]


def files(folder: Path, *names: str) -> list[Path]:
    return [folder / name for name in names]


def test_visits_are_named_by_their_files(tmp_path: Path) -> None:
    scans = files(tmp_path, "sub-1/ses-1/sub-1_ses-1_T1w.nii.gz", "other/sub-1_ses-b.mgz")
    found = visits_of_files(scans, tmp_path / "out", ages=(60, 61))
    assert (found.subject, found.folder) == ("sub-1", tmp_path / "out")
    assert [(v.name, v.session, v.folder.name, v.time.age) for v in found.visits] == [
        ("sub-1_ses-1", "ses-1", "sub-1_ses-1", 60),
        ("sub-1_ses-b", "ses-b", "sub-1_ses-b", 61),
    ]
    assert visits_of_files(scans, tmp_path / "out", "me").subject == "me"


def test_files_of_the_same_name_are_named_by_their_folders(tmp_path: Path) -> None:
    found = visits_of_files(files(tmp_path, "a/ses-1/T1.nii", "a/ses-2/T1.nii"), tmp_path / "anna")
    assert found.subject == "anna"
    assert [(v.name, v.prefix, v.session, v.folder) for v in found.visits] == [
        (f"ses-{i}/T1", "T1", f"ses-{i}", tmp_path / f"anna/ses-{i}/T1") for i in (1, 2)
    ]


@pytest.mark.parametrize(
    ("names", "ages", "kind", "message"),
    [
        (
            ["a.nii"],
            None,
            SettingsError,
            r"found 1 scan\(s\), expected at least 2 visits .* use slant segment",
        ),
        (["a.nii", "b.nii", "x/../a.nii"], None, SettingsError, r"a\.nii is given 2 times, expected a different file"),
        (
            ["a.nii", "a.nii.gz"],
            None,
            InputError,
            r"a\.nii and .*a\.nii\.gz would have .* names, a; rename one",
        ),
        (["a.nii", "b.txt"], None, InputError, r"b\.txt: found the extension '\.txt'"),
        (["sub-1_a.nii", "sub-2_a.nii"], None, SettingsError, "found scans of sub-1, sub-2, .* give --subject NAME"),
        (["a.nii", "b.nii"], (60.0,), SettingsError, r"--age: found 1 age\(s\) for 2 scan\(s\)"),
    ],
)
def test_bad_files_are_errors(
    tmp_path: Path, names: list[str], ages: tuple[float, ...] | None, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        visits_of_files(files(tmp_path, *names), tmp_path / "out", None, ages)
