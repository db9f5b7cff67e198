"""`slant legacy`: the drop-in interface of the original container."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from fake_task import InlinePool
from toy import content, run_slant, toy_model_folder, use_light_found, write_toy_scan

from slant.cohort.legacy import HEADER, write_legacy
from slant.config import RunReportSettings
from slant.errors import OutputError


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slant.cohort.run.choose_pool", lambda *_, **__: InlinePool())
    use_light_found(monkeypatch)
    monkeypatch.setattr("slant.report.page.reports_of", requested_reports)


def requested_reports(*arguments: object) -> dict[str, bytes]:
    """A report, and a PDF only if it is requested."""
    settings = next(argument for argument in arguments if isinstance(argument, RunReportSettings))
    return {"report": b"a report", **({"pdf": b"%PDF of a report"} if settings.pdf else {})}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    inputs, outputs = tmp_path / "INPUTS", tmp_path / "OUTPUTS"
    inputs.mkdir()
    for name in ("a.nii.gz", "b_T1w.nii.gz"):
        write_toy_scan(inputs / name)
    return inputs, outputs


def run(folders: tuple[Path, Path], *options: object) -> int:
    return run_slant("legacy", *folders, "--model", toy_model_folder(), *options)


def test_results_have_the_names_and_columns_of_the_original(folders: tuple[Path, Path]) -> None:
    _, outputs = folders
    outputs.mkdir()
    (outputs / "kept.txt").write_text("mine")
    assert run(folders) == 0
    assert (outputs / "kept.txt").read_text() == "mine"
    files = {path.relative_to(outputs).as_posix() for path in outputs.glob("Final*/*")}
    stems = ("a", "b_T1w")
    assert files == {
        *(f"FinalResult/{stem}_seg.nii.gz" for stem in stems),
        *(f"FinalPDF/{stem}_result.pdf" for stem in stems),
        *(f"FinalVolTxt/{stem}_label_volumes.txt" for stem in stems),
    }
    table = pd.read_csv(outputs / "FinalVolTxt" / "a_label_volumes.txt")
    assert tuple(table.columns) == HEADER
    assert len(table) == 132
    labels = nib.load(outputs / "FinalResult" / "a_seg.nii.gz")
    counts = np.bincount(np.asarray(labels.dataobj).ravel(), minlength=256)
    voxel_mm3 = float(np.prod(labels.header.get_zooms()))
    volumes = table.set_index(HEADER[1])[HEADER[2]]
    assert volumes.to_dict() == pytest.approx({i: round(counts[i] * voxel_mm3, 2) for i in volumes.index}, abs=0.01)
    assert (outputs / "FinalPDF" / "a_result.pdf").read_bytes().startswith(b"%PDF")


def test_the_table_has_the_format_of_the_original(folders: tuple[Path, Path], data_dir: Path) -> None:
    assert run(folders) == 0
    ours = (folders[1] / "FinalVolTxt" / "a_label_volumes.txt").read_text().splitlines()
    theirs = (data_dir / "slant-reference" / "1000_label_volumes.csv").read_text().splitlines()
    assert ours[0] == theirs[0]
    assert [line.rpartition(",")[0] for line in ours] == [line.rpartition(",")[0] for line in theirs]


def test_a_second_run_writes_only_missing_files(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folders) == 0
    before = content(folders[1] / "FinalResult")
    lost = folders[1] / "FinalResult" / "a_seg.nii.gz"
    kept = folders[1] / "FinalResult" / "b_T1w_seg.nii.gz"
    time_before = kept.stat().st_mtime_ns
    lost.unlink()
    assert run(folders) == 0
    assert content(folders[1] / "FinalResult") == before
    assert kept.stat().st_mtime_ns == time_before
    assert "2 scan(s) done, 0 failed" in capsys.readouterr().out


def test_a_failed_scan_does_not_stop_the_others(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    (folders[0] / "broken.nii.gz").write_bytes(b"no scan")
    assert run(folders) == 1
    assert "broken failed: " in capsys.readouterr().err
    assert {path.name for path in folders[1].glob("FinalResult/*")} == {"a_seg.nii.gz", "b_T1w_seg.nii.gz"}


def test_an_empty_folder_is_an_error_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run((tmp_path, tmp_path / "out")) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_results_are_an_error_with_the_name_of_the_file(tmp_path: Path) -> None:
    from slant.engine.job import Job

    job = Job("a", tmp_path / "a.nii.gz", tmp_path / "slant" / "a", "a")
    with pytest.raises(OutputError, match="a_seg"):
        write_legacy(job, tmp_path / "OUTPUTS")
