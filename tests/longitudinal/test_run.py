"""The visits of a subject: results that do not depend on their order, resuming, and visits that are left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_visits import align_line, fake_visits, write_visits
from toy import content, mirroring_model, toy_model, toy_model_folder

from slant.config import RunReportSettings, SegmentSettings
from slant.errors import InputError, OutputError, RegistrationError, SettingsError
from slant.io.models import load_model
from slant.io.subject_result import SubjectResult, read_subject
from slant.longitudinal.jobs import visits_of_files
from slant.longitudinal.run import SubjectOutput, segment_subject
from slant.longitudinal.visits import SubjectVisits, check_outputs
from slant.run import Request

REQUEST = Request(SegmentSettings(model=str(toy_model_folder()), device="cpu", threads=1))
NAMES = ("sub-1_ses-2_T1w.nii.gz", "sub-1_ses-9_T1w.nii.gz", "sub-1_ses-10_T1w.nii.gz")
IDS = [name.removesuffix("_T1w.nii.gz") for name in NAMES]
Error = BaseException


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    return write_visits(tmp_path / "in", *NAMES)


def subject_of(scans: list[Path], out: Path, ages: tuple[float, ...] | None = None) -> SubjectVisits:
    return visits_of_files(scans, out, None, ages)


def run(subject: SubjectVisits, request: Request = REQUEST, *, force: bool = False) -> SubjectResult:
    return segment_subject(subject, toy_model(), request, SubjectOutput(subject.folder / ".slant/work", None, force))


def faked(
    subject: SubjectVisits, errors: dict[str, Error] | None = None, **options: bool
) -> tuple[SubjectResult, list[str]]:
    """The result, and the calls that it took."""
    tally = subject.folder.parent / "calls"
    tally.parent.mkdir(exist_ok=True)
    tally.unlink(missing_ok=True)
    with fake_visits(tally, errors) as fakes:
        return run(subject, **options), fakes.lines()


def results(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in content(out).items() if not name.startswith(".slant/")}


def test_the_files_of_a_subject_and_its_visits(scans: list[Path], tmp_path: Path) -> None:
    result, calls = faked(subject_of(scans, tmp_path / "out", (60.0, 61.0, 62.5)))
    assert calls == [
        *(align_line(scan) for scan in scans),
        f"align_subject {' '.join(IDS)}",
        *(f"visit_votes {name}" for name in IDS),
        *(f"label_visit {name}" for name in IDS),
    ], "the visits are in the order of the numbers in their names"
    assert {name for name in results(tmp_path / "out") if "/" not in name} == {
        "sub-1_longitudinal.html",
        "sub-1_longitudinal.json",
        "sub-1_space-MNI305_desc-template_T1w.nii.gz",
        "sub-1_volumes.tsv",
    }
    assert not list((tmp_path / "out/.slant/work").iterdir()), "nothing is kept of a finished subject"
    assert [visit.name for visit in result.visits] == IDS
    assert result.years == (0, 1, 2.5)
    read = read_subject(tmp_path / "out", "sub-1")
    assert read.record.plain() == result.record.plain()
    assert (read.volumes, read.grades) == (result.volumes, result.grades)
    shas = sorted(visit.sha256 for visit in result.visits)
    for name in IDS:
        record = json.loads((tmp_path / "out" / name / f"{name}_record.json").read_text())
        assert record["requested"]["longitudinal"] == {"visits": shas}
        assert [t["name"] for t in record["timings"]][:2] == ["read", "networks and vote"]
        assert (tmp_path / "out" / name / f"{name}_seg-BrainCOLOR_dseg.nii.gz").is_file()
    page = (tmp_path / "out/sub-1_longitudinal.html").read_text()
    assert f"{IDS[0]}/{IDS[0]}_report.html" in page


def test_the_order_of_the_visits_changes_nothing(scans: list[Path], tmp_path: Path) -> None:
    ages = (62.0, 61.0, 60.0)
    faked(subject_of(scans, tmp_path / "a" / "out", ages))
    faked(subject_of(scans[::-1], tmp_path / "b" / "out", ages[::-1]))
    assert results(tmp_path / "a" / "out") == results(tmp_path / "b" / "out")
    assert [v.name for v in read_subject(tmp_path / "a" / "out", "sub-1").visits] == IDS[::-1], "by time"


POINTS = [
    *("align_visit", f"align_subject {' '.join(IDS)}", f"visit_votes {IDS[0]}", f"visit_votes {IDS[2]}"),
    *(f"label_visit {IDS[0]}", f"label_visit {IDS[2]}", "the files of the subject"),
]


@pytest.mark.parametrize("point", POINTS)
def test_an_interrupted_run_continues(
    scans: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    subject, once_more = subject_of(scans, tmp_path / "out"), f"align_subject {' '.join(IDS)}"
    point = align_line(scans[1]) if point == "align_visit" else point
    with monkeypatch.context() as patched, fake_visits(tmp_path / "first", {point: KeyboardInterrupt()}) as fakes:
        if point == POINTS[-1]:
            patched.setattr("slant.longitudinal.files.trajectories_page", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(subject)
        before = fakes.lines()
    _, after = faked(subject)
    assert set(before) & set(after) - {once_more} == {point} - {once_more, POINTS[-1]}, "all else is kept"
    assert len(set(before) | set(after)) == 10
    faked(replace_folder(subject, tmp_path / "whole" / "out"))
    assert results(tmp_path / "out") == results(tmp_path / "whole" / "out")


def test_votes_that_were_kept_are_of_the_same_setting_for_mirror_images(scans: list[Path], tmp_path: Path) -> None:
    subject, model = subject_of(scans, tmp_path / "out"), load_model(str(mirroring_model(tmp_path / "model")))
    output, first = SubjectOutput(tmp_path / "work"), {f"label_visit {IDS[0]}": KeyboardInterrupt()}
    with fake_visits(tmp_path / "first", first), pytest.raises(KeyboardInterrupt):
        segment_subject(subject, model, REQUEST, output)
    mirrored = replace(REQUEST, settings=replace(REQUEST.settings, mirror=True))
    with fake_visits(tmp_path / "calls") as fakes:
        result = segment_subject(subject, model, mirrored, output)
    assert [line.split()[0] for line in fakes.lines()] == ["align_subject", *["visit_votes"] * 3, *["label_visit"] * 3]
    assert result.record.settings["mirror"] is True
    with fake_visits(tmp_path / "again") as fakes:
        segment_subject(subject, model, mirrored, output)
        with pytest.raises(SettingsError, match="--mirror needs networks that label mirror images"):
            run(replace_folder(subject, tmp_path / "other"), mirrored)
        assert fakes.lines() == []


def interrupted(*_: object) -> str:
    raise KeyboardInterrupt


def replace_folder(subject: SubjectVisits, out: Path) -> SubjectVisits:
    visits = (replace(v, folder=out / v.folder.relative_to(subject.folder)) for v in subject.visits)
    return replace(subject, folder=out, visits=tuple(visits))


def test_a_finished_subject_is_not_segmented_again(scans: list[Path], tmp_path: Path) -> None:
    subject = subject_of(scans, tmp_path / "out")
    faked(subject)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert faked(subject)[1] == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert len(faked(subject, force=True)[1]) == 10


def test_new_times_only_rewrite_the_files_of_the_subject(scans: list[Path], tmp_path: Path) -> None:
    faked(subject_of(scans, tmp_path / "out"))
    result, calls = faked(subject_of(scans, tmp_path / "out", (63.0, 62.0, 60.0)))
    assert (calls, result.years) == ([], (0, 2, 3))
    faked(subject_of(scans, tmp_path / "new" / "out", (63.0, 62.0, 60.0)))
    assert results(tmp_path / "out") == results(tmp_path / "new" / "out")


def test_one_lost_visit_is_labelled_again_and_others_are_kept(scans: list[Path], tmp_path: Path) -> None:
    subject = subject_of(scans, tmp_path / "out")
    faked(subject)
    (tmp_path / "out" / IDS[1] / f"{IDS[1]}_volumes.tsv").unlink(missing_ok=True)
    (tmp_path / "out" / IDS[1] / f"{IDS[1]}_record.json").unlink()
    assert [line for line in faked(subject)[1] if line.startswith("label")] == [f"label_visit {IDS[1]}"]


@pytest.mark.parametrize("kind", ["unreadable", "aligned", "labelled", "written"])
def test_a_visit_that_fails_is_left_out_by_name(
    scans: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    subject, good = subject_of(scans, tmp_path / "out"), scans[1].read_bytes()
    errors: dict[str, Error] = {}
    if kind == "unreadable":
        scans[1].write_bytes(good[:1000])
    elif kind == "aligned":
        errors[align_line(scans[1])] = RegistrationError("no brain\nwas found")
    elif kind == "labelled":
        errors[f"label_visit {IDS[1]}"] = InputError("not possible")
    else:
        subject.visits[1].folder.parent.mkdir()
        subject.visits[1].folder.write_text("a file")
    result, _ = faked(subject, errors)
    assert [visit.name for visit in result.visits] == [IDS[0], IDS[2]]
    (out,) = result.record.left_out
    assert (out.name, "\n" in out.reason, out.reason != "") == (IDS[1], False, True)
    assert (out.similarity is None) == (kind in ("unreadable", "aligned"))
    again = faked(subject)[1]
    assert (again == []) == (out.similarity is None), "tried again if the file was not the cause"
    if kind == "unreadable":
        scans[1].write_bytes(good)
        result, again = faked(subject)
        assert len(result.visits) == 3
        assert sum(line.startswith("label_visit") for line in again) == 3, "the visits know each other"


def test_too_few_visits_are_an_error_with_all_reasons(scans: list[Path], tmp_path: Path) -> None:
    errors: dict[str, Error] = {align_line(scans[i]): RegistrationError(f"reason {i}") for i in (0, 2)}
    subject = subject_of(scans, tmp_path / "out")
    with pytest.raises(InputError) as caught:
        faked(subject, errors)
    assert str(caught.value) == (
        f"sub-1: found 1 visit(s) that can be segmented, expected at least 2; left out: {IDS[0]}: reason 0; {IDS[2]}: "
        "reason 2; correct them, or segment single scans with slant segment"
    )
    assert results(tmp_path / "out") == {}


def test_visits_of_different_subjects_are_an_error(scans: list[Path], tmp_path: Path) -> None:
    error = InputError("not of one subject")
    with pytest.raises(InputError, match="not of one subject"):
        faked(subject_of(scans, tmp_path / "out"), {f"align_subject {' '.join(IDS)}": error})
    assert results(tmp_path / "out") == {}


def test_results_of_other_runs_are_not_replaced_without_force(scans: list[Path], tmp_path: Path) -> None:
    subject, identity = subject_of(scans, tmp_path / "out"), toy_model().identity
    two = subject_of(scans[:2], tmp_path / "out")
    faked(two)
    check_outputs(subject, REQUEST, identity, force=False)
    other = replace(REQUEST, settings=replace(REQUEST.settings, interpolation="nearest"))
    for bad_subject, request in ((subject_of(scans[1:], tmp_path / "out"), REQUEST), (two, other)):
        with pytest.raises(OutputError, match=r"already holds results of .* use --force"):
            check_outputs(bad_subject, request, identity, force=False)
        check_outputs(bad_subject, request, identity, force=True)
    (tmp_path / "out" / IDS[0] / f"{IDS[0]}_record.json").write_text("{}")
    with pytest.raises(OutputError, match="already holds results of this scan"):
        check_outputs(two, REQUEST, identity, force=False)


def test_no_reports(scans: list[Path], tmp_path: Path) -> None:
    subject = subject_of(scans[:2], tmp_path / "out")
    with fake_visits(tmp_path / "calls"):
        run(subject, replace(REQUEST, reports=RunReportSettings(report=False)))
    assert (tmp_path / "out/sub-1_longitudinal.html").is_file()


def test_listeners_hear_the_names_of_the_visits(scans: list[Path], tmp_path: Path) -> None:
    heard: list[str] = []
    with fake_visits(tmp_path / "calls"):
        segment_subject(
            subject_of(scans[:2], tmp_path / "out"),
            toy_model(),
            REQUEST,
            SubjectOutput(tmp_path / "work"),
            listener=lambda progress: heard.append(progress.timing.name) if progress.timing else None,
        )
    assert [name for name in heard if name.startswith(IDS[0])] == [
        f"{IDS[0]}: {step}" for step in ("read", "brain", "quality", "overlay and reports", "write files")
    ]
