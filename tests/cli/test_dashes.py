"""File names and values that begin with a dash, and what follows ``--``."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy import run_slant, the_line, toy_model_folder, use_light_found, write_toy_scan

from slant.cli.bids import main as bids

NAME = "-x.nii.gz"


@pytest.fixture(autouse=True)
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_toy_scan(tmp_path / NAME)


@pytest.mark.parametrize("arguments", [("--", NAME, "-out"), (f"./{NAME}", "./-out"), (f"./{NAME}", "--", "-out")])
def test_names_that_begin_with_a_dash(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    use_light_found(monkeypatch)
    assert run_slant("segment", "--model", toy_model_folder(), *arguments) == 0
    assert Path("-out/-x_record.json").is_file()


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("segment", "--", NAME, "out"), "--force"),
        (("cohort", "--", NAME, "out"), "--no-report"),
        (("report", "--", "out"), "--pdf"),
        (("evaluate", "--", "a", "b", "out"), "--allow-missing"),
        (("segment", "--", NAME, "out"), "--options"),
        (("segment", "--", NAME, "out"), "--name=x"),
    ],
)
def test_options_after_the_end_of_options_are_an_error_that_says_so(
    command: tuple[str, ...], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_slant(*command, option) == 2
    line = the_line(capsys)
    assert f"found {option} after --, where every argument is the name of a file or folder" in line
    assert f"put options before --, or write ./{option} if this is a name" in line


def test_what_exists_may_follow_the_end_of_options(capsys: pytest.CaptureFixture[str]) -> None:
    Path("--force").write_text("no scan")
    assert run_slant("segment", "--", "--force", "out") == 2
    assert the_line(capsys).startswith("slant: --force: "), "it is read"


@pytest.mark.parametrize(
    "command",
    [
        ("segment", NAME, "out"),
        ("segment", "a.nii", "out", NAME),
        ("cohort", "a.nii", NAME, "out"),
        ("report", NAME),
        ("evaluate", NAME, "a", "out"),
        ("multiatlas", "--atlases", "a", NAME, "out"),
        ("train", NAME),
        ("quality", "fit", "model", NAME),
        ("report", "--compare", NAME, "b"),
    ],
)
def test_a_name_that_is_taken_for_an_option_is_an_error_that_says_how_to_write_it(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_slant(*command) == 2
    assert f"If {NAME} is the name of a file or folder, write ./{NAME}, or put -- before the names" in the_line(capsys)


def test_a_value_that_begins_with_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_slant("segment", "a.nii", "out", "--name", "-x") == 2
    assert "parameter --name requires an argument. If -x is the value, write --name=-x." in the_line(capsys)
    assert run_slant("segment", "a.nii", "out", "--name=-x") == 2
    assert "a.nii" in the_line(capsys), "the name is accepted"


@pytest.mark.parametrize(
    "command", [("segment", "--foo", "a.nii", "out"), ("segment", "a.nii"), ("segment", "-h", "x")]
)
def test_other_errors_do_not_mention_dashes(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    run_slant(*command)
    assert "write ./" not in capsys.readouterr().err


def test_the_same_holds_for_the_bids_app(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["-b", "out", "participant"], "If -b is the name of a file or folder, write ./-b"),
        (["--", "-b", "out", "participant", "--force"], "found --force after --"),
        (["--skip-bids-validation", "--", "-b", "out", "participant"], "-b is not a folder; expected the root folder"),
    ):
        with pytest.raises(SystemExit, match="2"):
            bids(arguments)
        assert message in the_line(capsys)
