"""`slant report`."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy import content, run_slant, toy_scan

from slant.config import ReportSettings, RunReportSettings
from slant.errors import SettingsError
from slant.io.names import ResultNames
from slant.io.results import Result
from slant.report import page
from slant.report.contents import contents
from slant.report.page import draw_page
from slant.report.pdf import draw_pdf

NAMES = ResultNames("toy")


@pytest.mark.slow
def test_the_command_writes_the_same_reports_as_the_run(
    copy: Path, result: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    before, shown = content(copy), contents(result, ReportSettings())
    assert run_slant("report", copy, "--pdf") == 0
    after = content(copy)
    assert after[NAMES.report] == draw_page(shown)
    assert after[NAMES.pdf] == draw_pdf(shown)
    assert {name: after[name] for name in before} == before
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(copy / NAMES.report), str(copy / NAMES.pdf)]
    assert said.err == ""


def test_the_command_continues_after_results_that_cannot_be_read(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "reports_of", lambda *_: {"report": b"a report"})
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "x_record.json").write_text("{}")
    assert run_slant("report", bad, copy, "--out", tmp_path / "reports") == 1
    said = capsys.readouterr()
    assert content(tmp_path / "reports") == {NAMES.report: b"a report"}
    assert "x_record.json" in said.err
    assert said.err.endswith("1 of 2 reports could not be written, see above\n")
    assert run_slant("report", bad, copy, "--scan", toy_scan().path) == 2
    assert "--scan expects the results of one scan, found those of 2" in capsys.readouterr().err


def test_reports_do_not_overwrite_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x_record.json").write_text("{}")
    assert run_slant("report", tmp_path, "--out", tmp_path / "reports") == 2
    assert "several records named x_record.json" in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()


def test_the_command_reports_missing_and_wrong_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_slant("report") == 2
    assert "expected at least one with finished results" in capsys.readouterr().err
    assert run_slant("report", tmp_path, "--convention", "left") == 2
    assert "--convention" in capsys.readouterr().err


def test_the_error_names_a_folder_that_cannot_be_written(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "reports_of", lambda *_: {"report": b"a report"})
    (tmp_path / "file").write_text("not a folder")
    assert run_slant("report", copy, "--out", tmp_path / "file") == 2
    assert f"cannot create the folder {tmp_path / 'file'}" in capsys.readouterr().err


def test_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match="convention must be"):
        ReportSettings(convention="left")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="leave one of them out"):
        RunReportSettings(pdf=True, report=False)
