"""Unusable output directories are rejected, and old results are kept until the new ones are complete."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest
from toy import content, segment_toy, the_line, use_light_found, write_toy_scan


def test_existing_results_are_not_overwritten(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    out = tmp_path / "out"
    assert segment_toy(scan, out) == 0
    before = content(out)
    capsys.readouterr()
    assert segment_toy(scan, out) == 2
    assert f"{out} already holds results of this scan" in (line := the_line(capsys))
    assert "use --force" in line
    assert content(out) == before


@pytest.mark.usefixtures("no_pipeline")
@pytest.mark.parametrize("path", ["a file", "below a file", "a broken link", "/proc/slant"])
def test_paths_that_cannot_hold_results_are_rejected(
    path: str, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if path.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("this system has no /proc")
    (tmp_path / "a file").write_text("mine")
    (tmp_path / "a broken link").symlink_to(tmp_path / "nowhere" / "at all")
    out = tmp_path / "a file" / "out" if path == "below a file" else tmp_path / path
    assert segment_toy(scan, out) == 2
    assert f"cannot write results in {out}: " in (line := the_line(capsys))
    assert "check free space and write permission, or choose another folder" in line
    assert (tmp_path / "a file").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.usefixtures("no_pipeline")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_rejected(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    for out in (tmp_path / "locked", tmp_path / "locked" / "out"):
        assert segment_toy(scan, out) == 2
        assert "Permission denied" in the_line(capsys)


@pytest.mark.usefixtures("no_pipeline")
def test_a_name_that_is_too_long_is_rejected_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_toy_scan(tmp_path / ("x" * 230 + ".nii.gz"))
    assert segment_toy(path, tmp_path / "out") == 2
    assert "File name too long" in (line := the_line(capsys))
    assert "or a shorter name" in line
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_an_error(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        assert segment_toy(scan, tmp_path / "new" / "out") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large; check free space" in the_line(capsys)
    assert not (tmp_path / "new").exists()


def test_a_full_disk_with_force_keeps_the_old_results(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    out = tmp_path / "out"
    assert segment_toy(scan, out) == 0
    before = content(out)
    capsys.readouterr()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("slant.io.results.format_volumes", full)
    assert segment_toy(scan, out, "--threads", 2, "--force") == 2
    assert "No space left on device; check free space" in the_line(capsys)
    assert content(out) == before
