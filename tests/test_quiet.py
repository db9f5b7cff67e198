"""Nothing on stderr that is not ours: messages of libraries are silent unless Python warnings are asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHATTER = """
import logging, sys, warnings
from slant.quiet import silence_libraries
silence_libraries()
logging.getLogger("library").warning("a message")
own = logging.getLogger("library.with.handler")
own.addHandler(logging.StreamHandler(sys.stderr))
own.error("an error")
warnings.warn("a warning")
warnings.simplefilter("always")  # as some libraries do when they are imported
warnings.warn("another warning")
sys.stderr.write(sys.argv[1:] and "slant: ours" or "")
"""
DRAW = """
import sys
sys.path.insert(0, sys.argv[1])
from slant.quiet import silence_libraries
silence_libraries()
from pathlib import Path
from toy import toy_found, toy_model, toy_scan
from slant.report.overlay import draw_overlay
picture = draw_overlay(toy_scan().volume, toy_found().labels, toy_model().protocol, "title")
Path("picture.png").write_bytes(picture)
"""


def stderr_of(program: str, folder: Path, *options: str, argument: str = "", **environment: str) -> str:
    """What a program writes to stderr in a shell without folders for caches: HOME is a file, also for root."""
    home = folder / "home"
    home.touch()
    variables = {"PATH": os.environ["PATH"], "HOME": str(home), **environment}
    command = [sys.executable, *options, "-c", program, *([argument] if argument else [])]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=True)
    return done.stderr


def test_messages_and_warnings_of_libraries_are_silent(tmp_path) -> None:
    assert stderr_of(CHATTER, tmp_path) == ""
    assert stderr_of(CHATTER, tmp_path, argument="more") == "slant: ours"


@pytest.mark.parametrize(("options", "environment"), [(("-W", "default"), {}), ((), {"PYTHONWARNINGS": "default"})])
def test_python_warnings_that_are_asked_for_are_shown(tmp_path, options, environment) -> None:
    assert "UserWarning: a warning" in stderr_of(CHATTER, tmp_path, *options, **environment)


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, {"HOME": ""}, {"MPLCONFIGDIR": os.devnull}])
def test_an_overlay_is_drawn_silently_where_there_is_no_folder_for_caches(tmp_path, environment) -> None:
    (tmp_path / "temporary").mkdir()
    environment = {**environment, "TMPDIR": str(tmp_path / "temporary")}
    assert stderr_of(DRAW, tmp_path, argument=str(Path(__file__).parent), **environment) == ""
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "temporary").glob("matplotlib-*"))
