"""Keeps the messages of libraries off stderr, where users and scripts look for those of slant."""

from __future__ import annotations

import logging
import sys
import warnings


def silence_libraries() -> None:
    """Let no library write logging messages or Python warnings to stderr in this process.

    Libraries report, for example, that they found no folder for their cache. Warnings that were asked for by
    ``python -W`` or PYTHONWARNINGS are shown.
    """
    logging.getLogger().addHandler(logging.NullHandler())  # replaces the handler of last resort, which prints warnings
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
