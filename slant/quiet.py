"""Keeps the messages of libraries off stderr, where users and scripts look for those of slant."""

from __future__ import annotations

import logging
import sys
import warnings


def silence_libraries() -> None:
    """Let no library write logging messages or Python warnings to stderr in this process.

    Libraries report, for example, that they found no folder for their cache. Some have handlers and filters of their
    own. Warnings that were asked for by ``python -W`` or PYTHONWARNINGS are shown.
    """
    logging.disable()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.showwarning = _show_nothing


def _show_nothing(*_: object, **__: object) -> None:
    """Takes the place of `warnings.showwarning`: libraries add filters, for example when they are imported."""
