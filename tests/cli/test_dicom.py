"""DICOM folders and DICOM Segmentations on the command line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicoms import PATIENT, check_positions, make_series, write_series
from pydicom import dcmread
from toy import content, light_found, run_slant, segment_toy, the_line, toy_grid, toy_head, use_light_found

from slant.io.names import ResultNames
from slant.volume import LabelMap


@pytest.fixture
def toy_dicom(tmp_path: Path) -> Path:
    """The toy head as DICOM."""
    return write_series(tmp_path / "in" / "toy", make_series(toy_head(), toy_grid().ras_from_voxel))


def test_the_command_on_dicom(toy_dicom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_light_found(monkeypatch)
    out, names = tmp_path / "out", ResultNames("toy")
    assert segment_toy(toy_dicom, out, "--dicom-seg") == 0
    assert {p.name for p in out.iterdir()} == {*names.all, names.report, names.dicom_seg}
    record = json.loads((out / names.record).read_text("utf-8"))
    assert record["input"]["path"] == str(toy_dicom)
    assert record["input"]["dicom"]["images"] == 53
    assert json.loads((out / names.sidecar).read_text("utf-8"))["Sources"] == ["toy"]
    image = nib.load(out / names.labels)
    check_positions(dcmread(out / names.dicom_seg), np.asarray(image.dataobj), image.affine)
    assert [
        w for w in PATIENT.encode().split(b"^") for n, b in content(out).items() if n != names.dicom_seg and w in b
    ] == []


@pytest.mark.slow
def test_an_old_segmentation_is_removed_with_its_results(
    toy_dicom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    assert segment_toy(toy_dicom, tmp_path / "out", "--dicom-seg") == 0
    assert segment_toy(toy_dicom, tmp_path / "out") == 2
    assert "already holds results" in capsys.readouterr().err
    assert segment_toy(toy_dicom, tmp_path / "out", "--force", "--series", 5, "--name", "p7") == 0
    assert segment_toy(toy_dicom, tmp_path / "out", "--force") == 0
    assert list((tmp_path / "out").glob("*.dcm")) == []
    assert (tmp_path / "out" / "p7_record.json").exists()


def test_finished_results_find_their_dicom_series(
    toy_dicom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slant.io.read_results import read_result

    named = LabelMap(np.full((3, 4, 5), 4), light_found().template_labels.grid)
    found = replace(light_found(), template_labels=named)
    with monkeypatch.context() as patch:
        use_light_found(patch)
        patch.setattr("slant.pipeline.segment", lambda *_: found)
        assert segment_toy(toy_dicom, tmp_path / "out") == 0
    record = tmp_path / "out" / ResultNames("toy").record
    assert read_result(record).scan is not None
    new_folder = shutil.move(toy_dicom, tmp_path / "elsewhere")
    result = read_result(record)
    assert result.scan is None
    assert "could not be read" in result.notes[0]
    assert read_result(record, Path(new_folder)).scan is not None


@pytest.mark.usefixtures("no_pipeline")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dicom-seg",), "--dicom-seg is for DICOM: found {scan}, expected the folder of a DICOM series"),
        (("--series", "5"), "--series is for DICOM: found {scan}, expected the folder of a DICOM series"),
    ],
)
def test_options_of_dicom_on_a_file(
    options: tuple[str, ...], message: str, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment_toy(scan, tmp_path / "out", *options) == 2
    assert message.format(scan=scan) in the_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_pipeline")
def test_rejected_before_the_work_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_series(toy_head(), toy_grid().ras_from_voxel, FrameOfReferenceUID=None)
    folder = write_series(tmp_path / "p1", images)
    assert segment_toy(folder, tmp_path / "out", "--dicom-seg") == 2
    assert "no FrameOfReferenceUID" in the_line(capsys)
    assert segment_toy(folder, tmp_path / "out", "--volume", 0) == 2
    assert "--volume is for files of several volumes" in the_line(capsys)
    assert segment_toy(folder, tmp_path / "out", "--series", 9) == 2
    assert "found no series '9'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_pipeline")
def test_cohorts_do_not_read_dicom(toy_dicom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_slant("cohort", toy_dicom, tmp_path / "out") == 2
    assert ".nii" in capsys.readouterr().err
