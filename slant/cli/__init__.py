"""The command line: arguments in, exit status out; all work is done by the modules below."""

from __future__ import annotations

from slant.cli import (  # noqa: F401 (each adds its commands)
    about,
    cohort,
    evaluate,
    multiatlas,
    original,
    phantoms,
    report,
    segment,
    train,
)
from slant.cli.app import main

__all__ = ["main"]
