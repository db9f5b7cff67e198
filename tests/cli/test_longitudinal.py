"""`slant longitudinal`, from the arguments to the files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from fake_visits import align_line, fake_visits, write_visits
from toy import content, run_slant, the_line, toy_model_folder

from slant.cli.longitudinal import expected_steps
from slant.cli.progress import NETWORKS, RunState, remaining_s, typical_durations
from slant.errors import InputError, RegistrationError
from slant.timing import StepProgress

NAMES = ("sub-1_ses-1_T1w.nii.gz", "sub-1_ses-2_T1w.nii.gz", "sub-1_ses-3_T1w.nii.gz")


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    return write_visits(tmp_path / "in", *NAMES)


def longitudinal(*arguments: object) -> int:
    return run_slant("longitudinal", *arguments, "--model", toy_model_folder(), "--device", "cpu")


def test_the_files_of_a_subject(scans: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with fake_visits(tmp_path / "calls"):
        assert longitudinal(*scans, out, "--age", 60, 61, 62.5, "--quiet") == 0
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in out.iterdir()) == [
        "longitudinal.json",
        "longitudinal.tsv",
        "sub-1_longitudinal.html",
        "sub-1_longitudinal.json",
        "sub-1_ses-1",
        "sub-1_ses-2",
        "sub-1_ses-3",
        "sub-1_space-MNI305_desc-template_T1w.nii.gz",
        "sub-1_volumes.tsv",
    ], "nothing is left of the work"
    table = pd.read_csv(out / "longitudinal.tsv", sep="\t", na_values="n/a")
    assert len(table) == 3 * 132
    assert sorted(set(table["years"])) == [0, 1, 2.5]
    with fake_visits(tmp_path / "again") as fakes:
        assert longitudinal(*scans[::-1], out, "--age", 62.5, 61, "--age", 60) == 0
    assert fakes.lines() == []
    output = capsys.readouterr().out
    assert f"sub-1_ses-1: {out / 'sub-1_ses-1'}\n" in output
    assert str(out / "sub-1_volumes.tsv") in output
    before = content(out)
    with fake_visits(tmp_path / "forced") as fakes:
        assert longitudinal(*scans, out, "--age", 60, 61, 62.5, "--force") == 0
    assert len(fakes.lines()) == 10
    assert content(out) == before


def test_subject_and_work_directory(scans: list[Path], tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    error = {f"align_subject {' '.join(name[:11] for name in NAMES[:2])}": InputError("not of one subject")}
    with fake_visits(tmp_path / "calls", error):
        assert longitudinal(*scans[:2], out, "--subject", "anna", "--work-dir", work) == 2
    assert sorted(path.name for path in (work / "work/anna").iterdir()) == [
        "sub-1_ses-1.aligned.npz",
        "sub-1_ses-2.aligned.npz",
    ]
    assert not out.exists()
    with fake_visits(tmp_path / "calls"):
        assert longitudinal(*scans[:2], out, "--subject", "anna", "--work-dir", work) == 0
    assert (out / "anna_longitudinal.json").is_file()
    assert list(work.iterdir()) == []


def test_a_visit_that_is_left_out_gives_exit_status_1(
    scans: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {align_line(scans[1]): RegistrationError("no brain")}
    for _ in range(2):
        with fake_visits(tmp_path / "calls", error):
            assert longitudinal(*scans, tmp_path / "out") == 1
        captured = capsys.readouterr()
        assert "slant: sub-1_ses-2 is left out: no brain\n" in captured.err
        assert "slant: warning: the times of all visits are unknown" in captured.err
        assert "sub-1_ses-1: " in captured.out


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], [], "found 1 path(s), expected scans, then the output directory"),
        (NAMES[:1], [], "for a single scan use slant segment SCAN OUT"),
        ((NAMES[0], NAMES[0]), [], "is given 2 times, expected a different file for each visit"),
        (NAMES[:2], ["--age", "60"], "--age: found 1 age(s) for 2 scan(s)"),
        (NAMES[:2], ["--age", "60", "-3"], "--age: found -3"),
        (NAMES[:2], ["--subject", "a/b"], "--subject 'a/b' cannot begin file names"),
        (NAMES[:2], ["--model", "none"], "none"),
    ],
)
def test_bad_input_is_one_line(
    scans: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    names: tuple[str, ...],
    options: list[str],
    message: str,
) -> None:
    assert run_slant("longitudinal", *(tmp_path / "in" / name for name in names), tmp_path / "out", *options) == 2
    assert message in the_line(capsys)
    assert not (tmp_path / "out").exists()


def test_results_of_one_scan_by_itself_are_not_replaced(
    scans: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out" / "sub-1_ses-1"
    folder.mkdir(parents=True)
    (folder / "sub-1_ses-1_record.json").write_text('{"requested": {}}')
    with fake_visits(tmp_path / "calls") as fakes:
        assert longitudinal(*scans, tmp_path / "out") == 2
    assert "already holds results of this scan (sub-1_ses-1_record.json); use --force" in the_line(capsys)
    assert fakes.lines() == []


def test_the_remaining_time_counts_the_steps_of_all_visits() -> None:
    steps = expected_steps(["a", "b"])
    assert list(steps)[:3] == ["load model", "a: read", "a: robust intensities"]
    assert list(steps).index(f"b: {NETWORKS}") < list(steps).index("a: write files")
    typical_s = typical_durations(2, steps)
    state = RunState(0.0, steps=steps)
    whole = remaining_s(state, 0.0, typical_s)
    assert whole == pytest.approx(sum(typical_s.values()))
    later = state.after(StepProgress(f"b: {NETWORKS}"), 10.0)
    assert remaining_s(later, 10.0, typical_s) < whole / 2
