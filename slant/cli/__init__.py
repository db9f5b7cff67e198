"""The command line: parses the arguments, calls the library, and sets the exit status."""

from __future__ import annotations

# each module adds its commands
from slant.cli import about, cohort, evaluate, legacy, multiatlas, phantoms, quality, report, segment, train  # noqa: F401
from slant.cli.app import main

__all__ = ["main"]
