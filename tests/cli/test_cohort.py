"""`slant cohort`, from the arguments to the tables."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_task import InlinePool
from toy import (
    content,
    forbid_pipeline,
    mirroring_model,
    run_slant,
    the_line,
    toy_model_folder,
    use_light_found,
    write_toy_scan,
)

from slant.cohort.task import SegmentTask, model_sha256
from slant.config import SegmentSettings
from slant.engine.job import Job, Worker
from slant.errors import ModelError


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slant.engine.pools.LocalPool", lambda *_: InlinePool())


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for name in ("p1/T1", "p2/T1"):
        path = tmp_path / "in" / f"{name}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        write_toy_scan(path)
    return tmp_path / "in"


def cohort(*arguments: object) -> int:
    return run_slant("cohort", *arguments, "--model", toy_model_folder())


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", na_values="n/a", index_col=0)


def test_a_cohort_writes_results_and_tables(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    out = tmp_path / "out"
    assert cohort(scans, out) == 0
    assert "2 scan(s) segmented, 0 already done, 0 failed" in capsys.readouterr().out
    table, described = read(out / "volumes.tsv"), json.loads((out / "volumes.json").read_text("utf-8"))
    assert list(table.index) == ["p1/T1", "p2/T1"]
    assert {"scan", *table.columns} == set(described)
    assert list(table.columns[:4]) == ["grade", "reasons", "expected_dice", "registration_similarity"]
    assert list(table.columns[4:8]) == ["regions_missing", "warnings", "runtime_s", "3V"]
    scan_table = pd.read_csv(out / "p1" / "T1" / "T1_seg-BrainCOLOR_volumes.tsv", sep="\t", na_values="n/a")
    regions = scan_table[scan_table["level"] == "region"].set_index("abbreviation")
    assert table.loc["p1/T1", list(regions.index)].astype(float).tolist() == regions["volume_mm3"].tolist()
    assert len(regions) == 132
    etiv = scan_table.loc[scan_table["level"] == "intracranial", "volume_mm3"].item()
    assert table.loc["p1/T1", "eTIV"] == etiv
    assert described["R-Hip"]["LongName"] == "Right Hippocampus"
    assert described["R-Hip"]["Units"] == "mm3"
    assert (out / "failures.tsv").read_text() == "name\treason\tscan\tlog\n"
    assert "2 scans segmented" in (out / "group.html").read_text("utf-8")
    before = content(out)
    assert cohort(scans, out) == 0
    assert "0 scan(s) segmented, 2 already done, 0 failed" in capsys.readouterr().out
    assert content(out) == before


def test_a_bad_scan_is_listed_and_the_exit_status_is_1(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    bad = scans / "p1" / "T1_T1w.nii.gz"
    bad.write_bytes(bad.read_bytes()[:5000])
    out = tmp_path / "out"
    assert cohort(scans, out) == 1
    captured = capsys.readouterr()
    assert f"slant: p1/T1 failed: {bad}: the compressed file is damaged or incomplete" in captured.err
    assert "1 failure(s) with reasons" in captured.out
    failures = read(out / "failures.tsv")
    assert list(failures.index) == ["p1/T1"]
    assert (out / failures.loc["p1/T1", "log"]).is_file()
    assert list(read(out / "volumes.tsv").index) == ["p2/T1"]
    good = bad.with_name("good")
    good.write_bytes((scans / "p2" / "T1_T1w.nii.gz").read_bytes())
    good.replace(bad)
    assert cohort(scans, out) == 0
    assert list(read(out / "failures.tsv").index) == []
    bad.write_bytes(b"changed")
    assert cohort(scans, out) == 1
    assert list(read(out / "failures.tsv").index) == ["p1/T1"]
    assert list(read(out / "volumes.tsv").index) == ["p1/T1", "p2/T1"], "the older results are kept"
    bad.unlink()
    assert cohort(scans, out) == 0
    assert list(read(out / "failures.tsv").index) == [], "the scan no longer exists"


def test_two_runs_share_one_table(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_light_found(monkeypatch)
    out = tmp_path / "out"
    for subject in ("p2", "p1"):
        (tmp_path / f"{subject}.tsv").write_text(f"name\tT1w\n{subject}\tin/{subject}/T1_T1w.nii.gz\n")
        assert cohort(tmp_path / f"{subject}.tsv", out) == 0
    assert list(read(out / "volumes.tsv").index) == ["p1", "p2"]


def test_a_cohort_takes_the_results_of_printed_jobs_as_finished(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    (tmp_path / "scans.tsv").write_text("name\tT1w\nit's 1\tin/p1/T1_T1w.nii.gz\nT1\tin/p2/T1_T1w.nii.gz\n")
    arguments = (
        tmp_path / "scans.tsv",
        tmp_path / "out",
        "--interpolation",
        "nearest",
        "--volume",
        0,
        "--skull-stripped",
    )
    assert cohort(*arguments, "--print-jobs") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        program, *rest = shlex.split(line)
        assert program == "slant"
        assert run_slant(*rest) == 0
    capsys.readouterr()
    assert cohort(*arguments, "--print-jobs") == 0
    assert capsys.readouterr().out == ""
    assert cohort(*arguments) == 0
    assert "0 scan(s) segmented, 2 already done" in capsys.readouterr().out
    assert list(read(tmp_path / "out" / "volumes.tsv").index) == ["T1", "it's 1"]
    assert cohort(*arguments[:2], "--print-jobs") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2, "the settings are different"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scans",), "expected scans and then the output directory"),
        (("{in}", "{in}/p1/T1_T1w.nii.gz"), "is a file; the last path must be the output directory"),
        (("{in}", "{out}", "--scheduler", "tcp://x:1", "--cluster", "c.toml"), "give only one of them"),
        (("{in}", "{out}", "--scheduler", "tcp://x:1", "--jobs", "2"), "--jobs is for this machine"),
    ],
)
def test_wrong_usage_is_an_error_of_one_line(
    scans: Path, tmp_path: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {"in": scans, "out": tmp_path / "out"}
    assert cohort(*(argument.format(**paths) for argument in arguments)) == 2
    assert message in the_line(capsys)
    assert not (tmp_path / "out").exists()


def test_a_missing_model_is_an_error_before_the_run(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_slant("cohort", scans, tmp_path / "out", "--model", "none") == 2
    assert "unknown model" in the_line(capsys)
    (tmp_path / "empty").mkdir()
    assert run_slant("cohort", scans, tmp_path / "out", "--model", tmp_path / "empty") == 2
    assert "manifest.json: No such file or directory; expected a folder written by slant train" in the_line(capsys)
    assert not (tmp_path / "out").exists()


# The task


RECORD: dict[str, Any] = {
    "model": {"sha256": "m"},
    "settings": {"device": "cpu", "interpolation": "multilabel", "skull_stripped": True},
    "requested": {"skull_stripped": None, "volume": None, "device": "auto"},
}


@pytest.mark.parametrize(
    ("settings", "volume", "model", "expected"),
    [
        ({}, None, "m", True),
        ({"threads": 3, "model": "elsewhere"}, None, "m", True),
        ({"device": "cpu"}, None, "m", True),
        ({"device": "cuda:0"}, None, "m", False),
        ({"interpolation": "nearest"}, None, "m", False),
        ({"mirror": True}, None, "m", False),
        ({"skull_stripped": True}, None, "m", False),
        ({}, 0, "m", False),
        ({}, None, "n", False),
    ],
)
def test_a_record_fits_if_model_and_label_settings_are_the_same(
    settings: dict[str, Any], volume: int | None, model: str, expected: bool
) -> None:
    task, job = SegmentTask(SegmentSettings(**settings), model, volume), Job("a", Path("a"), Path("out"), "a")
    assert task.fits(job, RECORD) == expected
    assert not task.fits(job, {**RECORD, "requested": None})
    same = SegmentTask(SegmentSettings(), "m").key(job) == task.key(job)
    assert same == (expected and "device" not in settings)


def test_mirror_images_that_the_model_cannot_label_are_refused_before_the_first_scan(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forbid_pipeline(monkeypatch)
    for option in ((), ("--print-jobs",)):
        assert cohort(scans, tmp_path / "out", "--mirror", *option) == 2
        assert "--mirror needs networks that label mirror images" in the_line(capsys)
    assert not (tmp_path / "out").exists()


def test_labelling_mirror_images_is_another_setting_than_not(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    command = ("cohort", scans, tmp_path / "out", "--model", mirroring_model(tmp_path / "model"))
    counts = []
    for options in ((), ("--mirror",), ("--mirror",)):
        assert run_slant(*command, *options) == 0
        counts.append(capsys.readouterr().out.split(";")[0])
    assert counts == [
        "2 scan(s) segmented, 0 already done, 0 failed",
        "2 scan(s) segmented, 0 already done, 0 failed",
        "0 scan(s) segmented, 2 already done, 0 failed",
    ]
    record = json.loads((tmp_path / "out/p1/T1/T1_record.json").read_text("utf-8"))
    assert (record["settings"]["mirror"], record["requested"]["mirror"]) == (True, True)
    assert run_slant(*command, "--mirror", "--print-jobs", "--force") == 0
    assert all("--mirror" in shlex.split(line) for line in capsys.readouterr().out.splitlines())


def test_a_model_that_changed_during_the_run_is_an_error(scans: Path, tmp_path: Path) -> None:
    task = SegmentTask(SegmentSettings(model=str(toy_model_folder())), "0" * 64)
    job = Job("a", scans / "p1" / "T1_T1w.nii.gz", tmp_path / "out", "a")
    with pytest.raises(ModelError, match=r"has the hash .* here, expected 000000000000; it changed"):
        task(job, tmp_path / "staging", Worker(1))
    assert model_sha256(str(toy_model_folder())) != "0" * 64


def test_the_output_file_prefix_can_be_chosen(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    scan = scans / "p1" / "T1_T1w.nii.gz"
    assert run_slant("segment", scan, tmp_path / "out", "--model", toy_model_folder(), "--name", "one") == 0
    assert (tmp_path / "out" / "one_record.json").is_file()
    capsys.readouterr()
    assert run_slant("segment", scan, tmp_path / "out", "--name", "../one") == 2
    assert "--name '../one' cannot begin file names" in the_line(capsys)
