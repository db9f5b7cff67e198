"""The command line: its help, the settings that it passes on, and the files that it writes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import (
    content,
    light_found,
    messages,
    mirroring_model,
    noise,
    quick_networks,
    quick_stages,
    run_slant,
    save,
    segment_toy,
    the_line,
    toy_grid,
    toy_head,
    toy_model_folder,
    toy_scan,
    use_light_found,
    write_toy_scan,
)

import slant
from slant.config import SegmentSettings
from slant.io import models
from slant.io.luts import format_lut
from slant.io.names import ResultNames
from slant.io.resources import load_protocol

HEAVY = {"torch", "ants", "nibabel", "scipy", "pandas", "matplotlib", "deepbet", "numpy"}
UNUSUAL_NAME = "sub 01 (re-test).v1.5 Jürgen 脳"


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_toy_scan(tmp_path / "toy_T1w.nii.gz")


@pytest.fixture
def settings_used(monkeypatch: pytest.MonkeyPatch) -> list[SegmentSettings]:
    """List of the settings of each run of the pipeline, which returns `light_found`."""
    use_light_found(monkeypatch)
    used: list[SegmentSettings] = []

    def find(_: object, __: object, settings: SegmentSettings, *___: object) -> object:
        used.append(settings)
        return light_found()

    monkeypatch.setattr("slant.pipeline.segment", find)
    return used


# Help and output


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ((), ("segment", "labels", "models", "train", "--options", "--version")),
        (
            ("segment",),
            ("SCAN", "OUT", "--model", "--device", "--threads", "--skull-stripped", "--interpolation", "--volume"),
        ),
        (("segment",), ("--force", "slant27", ".mgz", "[choices: multilabel, nearest]", "--options")),
        (("labels",), ("--format", "freesurfer, itksnap, tsv")),
        (("models",), ("licences",)),
        (("train",), ("--data", "--fold", "--time-limit", "--stages")),
    ],
)
def test_help(command: tuple[str, ...], shown: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_slant(*command, "--help") == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert [word for word in shown if word not in text] == []


def test_help_and_version_import_no_heavy_library() -> None:
    code = "import sys\nfrom slant.cli import main\ntry: main([{!r}])\nfinally: print(*sorted(sys.modules))"
    for option in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", code.format(option)], capture_output=True, text=True, check=True)
        loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
        assert "slant" in loaded
        assert loaded & HEAVY == set(), option


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_slant("--version") == 0
    assert capsys.readouterr().out == f"{slant.__version__}\n"


@pytest.mark.parametrize("kind", ["freesurfer", "itksnap", "tsv"])
def test_labels(kind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_slant("labels", "--format", kind) == 0
    assert capsys.readouterr().out == format_lut(load_protocol(), kind)


def test_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(toy_model_folder(), tmp_path / "model")
    monkeypatch.setattr(models, "EMBEDDED", tmp_path)
    assert run_slant("models") == 0
    assert capsys.readouterr().out == "model: 8 tiles, licence of the weights: CC0\n"


def test_a_closed_pipe_is_not_an_error() -> None:
    code = "from slant.cli import main; import os; os.close(0); main(['labels', '--format', 'itksnap'])"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_every_public_name_exists() -> None:
    for name in set(slant.__all__) - {"__version__"}:
        assert getattr(slant, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        slant.segmnt  # noqa: B018


# Settings


def test_resolved_settings_reach_the_pipeline_and_the_record(
    scan: Path, tmp_path: Path, settings_used: list[SegmentSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert segment_toy(scan, tmp_path / "out") == 0
    expected = SegmentSettings(str(toy_model_folder()), "cpu", 3)
    assert settings_used == [expected]
    record = json.loads((tmp_path / "out" / "toy_record.json").read_text("utf-8"))
    assert record["settings"] == {**vars(expected), "skull_stripped": True}


def test_labelling_mirror_images_reaches_the_pipeline_and_the_record(
    scan: Path, tmp_path: Path, settings_used: list[SegmentSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = mirroring_model(tmp_path / "model"), tmp_path / "out"
    assert run_slant("segment", scan, out, "--model", model, "--mirror") == 0
    assert [settings.mirror for settings in settings_used] == [True]
    record = json.loads((out / "toy_record.json").read_text("utf-8"))
    assert (record["settings"]["mirror"], record["requested"]["mirror"]) == (True, True)
    capsys.readouterr()
    assert segment_toy(scan, tmp_path / "other", "--mirror") == 2
    assert "found none in the model toy; leave --mirror out" in the_line(capsys)
    assert len(settings_used) == 1
    assert not (tmp_path / "other").exists()


def test_options_of_the_command_line_take_precedence_over_those_of_a_file(
    scan: Path, tmp_path: Path, settings_used: list[SegmentSettings]
) -> None:
    options = tmp_path / "options.toml"
    options.write_text('threads = 7\ninterpolation = "nearest"\nskull-stripped = false\n')
    assert segment_toy(scan, tmp_path / "a", "--options", options, "--threads", 2) == 0
    assert segment_toy(scan, tmp_path / "b", "--skull-stripped", "--threads", 1, "--device", "cpu") == 0
    assert [(s.threads, s.interpolation, s.skull_stripped) for s in settings_used] == [
        (2, "nearest", False),
        (1, "multilabel", True),
    ]


def test_volume_of_a_4d_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_light_found(monkeypatch)
    both = np.stack([noise(toy_head().shape), toy_head()], axis=-1)
    path = save(tmp_path / "both.nii.gz", both, toy_grid().ras_from_voxel, (2, 1))
    volumes = []
    monkeypatch.setattr("slant.pipeline.segment", lambda volume, *_: volumes.append(volume) or light_found())
    assert segment_toy(path, tmp_path / "out", "--volume", 1) == 0
    np.testing.assert_array_equal(volumes[0].data, toy_scan().volume.data)


# Files


def test_a_scan_with_an_unusual_name_is_segmented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("a folder (1)") / "Ergebnisse für 脳.d"
    path = write_toy_scan(tmp_path / f"{UNUSUAL_NAME}_T1w.nii.gz")
    monkeypatch.setattr("slant.report.page.reports_of", lambda *_: {"report": b"a report"})
    with quick_stages(), quick_networks():
        assert segment_toy(path, folder) == 0
    captured = capsys.readouterr()
    assert messages(captured.err) == []
    names = ResultNames(UNUSUAL_NAME)
    written = (*names.all, names.report)
    assert sorted(file.name for file in folder.iterdir()) == sorted(written)
    shown = dict(line.split("  ", 1) for line in captured.out.splitlines()[:-1])
    assert sorted(path.strip() for path in shown.values()) == sorted(str(folder / name) for name in written)
    assert re.fullmatch(r"done in \d+ s", captured.out.splitlines()[-1])
    record = json.loads((folder / names.record).read_text("utf-8"))
    assert record["input"]["path"] == str(path)


@pytest.mark.slow
def test_a_name_that_is_not_valid_text_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.nii")
    try:
        write_toy_scan(tmp_path / "a.nii").rename(path)
    except OSError:
        pytest.skip("this file system requires names in UTF-8")
    with quick_stages(), quick_networks():
        assert segment_toy(path, tmp_path / "out", "--pdf") == 0
    record = json.loads((tmp_path / "out" / os.fsdecode(b"caf\xe9_record.json")).read_text("utf-8"))
    assert record["input"]["path"] == str(path)
    assert (tmp_path / "out" / os.fsdecode(b"caf\xe9_report.pdf")).read_bytes().startswith(b"%PDF")


def test_warnings_are_printed_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    truncated = "the field of view truncates the brain at the top (9 cm2); regions there are incomplete"
    monkeypatch.setattr("slant.pipeline.segment", lambda *_: replace(light_found(), warnings=(truncated,)))
    data = toy_head().astype(np.float32)
    data[30, 30, 30] = np.nan
    scan = write_toy_scan(tmp_path / "toy.nii", data)
    assert segment_toy(scan, tmp_path / "out") == 0
    warnings = ["1 NaN or infinite voxels were replaced by 0", truncated]
    assert messages(capsys.readouterr().err) == [f"slant: warning: {text}" for text in warnings]
    assert json.loads((tmp_path / "out" / "toy_record.json").read_text("utf-8"))["warnings"] == warnings


def test_reports_can_be_left_out_and_old_reports_are_removed_with_their_results(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    out = tmp_path / "out"
    assert segment_toy(scan, out, "--no-report", "--pdf") == 2
    assert "but --no-report for no report; leave one of them out" in capsys.readouterr().err
    assert not out.exists()
    assert segment_toy(scan, out) == 0
    first = content(out)
    assert first["toy_report.html"] == b"a page"
    assert segment_toy(scan, out, "--no-report", "--force") == 0
    assert content(out).keys() == first.keys() - {"toy_report.html"}


def test_an_existing_report_is_not_overwritten(scan: Path, tmp_path: Path, no_pipeline: None) -> None:
    (tmp_path / "toy_report.html").write_text("mine")
    assert segment_toy(scan, tmp_path) == 2
    assert (tmp_path / "toy_report.html").read_text() == "mine"


def test_force_replaces_only_results(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_light_found(monkeypatch)
    out = tmp_path / "out"
    assert segment_toy(scan, out, "--threads", 1) == 0
    first = content(out)
    (out / "mine.txt").write_text("mine")
    assert segment_toy(scan, out, "--threads", 2) == 2
    assert content(out) == first | {"mine.txt": b"mine"}
    assert segment_toy(scan, out, "--threads", 2, "--force") == 0
    second = content(out)
    assert second.keys() == first.keys() | {"mine.txt"}
    assert [name for name in first if first[name] != second[name]] == ["toy_record.json"]


def raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def raise_sigterm(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("stop", "status", "word"), [(raise_interrupt, 130, "interrupted"), (raise_sigterm, 143, "terminated")]
)
@pytest.mark.parametrize("function", ["slant.pipeline.segment", "slant.io.results.write_json"])
def test_an_interrupted_run_leaves_no_files(
    scan: Path,
    tmp_path: Path,
    stop: Any,
    status: int,
    word: str,
    function: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use_light_found(monkeypatch)
    monkeypatch.setattr(function, stop)
    handler = signal.getsignal(signal.SIGTERM)
    assert segment_toy(scan, tmp_path / "new" / "out") == status
    assert messages(capsys.readouterr().err) == [f"slant: {word}; no partial files were left"]
    assert [path.name for path in tmp_path.iterdir()] == ["toy_T1w.nii.gz"]
    assert signal.getsignal(signal.SIGTERM) == handler
