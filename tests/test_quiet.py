"""Nothing on stderr that is not ours: messages of libraries are silent unless Python warnings are asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHATTER = """
import logging, warnings
from slant.quiet import silence_libraries
silence_libraries()
logging.getLogger("library").warning("a message")
logging.getLogger("library").error("an error")
warnings.warn("a warning")
"""
DRAW = """
from slant.quiet import silence_libraries
silence_libraries()
from matplotlib import pyplot
figure = pyplot.figure()
figure.text(0, 0, "text")
figure.savefig("picture.png")
"""


def stderr_of(program: str, folder: Path, *options: str, **environment: str) -> str:
    """What a program writes to stderr in a shell without folders for caches."""
    variables = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment}
    command = [sys.executable, *options, "-c", program]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=True)
    return done.stderr


def test_messages_and_warnings_of_libraries_are_silent(tmp_path) -> None:
    assert stderr_of(CHATTER, tmp_path) == ""


@pytest.mark.parametrize(("options", "environment"), [(("-W", "default"), {}), ((), {"PYTHONWARNINGS": "default"})])
def test_python_warnings_that_are_asked_for_are_shown(tmp_path, options, environment) -> None:
    assert "UserWarning: a warning" in stderr_of(CHATTER, tmp_path, *options, **environment)


def test_figures_are_drawn_silently_where_there_is_no_folder_for_caches(tmp_path) -> None:
    assert stderr_of(DRAW, tmp_path) == ""
    assert (tmp_path / "picture.png").is_file()
