"""`slant-bids` takes a BIDS dataset and leaves one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_work import InlinePool
from toy import the_line, toy_model_folder, use_light_found, write_toy_scan

import slant
from slant.cli.bids import main
from slant.cohort.bids import Selection, list_bids_jobs, write_dataset
from slant.errors import InputError, OutputError, SettingsError

SCANS = (
    "sub-01/ses-a/anat/sub-01_ses-a_acq-mprage_rec-norm_run-1_T1w.nii.gz",
    "sub-01/ses-a/anat/sub-01_ses-a_acq-mprage_rec-norm_run-2_T1w.nii.gz",
    "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz",
    "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz",
)
MODEL = {"name": "toy", "sha256": "ab" * 32, "licence": "CC0"}


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slant.cli.cohort._pool", lambda *_: InlinePool())


def dataset(folder: Path, scans: tuple[str, ...] = SCANS) -> Path:
    for scan in scans:
        (folder / scan).parent.mkdir(parents=True, exist_ok=True)
        write_toy_scan(folder / scan)
    description = {"Name": "Toys", "BIDSVersion": "1.8.0", "DatasetDOI": "doi:10.1/x"}
    (folder / "dataset_description.json").write_text(json.dumps(description))
    (folder / "participants.tsv").write_text("participant_id\tage\tsex\nsub-01\t61\tF\nsub-02\t70\tM\n")
    return folder


@pytest.fixture(scope="module")
def bids_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("bids") / "toys")


def app(*arguments: object) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def names(bids_dir: Path, **selection: Any) -> list[str]:
    return [job.name for job in list_bids_jobs(bids_dir, Path("/out"), Selection(**selection)).jobs]


ALL = [Path(scan).name.removesuffix("_T1w.nii.gz") for scan in SCANS]


def test_sessions_and_entities_stay_in_names(bids_dir: Path) -> None:
    jobs = list_bids_jobs(bids_dir, Path("/out"), Selection()).jobs
    assert [job.name for job in jobs] == ALL
    assert [job.folder.as_posix() for job in jobs] == [f"/out/{Path(scan).parent.as_posix()}" for scan in SCANS]
    assert [job.scan for job in jobs] == [bids_dir / scan for scan in SCANS]


def test_labels_come_with_or_without_their_entity(bids_dir: Path, tmp_path: Path) -> None:
    assert names(bids_dir, participants=("02",)) == names(bids_dir, participants=("sub-02",)) == ALL[3:]
    assert names(bids_dir, sessions=("b",)) == names(bids_dir, sessions=("ses-b",)) == ALL[2:3]
    assert names(bids_dir, participants=("01", "sub-02"), sessions=("a",)) == [*ALL[:2], ALL[3]]
    chosen = tmp_path / "filter.json"
    chosen.write_text('{"t1w": {"acquisition": "mprage", "run": 2}, "bold": {}}')
    assert names(bids_dir, filter_file=chosen) == ALL[1:2]


def test_what_is_not_there_is_an_error(bids_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no participant 77; it has the participants 01, 02"):
        names(bids_dir, participants=("01", "sub-77"))
    with pytest.raises(InputError, match=r"has no T1w image that was asked for"):
        names(bids_dir, sessions=("z",))
    with pytest.raises(InputError, match=r"none is no folder; wanted a BIDS dataset"):
        names(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read the filter file .* wanted JSON"),
        ('{"bold": {}}', "found no filter for T1w images; wanted"),
        ('{"t1w": {"colour": "red"}}', "colour.* wanted entities as pybids names them"),
    ],
)
def test_faulty_filters_are_errors(bids_dir: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "filter.json").write_text(text)
    with pytest.raises(SettingsError, match=message):
        names(bids_dir, filter_file=tmp_path / "filter.json")


def test_validation_can_be_skipped(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "toys", SCANS[3:])
    (folder / "dataset_description.json").unlink()
    with pytest.raises(InputError, match=r"is no BIDS dataset: .*dataset_description.*--skip-bids-validation"):
        names(folder)
    assert names(folder, validate=False) == ALL[3:]


def test_an_unreadable_participant_is_told(bids_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir
    closed = bids_dir / "sub-02" / "ses-a"

    def scandir(path: Any) -> object:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = list_bids_jobs(bids_dir, Path("/out"), Selection())
    assert [job.name for job in found.jobs] == ALL[:3]
    assert found.unreadable == {str(closed): "the folder cannot be read: Permission denied; check its permissions"}


def test_the_dataset_says_what_made_it(bids_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_dataset(out, bids_dir, MODEL)
    found = json.loads((out / "dataset_description.json").read_text())
    assert found["DatasetType"] == "derivative"
    assert found["GeneratedBy"][0]["Name"] == "slant"
    assert found["GeneratedBy"][0]["Version"] == slant.__version__
    assert MODEL["sha256"] in found["GeneratedBy"][0]["Description"]
    assert found["SourceDatasets"] == [{"URL": bids_dir.as_uri(), "DOI": "doi:10.1/x"}]
    assert MODEL["sha256"] in (out / "README").read_text()
    preproc = json.loads((out / "space-MNI305_desc-preproc_T1w.json").read_text())
    assert preproc["SkullStripped"] is True
    (out / "README").write_text("mine")
    write_dataset(out, bids_dir, MODEL, keep_head=True)
    assert (out / "README").read_text() == "mine"
    assert json.loads((out / "space-MNI305_desc-preproc_T1w.json").read_text())["SkullStripped"] is False


def test_other_datasets_are_not_written_into(bids_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"is the dataset itself; give another folder, such as .*derivatives/slant"):
        write_dataset(bids_dir, bids_dir, MODEL)
    for text, message in (('{"Name": "x"}', "that slant did not make"), ("{", "cannot be read"), ("[]", "cannot be")):
        (tmp_path / "dataset_description.json").write_text(text)
        with pytest.raises(OutputError, match=message):
            write_dataset(tmp_path, bids_dir, MODEL)
        assert [path.name for path in tmp_path.iterdir()] == ["dataset_description.json"]


def segment_all(bids_dir: Path, out: Path) -> None:
    assert app(bids_dir, out, "participant", "--model", toy_model_folder()) == 0


def test_participants_then_group(
    bids_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    out = tmp_path / "out"
    options = ("--model", toy_model_folder())
    for label in ("--participant-label", "--participant_label"):
        assert app(bids_dir, out, "participant", label, "01", "--session-label", "ses-a", "ses-b", *options) == 0
    assert "0 scan(s) segmented, 3 had been before, 0 failed" in capsys.readouterr().out
    assert not (out / "volumes.tsv").exists(), "that is the group's"
    (out / ".slant" / "index.jsonl").unlink()
    assert app(bids_dir, out, "group", *options) == 0
    table = pd.read_csv(out / "volumes.tsv", sep="\t", na_values="n/a", dtype=str)
    assert table["scan"].tolist() == ALL[:3]
    assert table["participant_id"].tolist() == ["sub-01"] * 3
    assert table["session_id"].tolist() == ["ses-a", "ses-a", "ses-b"]
    assert table["run"].tolist()[:2] == ["1", "2"]
    assert table["acquisition"].tolist()[0] == "mprage"
    assert table["reconstruction"].isna().tolist() == [False, False, True]
    assert {*table.columns} == set(json.loads((out / "volumes.json").read_text("utf-8")))
    failures = pd.read_csv(out / "failures.tsv", sep="\t")
    assert failures["name"].tolist() == ALL[3:]
    assert failures["reason"].tolist() == ["not segmented; run the participant level"]
    assert '"participant_id"' in (out / "group_data.js").read_text("utf-8")
    left = {path.relative_to(out).parent.as_posix() for path in out.rglob("*_record.json")}
    assert left == {"sub-01/ses-a/anat", "sub-01/ses-b/anat"}
    people = as_documented(tmp_path, bids_dir, out, monkeypatch)["people"]
    assert people["age"].tolist() == [61, 61, 61]
    assert people["R-Hip"].notna().all()


def as_documented(tmp_path: Path, bids_dir: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the example for pandas in docs/cohorts.md makes of a dataset's tables."""
    text = (Path(__file__).parents[1] / "docs" / "cohorts.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    (tmp_path / "bids").symlink_to(bids_dir)
    (tmp_path / "results").symlink_to(out)
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(code, made)  # noqa: S102 (our own document)
    return made


def test_an_unreadable_folder_is_exit_status_1_and_a_row_of_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    folder, out = dataset(tmp_path / "toys", SCANS[2:]), tmp_path / "out"
    real, closed = os.scandir, folder / "sub-02"

    def scandir(path: Any) -> object:
        if not isinstance(path, int) and Path(path) == closed:  # a number where a folder is removed
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    options = ("--model", toy_model_folder())
    assert app(folder, out, "participant", *options) == 1
    assert f"slant: {closed} failed: the folder cannot be read: Permission denied" in capsys.readouterr().err
    assert app(folder, out, "group", *options) == 0
    failures = pd.read_csv(out / "failures.tsv", sep="\t")
    assert failures["name"].tolist() == [str(closed)]
    assert pd.read_csv(out / "volumes.tsv", sep="\t")["scan"].tolist() == ALL[2:3]


def test_a_failed_participant_is_exit_status_1_and_a_row_of_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    folder, out = dataset(tmp_path / "toys", SCANS[2:]), tmp_path / "out"
    (folder / SCANS[3]).write_bytes(b"no scan")
    options = ("--model", toy_model_folder(), "--n_procs", 1, "--mem_gb", 2, "--work_dir", tmp_path / "work")
    assert app(folder, out, "participant", *options) == 1
    assert f"slant: {ALL[3]} failed: " in capsys.readouterr().err
    assert app(folder, out, "group", *options) == 0
    failures = pd.read_csv(out / "failures.tsv", sep="\t")
    assert failures["name"].tolist() == ALL[3:]
    assert "neither NIfTI nor MGZ" in failures["reason"].item()
    assert list((tmp_path / "work").iterdir()) == [tmp_path / "work" / "locks"]


def test_wrong_usage_is_one_line(bids_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app(bids_dir, tmp_path / "out") == 2
    assert "slant-bids BIDS_DIR OUTPUT_DIR {participant,group}" in the_line(capsys)
    assert app(bids_dir, tmp_path / "out", "session") == 2
    assert "session" in capsys.readouterr().err
    assert app(bids_dir, tmp_path / "out", "participant", "--participant-label", "77") == 2
    assert "has no participant 77" in the_line(capsys)
    assert not (tmp_path / "out").exists()


def test_version_and_boilerplate(capsys: pytest.CaptureFixture[str]) -> None:
    assert app("--version") == 0
    assert capsys.readouterr().out.strip() == slant.__version__
    assert app("--boilerplate", "--model", "slant8") == 0
    text = capsys.readouterr().out
    assert f"slant {slant.__version__} (model slant8," in text
    assert "NeuroImage" in text


@pytest.mark.slow
def test_the_validator_takes_what_is_left(bids_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validator = shutil.which("bids-validator-deno", path=Path(sys.executable).parent)
    assert validator, "bids-validator-deno is missing; make .venv/.installed-dev installs it"
    use_light_found(monkeypatch)
    out = tmp_path / "out"
    segment_all(bids_dir, out)
    assert app(bids_dir, out, "group", "--model", toy_model_folder()) == 0
    command = [validator, str(out), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    issues = json.loads(run.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert run.returncode == 0
