"""Words of the command lines that are printed for the user to run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def option_words(values: Mapping[str, object], defaults: Mapping[str, object]) -> list[str]:
    """Words of the options that are not at their defaults, by field name.

    Examples
    --------
    >>> option_words({"model": "whole", "threads": 2, "pdf": True}, {"model": "whole", "threads": None, "pdf": False})
    ['--threads', '2', '--pdf']
    """
    words: list[str] = []
    for name, value in values.items():
        option = name.replace("_", "-")
        if value == defaults[name]:
            continue
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, tuple | list):
            words += [f"--{option}", *map(str, value)]
        elif str(value).startswith("-"):
            words.append(f"--{option}={value}")
        else:
            words += [f"--{option}", str(value)]
    return words


def path_word(path: Path) -> str:
    """Path as an argument that is not taken for an option."""
    text = os.fspath(path)
    return f"./{text}" if text.startswith("-") else text
