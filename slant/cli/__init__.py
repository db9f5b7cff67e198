"""The command line: parses the arguments, calls the library, and sets the exit status."""

from __future__ import annotations

# each module adds its commands
from slant.cli import (  # noqa: F401
    about,
    atlases,
    cohort,
    evaluate,
    legacy,
    longitudinal,
    multiatlas,
    phantoms,
    quality,
    report,
    segment,
    train,
)
from slant.cli.app import main

__all__ = ["main"]
