"""The command line: parses the arguments, calls the library, and sets the exit status."""

from __future__ import annotations

from slant.cli import (  # noqa: F401 (each module adds its commands)
    about,
    cohort,
    evaluate,
    legacy,
    multiatlas,
    phantoms,
    quality,
    report,
    segment,
    train,
)
from slant.cli.app import main

__all__ = ["main"]
