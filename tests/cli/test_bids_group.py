"""The group command that the participant level of `slant-bids` prints, and its notes on what is left out."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pandas as pd
import pytest
from fake_task import InlinePool
from toy import run_slant, toy_model_folder, use_light_found, write_toy_scan

from slant.cli.bids import main


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slant.engine.pools.LocalPool", lambda *_: InlinePool())
    use_light_found(monkeypatch)


def write_scans(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_toy_scan(folder / name)
    return folder


def run_bids(*arguments: object) -> None:
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    assert done.value.code == 0


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype=str)


def printed_command(text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if "the group level writes the tables" in line]
    return shlex.split(line.partition("tables: ")[2])


def test_the_printed_group_command_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"sub-{p}/ses-{s}/anat/sub-{p}_ses-{s}_UNIT1.nii.gz" for p in ("01", "02") for s in ("a", "b", "c")]
    write_scans(tmp_path / "my data", *names)  # without a description
    Path("-filter's.json").write_text('{"t1w": {"suffix": "UNIT1"}}')
    options = ["--skip-bids-validation", "--participant-label", "02", "--session-label", "a", "b", "--n-procs", "1"]
    others = ["--bids-filter-file=-filter's.json", "--model", str(toy_model_folder()), "--work-dir", "a work dir"]
    run_bids("my data", "./-results", "participant", *options, *others)
    program, *words = printed_command(capsys.readouterr().out)
    assert program == "slant-bids"
    assert words[:3] == ["my data", "./-results", "group"]
    assert "--n-procs" not in words, "the group level segments nothing"
    run_bids(*words)
    assert capsys.readouterr().err == ""
    out = tmp_path / "-results"
    assert table(out / "volumes.tsv")["scan"].tolist() == ["sub-02_ses-a", "sub-02_ses-b"]
    assert table(out / "failures.tsv").empty
    assert (out / "sub-02/ses-a/anat/sub-02_ses-a_seg-BrainCOLOR_dseg.nii.gz").is_file()


def test_the_group_command_without_options_is_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_scans(tmp_path / "toys", "sub-01/anat/sub-01_T1w.nii.gz")
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.8.0"}))
    model = str(toy_model_folder())
    run_bids(folder, tmp_path / "out", "participant", "--model", model)
    expected = ["slant-bids", str(folder), str(tmp_path / "out"), "group", "--model", model]
    assert printed_command(capsys.readouterr().out) == expected


def test_both_levels_say_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"sub-01/anat/sub-01_{rest}" for rest in ("T1w.nii.gz", "T1w.nii", "part-phase_T1w.nii.gz")]
    folder = write_scans(tmp_path / "toys", *names)
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.8.0"}))
    for level in ("participant", "group"):
        run_bids(folder, tmp_path / "out", level, "--model", toy_model_folder())
        notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("slant: ")]
        assert [note.partition(": ")[2].partition("(s)")[0] for note in notes] == ["left out 1 image"] * 2
    assert table(tmp_path / "out" / "volumes.tsv")["scan"].tolist() == ["sub-01"]


def test_a_cohort_says_what_is_left_out_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_scans(tmp_path / "in", "a_T1w.nii", "a_desc-x_T1w.nii")
    arguments = ("cohort", folder, tmp_path / "out", "--model", toy_model_folder(), "--print-jobs")
    assert run_slant(*arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("slant segment ")
    assert captured.out.count("\n") == 1
    assert captured.err == (
        "slant: left out 1 image(s): results of a tool (space- or desc- in the name); for example a_desc-x_T1w.nii\n"
    )


def test_results_in_the_folder_of_scans_are_not_segmented_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_scans(tmp_path / "in", "a.nii")
    model = ("--model", toy_model_folder())
    assert run_slant("cohort", folder, folder / "first", *model) == 0
    assert "1 scan(s) segmented" in capsys.readouterr().out
    assert run_slant("cohort", folder, tmp_path / "second", *model) == 0
    captured = capsys.readouterr()
    assert "1 scan(s) segmented" in captured.out
    assert "results of slant, whose records are beside them" in captured.err
