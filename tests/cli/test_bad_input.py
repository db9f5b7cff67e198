"""Errors that the user can fix are one line: what was found, what was expected, what to do. No file is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from toy import (
    content,
    quick_networks,
    quick_stages,
    run_slant,
    save,
    segment_toy,
    the_line,
    toy_grid,
    toy_head,
    write_toy_scan,
)

from slant.preprocess.register import MIN_SIMILARITY

AFFINE = toy_grid().ras_from_voxel


# Scans


def damaged_affine(path: Path) -> Path:
    write_toy_scan(path)
    raw = bytearray(path.read_bytes())
    raw[280:328] = bytes(48)  # sform
    raw[88:92] = bytes(4)  # pixdim of the third axis
    path.write_bytes(raw)
    return path


def truncated(path: Path) -> Path:
    path.write_bytes(write_toy_scan(path).read_bytes()[:20_000])
    return path


def text(path: Path) -> Path:
    path.write_text("subject,age\n1,20\n" * 40)
    return path


def unknown(path: Path) -> Path:
    path.write_bytes(bytes(range(256)) * 4)
    return path


def nifti(path: Path) -> Path:
    return write_toy_scan(path.with_suffix(".nii")).rename(path)


def annexed(path: Path) -> Path:
    path.symlink_to("../.git/annex/objects/aB/cD/KEY/KEY")
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def full_of_nan(path: Path) -> Path:
    data = toy_head().astype(np.float32)
    return write_toy_scan(path, np.where(data > 400, np.nan, data))


def labels(path: Path) -> Path:
    blocks = np.random.default_rng(0).integers(1, 200, (15, 13, 11)).repeat(5, 0).repeat(5, 1).repeat(5, 2)
    return write_toy_scan(path, (blocks[:, :, :53] * (toy_head() > 0)).astype(np.int16))


def hounsfield(path: Path) -> Path:
    head = toy_head()
    data = np.where(head == 0, -1000, 30 + head // 60)
    data[:, :, 5:8] = 1200
    return write_toy_scan(path, data.astype(np.int16))


def coarse(path: Path) -> Path:
    return save(path, toy_head()[:, :, ::2], AFFINE @ np.diag([1, 1, 2, 1]))


def rgb(path: Path) -> Path:
    nib.save(nib.Nifti1Image(np.zeros((7, 8, 9), [("R", "u1"), ("G", "u1"), ("B", "u1")]), AFFINE), path)
    return path


BAD_SCANS: list[tuple[str, Callable[[Path], object], tuple[str, ...]]] = [
    ("absent.nii.gz", lambda _: None, ("no such file", "check the spelling")),
    ("folder.nii", folder, ("found a folder with 0 files and no DICOM images", "expected an image file")),
    ("scan.dcm", nifti, ("found the extension '.dcm'", "expected one of .mgh, .mgz, .nii, .nii.gz")),
    ("table.csv", text, ("found a text file that begins with 'subject,age", "expected a NIfTI or MGZ image")),
    ("table.nii", text, ("found a text file that begins with 'subject,age", "expected a NIfTI or MGZ image")),
    ("unknown.nii", unknown, ("neither NIfTI nor MGZ", "convert the scan")),
    ("annexed.nii", annexed, ("content is not here", "`datalad get ")),
    ("cut.nii.gz", truncated, ("damaged or incomplete", "download it again")),
    ("cut.nii", truncated, ("truncated: found 20000 bytes, expected", "download it again")),
    ("4d.nii", lambda p: save(p, np.stack([toy_head()] * 3, -1), AFFINE), ("found 3 volumes", "--volume N", "0 to 2")),
    ("2d.nii", lambda p: save(p, toy_head()[:, :, 20], AFFINE), ("found a 2D image", "expected a 3D scan")),
    ("slice.nii", lambda p: save(p, toy_head()[:, :, 20:21], AFFINE), ("found a 2D image", "expected a 3D scan")),
    ("rgb.nii", rgb, ("found colour (RGB)", "expected one real number per voxel")),
    ("nan.nii", full_of_nan, ("NaN or infinite voxels", "expected at most 0.1%", "replace NaN with 0")),
    ("constant.nii", lambda p: save(p, 0 * toy_head() + 7, AFFINE), ("every voxel is 7", "expected a T1w scan")),
    (
        "singular.nii",
        damaged_affine,
        ("no usable affine", "all of its values are 0", "a voxel size in pixdim is 0", "dcm2niix"),
    ),
    (
        "no_orientation.nii",
        lambda p: save(p, toy_head(), AFFINE, (0, 0)),
        ("neither sform nor qform", "left and right"),
    ),
    ("coarse.nii", coarse, ("voxels of 2.6 x 2.3 x 6 mm are too coarse", "expected at most 5 mm")),
    ("labels.nii", labels, ("looks like a label map", "expected the T1w scan")),
    ("mask.nii", lambda p: save(p, (toy_head() > 0).astype("u1"), AFFINE), ("label map or mask", "expected the T1w")),
    ("ct.nii", hounsfield, ("looks like a CT in Hounsfield units", "expected a T1-weighted MRI")),
    ("x" * 250 + ".nii.gz", lambda _: None, ("File name too long",)),
]


@pytest.mark.usefixtures("no_pipeline")
@pytest.mark.parametrize(("name", "make", "message"), BAD_SCANS, ids=[name[:20] for name, _, _ in BAD_SCANS])
def test_scans_that_cannot_be_segmented(
    name: str,
    make: Callable[[Path], object],
    message: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "in").mkdir()
    make(tmp_path / "in" / name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for out in (tmp_path / "new" / "out", tmp_path / "out"):
        assert segment_toy(tmp_path / "in" / name, out) == 2
        line = the_line(capsys)
        assert str(tmp_path / "in" / name) in line
        assert [part for part in message if part not in line] == []
    assert not (tmp_path / "new").exists()
    assert content(tmp_path / "out") == {"mine.txt": b"mine"}


@pytest.mark.usefixtures("no_pipeline")
def test_volume_out_of_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "4d.nii", np.stack([toy_head()] * 2, -1), AFFINE)
    assert segment_toy(path, tmp_path / "out", "--volume", 2) == 2
    line = the_line(capsys)
    assert "volume index 2 is out of range: the file has 2 volumes, counted from 0; change --volume" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_scan_that_does_not_register(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in ("_initial_transform", "_ants_affine"):
        monkeypatch.setattr(f"slant.preprocess.register.{step}", lambda *_: np.diag([1.0, -1.0, -1.0, 1.0]))
    assert segment_toy(scan, tmp_path / "out") == 2
    assert f"minimum {MIN_SIMILARITY:.2f}); is it a T1-weighted scan of a whole head" in the_line(capsys)
    assert not (tmp_path / "out").exists()


def test_a_scan_without_a_brain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_toy_scan(tmp_path / "part.nii", np.where(np.indices(toy_head().shape)[0] < 18, toy_head(), 0))
    assert segment_toy(path, tmp_path / "out", "--skull-stripped") == 2
    assert "no plausible brain was found: " in the_line(capsys)
    assert not (tmp_path / "out").exists()


def test_a_field_of_view_that_truncates_the_brain_is_only_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slant.report.overlay.draw_overlay", lambda *_, **__: b"an overlay")
    monkeypatch.setattr("slant.report.page.reports_of", lambda *_: {"report": b"a report"})
    path = save(tmp_path / "short.nii.gz", toy_head()[:, :48], AFFINE)
    with quick_stages(), quick_networks():
        assert segment_toy(path, tmp_path / "out") == 0
    warning = "the field of view truncates the brain at the top ("
    assert f"slant: warning: {warning}" in capsys.readouterr().err
    assert warning in (tmp_path / "out" / "short_record.json").read_text("utf-8")


# Options


@pytest.mark.usefixtures("no_pipeline")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--bogus", "1"), "--bogus"),
        (("--threads", "0"), "threads must be at least 1, found 0"),
        (("--threads", "many"), "--threads"),
        (("--interpolation", "linear"), '"multilabel", "nearest"'),
        (("--volume", "first"), "--volume"),
        (("--device", "cuda:99"), "'cuda:99' was asked for, but"),
        (("--device", "tpu"), "use auto, cpu, cuda, cuda:N or mps"),
        (("--options", "absent.toml"), "cannot read the settings file absent.toml"),
        (("more",), "more"),
    ],
)
def test_invalid_options_are_errors(
    options: tuple[str, ...], message: str, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment_toy(scan, tmp_path / "out", *options) == 2
    assert message in the_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_pipeline")
@pytest.mark.parametrize(
    "arguments", [("segment",), ("segmnt", "a", "b"), ("labels", "--format", "bogus"), ("--fast",)]
)
def test_invalid_commands_are_errors(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_slant(*arguments) == 2
    the_line(capsys)


@pytest.mark.usefixtures("no_pipeline")
def test_cuda_without_a_device_is_an_error(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert segment_toy(scan, tmp_path / "out", "--device", "cuda") == 2
    line = the_line(capsys)
    assert "device 'cuda' was asked for, but 0 CUDA devices are visible; use --device cpu" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_pipeline")
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("threads = ", "is not a TOML file"),
        ("thread = 2", "Did you mean --threads?"),
        ("bogus = 2", "bogus"),
        ('threads = "many"', "threads"),
        ("[segment]\nthreads = 2", "found the table [segment], expected options without a table"),
        ('interpolation = "linear"', '"multilabel", "nearest"'),
    ],
)
def test_invalid_options_files_are_errors(
    lines: str, message: str, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = tmp_path / "options.toml"
    options.write_text(lines)
    assert segment_toy(scan, tmp_path / "out", "--options", options) == 2
    line = the_line(capsys)
    assert message in line
    assert str(options) in line
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_pipeline")
def test_a_missing_model_is_an_error(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model, message in (("slant28", "unknown model 'slant28'"), (tmp_path, "it has no manifest.json")):
        assert run_slant("segment", scan, tmp_path / "out", "--model", model) == 2
        assert message in the_line(capsys)
    assert not (tmp_path / "out").exists()
