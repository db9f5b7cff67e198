"""The command line: arguments in, exit status out; all work is done by the modules below."""

from __future__ import annotations

from slant.cli import about, evaluate, multiatlas, phantoms, report, segment, train  # noqa: F401 (each adds its commands)
from slant.cli.app import main

__all__ = ["main"]
