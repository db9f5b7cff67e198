"""`slant-bids --longitudinal`: subjects as jobs of the engine, their failures, and the tables of the group level."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from fake_task import InlinePool
from fake_visits import Fakes, FakeTask, align_line, fake_visits, write_visits
from toy import toy_model_folder, use_light_found

from slant.cli.bids import main
from slant.cohort.bids import Selection, list_bids_jobs
from slant.cohort.run import make_cohort
from slant.config import SegmentSettings
from slant.engine.pools import LocalPool
from slant.engine.resources import Resources, WorkerPlan
from slant.engine.run import run_jobs
from slant.errors import InputError
from slant.longitudinal.cohort import make_longitudinal
from slant.run import Request

SCANS = [
    *(f"sub-1/ses-{i}/anat/sub-1_ses-{i}_T1w.nii.gz" for i in (1, 2, 3)),
    *(f"sub-2/ses-{i}/anat/sub-2_ses-{i}_T1w.nii.gz" for i in (1, 2)),
    "sub-3/ses-1/anat/sub-3_ses-1_T1w.nii.gz",
]
IDS = [Path(scan).name.removesuffix("_T1w.nii.gz") for scan in SCANS]
YEARS = {"sub-1": ["0.0", "1.0", "2.0"], "sub-2": ["n/a"]}
MODEL = ("--model", toy_model_folder(), "--device", "cpu")


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slant.engine.pools.LocalPool", lambda *_: InlinePool())
    use_light_found(monkeypatch)


@pytest.fixture
def bids_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "bids"
    write_visits(folder, *SCANS)
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "Toys", "BIDSVersion": "1.8.0"}))
    (folder / "participants.tsv").write_text("participant_id\tsex\nsub-1\tF\nsub-2\tM\nsub-3\tF\n")
    (folder / "sub-1/sub-1_sessions.tsv").write_text("session_id\tage\nses-1\t60\nses-2\t61\nses-3\t62\n")
    return folder


@pytest.fixture
def fakes(tmp_path: Path) -> Iterator[Fakes]:
    with fake_visits(tmp_path / "calls", {}) as found:
        yield found


def app(*arguments: object) -> int:
    try:
        main([str(argument) for argument in (*arguments, *MODEL)])
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", keep_default_na=False)


def test_subjects_with_several_sessions_and_others_in_one_run(
    bids_dir: Path, tmp_path: Path, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert app(bids_dir, out, "participant", "--longitudinal") == 0
    captured = capsys.readouterr()
    assert "1 participant(s) have one session and are segmented by themselves: sub-3" in captured.err
    assert "3 participant(s) and single scan(s) segmented, 0 already done, 0 failed" in captured.out
    assert f"{out} group --model {toy_model_folder()} --longitudinal" in captured.out, "the command of the group level"
    assert len(fakes.lines()) == 3 * 3 + 1 + 2 * 3 + 1
    for scan, name in zip(SCANS, IDS, strict=True):
        record = json.loads((out / Path(scan).parent / f"{name}_record.json").read_text())
        assert len(record["requested"].get("longitudinal", {"visits": []})["visits"]) == [0, 3, 2, 0][int(name[4])]
    assert not (out / ".slant" / "work").exists()
    assert app(bids_dir, out, "participant", "--longitudinal") == 0
    assert "0 participant(s) and single scan(s) segmented, 3 already done" in capsys.readouterr().out
    (out / ".slant" / "index.jsonl").unlink()
    assert app(bids_dir, out, "participant", "--longitudinal") == 0
    assert "0 participant(s) and single scan(s) segmented, 3 already done" in capsys.readouterr().out
    assert len(fakes.lines()) == 17
    assert app(bids_dir, out, "group", "--longitudinal") == 0
    assert "visits of 2 participant(s): " in capsys.readouterr().out
    assert table(out / "volumes.tsv")["scan"].tolist() == IDS
    assert table(out / "failures.tsv").empty
    long = table(out / "longitudinal.tsv")
    assert len(long) == 5 * 132
    assert set(long["sex"]) == {"F", "M"}
    years = long.groupby("participant_id")["years"].unique()
    assert {name: list(values) for name, values in years.items()} == YEARS
    assert {"years", "volume_mm3"} <= json.loads((out / "longitudinal.json").read_text()).keys()
    assert app(bids_dir, out, "participant", "--longitudinal", "--force", "--participant-label", "2") == 0
    assert len(fakes.lines()) == 17 + 7


def test_results_of_scans_by_themselves_and_of_subjects_do_not_count_for_each_other(
    bids_dir: Path, tmp_path: Path, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert app(bids_dir, out, "participant") == 0
    assert app(bids_dir, out, "participant", "--longitudinal") == 0
    assert "2 participant(s) and single scan(s) segmented, 1 already done" in capsys.readouterr().out
    assert app(bids_dir, out, "participant", "--participant-label", "1", "--session-label", "2") == 0
    assert "1 scan(s) segmented" in capsys.readouterr().out
    assert app(bids_dir, out, "group", "--longitudinal") == 0
    assert set(table(out / "longitudinal.tsv")["participant_id"]) == {"sub-2"}, "of sub-1, one is of another run"
    failures = table(out / "failures.tsv")
    assert failures["name"].tolist() == ["sub-1"]
    assert "segmented again by themselves; run the participant level with --longitudinal" in failures["reason"][0]
    before = len(fakes.lines())
    assert app(bids_dir, out, "participant", "--longitudinal") == 0
    assert "1 participant(s) and single scan(s) segmented, 2 already done" in capsys.readouterr().out
    assert [line for line in fakes.lines()[before:] if line.startswith("label")] == ["label_visit sub-1_ses-2"]


def test_left_out_visits_are_failures_until_they_are_corrected(
    bids_dir: Path, tmp_path: Path, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    out, bad = tmp_path / "out", bids_dir / SCANS[0]
    good = bad.read_bytes()
    bad.write_bytes(good[:1000])
    for done in (3, 0):
        assert app(bids_dir, out, "participant", "--longitudinal") == 1
        captured = capsys.readouterr()
        assert f"{done} participant(s) and single scan(s) segmented" in captured.out
        assert captured.err.count("slant: sub-1_ses-1 failed: ") == 1
        assert app(bids_dir, out, "group", "--longitudinal") == 0
        failures = table(out / "failures.tsv")
        assert failures["name"].tolist() == ["sub-1_ses-1"]
        assert failures["log"].tolist() == ["logs/sub-1.log"]
        assert "damaged or incomplete" in failures["reason"][0]
        assert (out / failures["log"][0]).read_text().count("left out sub-1_ses-1: ") == 1
        assert table(out / "volumes.tsv")["scan"].tolist() == IDS[1:]
    bad.write_bytes(good)
    assert app(bids_dir, out, "participant", "--longitudinal") == 0
    assert app(bids_dir, out, "group", "--longitudinal") == 0
    assert table(out / "failures.tsv").empty
    assert table(out / "volumes.tsv")["scan"].tolist() == IDS


def test_a_scan_that_does_not_exist_is_left_out(bids_dir: Path, tmp_path: Path, fakes: Fakes) -> None:
    out, missing = tmp_path / "out", bids_dir / SCANS[0]
    missing.unlink()
    missing.symlink_to("nowhere")
    for _ in range(2):
        assert app(bids_dir, out, "participant", "--longitudinal") == 1
        assert len(fakes.lines()) == 14
    assert app(bids_dir, out, "group", "--longitudinal") == 0
    assert table(out / "failures.tsv")["name"].tolist() == ["sub-1_ses-1"]


def test_a_subject_that_fails_is_one_failure(
    bids_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    error = {f"align_subject {IDS[3]} {IDS[4]}": InputError("not of one subject")}
    with fake_visits(tmp_path / "calls", error):
        assert app(bids_dir, out, "participant", "--longitudinal") == 1
        assert "slant: sub-2 failed: not of one subject" in capsys.readouterr().err
        assert app(bids_dir, out, "group", "--longitudinal") == 0
    failures = table(out / "failures.tsv").set_index("name")["reason"]
    assert failures["sub-2"] == "not of one subject"
    assert list(failures.index) == ["sub-2", *IDS[3:5]]
    assert (out / ".slant" / "work" / "sub-2").is_dir(), "what was aligned is kept"
    with fake_visits(tmp_path / "again") as fakes:
        assert app(bids_dir, out, "participant", "--longitudinal") == 0
        assert not any(line.startswith("align_visit") for line in fakes.lines())


def test_the_group_level_names_subjects_that_are_not_segmented(bids_dir: Path, tmp_path: Path, fakes: Fakes) -> None:
    assert app(bids_dir, tmp_path / "out", "group", "--longitudinal") == 0
    failures = table(tmp_path / "out" / "failures.tsv").set_index("name")["reason"]
    assert failures["sub-1"] == "not segmented; run the participant level with --longitudinal"
    assert fakes.lines() == []


def test_changed_ages_only_change_the_files_of_the_subject(bids_dir: Path, tmp_path: Path, fakes: Fakes) -> None:
    out = tmp_path / "out"
    assert app(bids_dir, out, "participant", "--longitudinal") == 0
    (bids_dir / "sub-2/sub-2_sessions.tsv").write_text("session_id\tage\nses-1\t70\nses-2\t71\n")
    before = len(fakes.lines())
    assert app(bids_dir, out, "participant", "--longitudinal") == 0
    assert len(fakes.lines()) == before
    record = json.loads((out / "sub-2/sub-2_longitudinal.json").read_text())
    assert [visit["time"]["age"] for visit in record["visits"]] == [70, 71]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_any_pool_of_workers(bids_dir: Path, tmp_path: Path, workers: int) -> None:
    out, request = tmp_path / "out", Request(SegmentSettings(model=str(toy_model_folder()), device="cpu", threads=1))
    images = list_bids_jobs(bids_dir, out, Selection(participants=("1", "2")))
    cohort = make_longitudinal(make_cohort(images, out, request, Resources()), bids_dir)
    assert cohort.cohort.worker_gib == 2.4, "a worker has all visits of a subject in memory"
    workload = cohort.workload
    task = FakeTask(workload.task, tmp_path / "calls")  # type: ignore[arg-type]
    pool = LocalPool(WorkerPlan(workers, 1)) if workers else InlinePool()
    summary = run_jobs(replace(workload, task=task), pool)
    assert (summary.done, summary.failed) == (("sub-1", "sub-2"), ())
    assert len((tmp_path / "calls").read_text().splitlines()) == 17
    assert run_jobs(workload, InlinePool()).kept == ("sub-1", "sub-2")
    assert align_line(bids_dir / SCANS[0]) in (tmp_path / "calls").read_text()


@pytest.mark.slow
def test_the_derivatives_dataset_passes_the_bids_validator(bids_dir: Path, tmp_path: Path, fakes: Fakes) -> None:
    validator, out = shutil.which("bids-validator-deno", path=Path(sys.executable).parent), tmp_path / "out"
    assert validator, "bids-validator-deno is missing; make .venv/.installed-dev installs it"
    for level in ("participant", "group"):
        assert app(bids_dir, out, level, "--longitudinal") == 0
    found = subprocess.run([validator, str(out), "--json"], capture_output=True, text=True, check=False)
    issues = json.loads(found.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
