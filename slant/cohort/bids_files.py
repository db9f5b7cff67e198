"""Reads what users write in a BIDS dataset and for it: its description, ``.bidsignore`` and filter files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slant.cohort.left_out import DESCRIPTION
from slant.errors import InputError, SettingsError
from slant.extras import require_extra
from slant.files import read_text

IGNORE_FILE = ".bidsignore"
"""Name of the file that lists what is not part of a dataset."""

_MANDATORY = ("Name", "BIDSVersion")
_EXAMPLE = '{"Name": "My study", "BIDSVersion": "1.10.0"}'
SKIP = "fix it, or use --skip-bids-validation if the file names are right"
"""Advice of an error about a folder that is not a valid dataset."""


def check_description(bids_dir: Path) -> None:
    """Check that a folder has the description of a BIDS dataset.

    Raises
    ------
    InputError
        If ``dataset_description.json`` is missing, is not JSON, or lacks an entry that BIDS requires.
    """
    path = bids_dir / DESCRIPTION
    try:
        description = json.loads(read_text(path))
    except FileNotFoundError:
        problem = f"{DESCRIPTION} is missing, expected for example {_EXAMPLE}"
    except json.JSONDecodeError as error:
        problem = f"{path}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}"
    except (OSError, UnicodeDecodeError) as error:
        problem = f"{path} cannot be read: {error}; expected JSON in UTF-8"
    else:
        missing = [key for key in _MANDATORY if not isinstance(description, dict) or key not in description]
        if not missing:
            return
        problem = f"{path} has no {' and no '.join(missing)}, expected for example {_EXAMPLE}"
    raise InputError(f"{bids_dir} is not a BIDS dataset: {problem}; {SKIP}")


def read_ignored(bids_dir: Path) -> Callable[[Path], bool]:
    """Function that says whether ``.bidsignore`` lists an image, given by its absolute path.

    The patterns are those of ``.gitignore``, relative to the root of the dataset.

    Raises
    ------
    InputError
        If the file cannot be read, or a pattern is invalid.
    """
    require_extra("bids")
    from pathspec import GitIgnoreSpec

    path = bids_dir / IGNORE_FILE
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError:
        lines = []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}; expected one pattern per line in UTF-8") from error
    for number, line in enumerate(lines, start=1):
        try:
            GitIgnoreSpec.from_lines([line])
        except (ValueError, re.error) as error:
            raise InputError(f"{path}, line {number}: {error}; expected a pattern as in .gitignore") from error
    patterns = GitIgnoreSpec.from_lines(lines)
    return lambda image: patterns.match_file(image.relative_to(bids_dir).as_posix())


def read_filters(path: Path) -> dict[str, Any]:
    """Values of the entities in the table ``t1w`` of a filter file, by the names that pybids gives them.

    Raises
    ------
    SettingsError
        If the file cannot be read, or has no such table.
    """
    try:
        filters = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read the filter file {path}: {error}; expected JSON") from error
    for key in ("t1w", "T1w"):
        if isinstance(filters, dict) and isinstance(filters.get(key), dict):
            return {entity: _checked(path, entity, value) for entity, value in filters[key].items()}
    example = '{"t1w": {"acquisition": "mprage"}}'
    raise SettingsError(f"{path}: found no filter for T1w images, expected for example {example}")


def _checked(path: Path, entity: str, value: Any) -> Any:
    if any(isinstance(item, dict | list) for item in (value if isinstance(value, list) else [value])):
        raise SettingsError(f"{path}: found {json.dumps(value)} for {entity}, expected a value or a list of values")
    return value
