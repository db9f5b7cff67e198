"""`slant-bids`: reads a BIDS dataset and writes a derivatives dataset."""

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
from fake_task import InlinePool
from toy import the_line, toy_model_folder, use_light_found, write_toy_scan

import slant
from slant.cli.bids import main
from slant.cohort.bids import Selection, list_bids_jobs
from slant.cohort.bids_dataset import write_dataset
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
    monkeypatch.setattr("slant.engine.pools.LocalPool", lambda *_: InlinePool())


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


def test_mirror_images_that_the_model_cannot_label_are_refused_before_anything_is_written(
    bids_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ((), ("--longitudinal",)):
        assert app(bids_dir, tmp_path / "out", "participant", "--model", toy_model_folder(), "--mirror", *options) == 2
        assert "found none in the model toy; leave --mirror out" in the_line(capsys)
    assert not (tmp_path / "out").exists()


def test_sessions_and_entities_are_kept_in_names(bids_dir: Path) -> None:
    jobs = list_bids_jobs(bids_dir, Path("/out"), Selection()).jobs
    assert [job.name for job in jobs] == ALL
    assert [job.folder.as_posix() for job in jobs] == [f"/out/{Path(scan).parent.as_posix()}" for scan in SCANS]
    assert [job.scan for job in jobs] == [bids_dir / scan for scan in SCANS]


def test_labels_can_have_the_prefix_of_their_entity(bids_dir: Path, tmp_path: Path) -> None:
    assert names(bids_dir, participants=("02",)) == names(bids_dir, participants=("sub-02",)) == ALL[3:]
    assert names(bids_dir, sessions=("b",)) == names(bids_dir, sessions=("ses-b",)) == ALL[2:3]
    assert names(bids_dir, participants=("01", "sub-02"), sessions=("a",)) == [*ALL[:2], ALL[3]]
    filter_file = tmp_path / "filter.json"
    filter_file.write_text('{"t1w": {"acquisition": "mprage", "run": 2}, "bold": {}}')
    assert names(bids_dir, filter_file=filter_file) == ALL[1:2]


def test_missing_participants_images_and_folders_are_errors(bids_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no participant 77; it has the participants 01, 02"):
        names(bids_dir, participants=("01", "sub-77"))
    with pytest.raises(
        InputError, match=r"has no T1w image that matches the selection; it has the participants 01, 02"
    ):
        names(bids_dir, sessions=("z",))
    with pytest.raises(InputError, match=r"none is not a folder; expected the root folder of a BIDS dataset"):
        names(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read the filter file .* expected JSON"),
        ('{"bold": {}}', "found no filter for T1w images, expected for example .*mprage"),
        ('{"t1w": {"colour": "red"}}', "colour.* expected entities as pybids names them"),
    ],
)
def test_invalid_filter_files_are_errors(bids_dir: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "filter.json").write_text(text)
    with pytest.raises(SettingsError, match=message):
        names(bids_dir, filter_file=tmp_path / "filter.json")


def test_validation_can_be_skipped(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "toys", SCANS[3:])
    (folder / "dataset_description.json").unlink()
    with pytest.raises(InputError, match=r"is not a BIDS dataset: .*dataset_description.*--skip-bids-validation"):
        names(folder)
    assert names(folder, validate=False) == ALL[3:]


def test_an_unreadable_participant_is_listed(bids_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir
    closed = bids_dir / "sub-02" / "ses-a"

    def scandir(path: Any) -> object:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    job_list = list_bids_jobs(bids_dir, Path("/out"), Selection())
    assert [job.name for job in job_list.jobs] == ALL[:3]
    assert job_list.unreadable == {str(closed): "the folder cannot be read: Permission denied; check its permissions"}


def test_the_dataset_describes_its_origin(bids_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_dataset(out, bids_dir, MODEL)
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "slant"
    assert description["GeneratedBy"][0]["Version"] == slant.__version__
    assert MODEL["sha256"] in description["GeneratedBy"][0]["Description"]
    assert description["SourceDatasets"] == [{"URL": bids_dir.as_uri(), "DOI": "doi:10.1/x"}]
    assert MODEL["sha256"] in (out / "README").read_text()
    preproc = json.loads((out / "space-MNI305_desc-preproc_T1w.json").read_text())
    assert preproc["SkullStripped"] is True
    (out / "README").write_text("mine")
    ignored = (out / ".bidsignore").read_text()
    (out / ".bidsignore").write_text("mine/\n" + ignored.replace("logs/\n", ""))
    write_dataset(out, bids_dir, MODEL, mask_brain=False)
    assert (out / "README").read_text() == "mine"
    assert (out / ".bidsignore").read_text() == "mine/\n" + ignored.replace("logs/\n", "") + "logs/\n"
    assert json.loads((out / "space-MNI305_desc-preproc_T1w.json").read_text())["SkullStripped"] is False


def test_other_datasets_are_not_written_into(bids_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(
        OutputError, match=r"is the source dataset itself; choose another folder, for example .*derivatives/slant"
    ):
        write_dataset(bids_dir, bids_dir, MODEL)
    for text, message in (('{"Name": "x"}', "that slant did not make"), ("{", "cannot read"), ("[]", "cannot read")):
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
    assert "0 scan(s) segmented, 3 already done, 0 failed" in capsys.readouterr().out
    assert not (out / "volumes.tsv").exists(), "the group level writes the tables"
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
    folders = {path.relative_to(out).parent.as_posix() for path in out.rglob("*_record.json")}
    assert folders == {"sub-01/ses-a/anat", "sub-01/ses-b/anat"}
    subjects = run_documented_example(tmp_path, bids_dir, out, monkeypatch)["subjects"]
    assert subjects["age"].tolist() == [61, 61, 61]
    assert subjects["R-Hip"].notna().all()


def run_documented_example(
    tmp_path: Path, bids_dir: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Variables of the pandas example in docs/how-to/segment-many.md, run on the tables of a dataset."""
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "segment-many.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    (tmp_path / "bids").symlink_to(bids_dir)
    (tmp_path / "results").symlink_to(out)
    monkeypatch.chdir(tmp_path)
    variables: dict[str, Any] = {}
    exec(code, variables)  # noqa: S102 (code of our own documentation)
    return variables


def test_an_unreadable_folder_gives_exit_status_1_and_is_listed_by_the_group_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    folder, out = dataset(tmp_path / "toys", SCANS[2:]), tmp_path / "out"
    real, closed = os.scandir, folder / "sub-02"

    def scandir(path: Any) -> object:
        if not isinstance(path, int) and Path(path) == closed:  # shutil.rmtree passes a file descriptor
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


def test_a_failed_participant_gives_exit_status_1_and_is_listed_by_the_group_level(
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
    assert "expected a NIfTI or MGZ image" in failures["reason"].item()
    assert list((tmp_path / "work").iterdir()) == [tmp_path / "work" / "locks"]


def test_wrong_usage_is_an_error_of_one_line(
    bids_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert "sessions" not in text
    assert app("--boilerplate", "--longitudinal") == 0
    text = capsys.readouterr().out
    assert "The sessions of each participant were segmented together." in text
    assert "8. Lewis and Fox" in text


@pytest.mark.slow
def test_the_derivatives_dataset_passes_the_bids_validator(
    bids_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
