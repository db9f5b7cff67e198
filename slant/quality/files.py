"""Reads and writes the normative reference of a model, and grades finished results with it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from slant.errors import ModelError
from slant.files import write_file
from slant.io.models import model_folder
from slant.io.templates import load_template
from slant.quality.grade import grade_scan
from slant.quality.iqm import measure_quality
from slant.quality.reference import NormativeReference, plain_reference, reference_of

if TYPE_CHECKING:
    from slant.io.quality import Quality
    from slant.io.results import Result

FILE = "quality.json"
"""Name of the reference file in the folder of a model."""


@cache
def load_reference(model: str) -> NormativeReference | None:
    """The normative reference of a model, or None if the model has none.

    Parameters
    ----------
    model : str
        Name of an embedded model, or path of a model folder.

    Raises
    ------
    ModelError
        If the model does not exist or its reference file is damaged.
    """
    path = model_folder(model) / FILE
    if not path.is_file():
        return None
    try:
        plain = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}; install or export the model again") from error
    return reference_of(plain, str(path))


def write_reference(folder: Path, reference: NormativeReference) -> Path:
    """Write a normative reference into the folder of its model, in place of an existing one.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OutputError
        If it cannot be written; an existing file is then unchanged.
    """
    write_file(folder / FILE, json.dumps(plain_reference(reference), indent=1) + "\n")
    load_reference.cache_clear()
    return folder / FILE


def grade(result: Result, model: str) -> Quality | None:
    """The quality of a finished scan, or None if the model has no reference.

    Parameters
    ----------
    model : str
        Name or folder of the model that labelled the scan.

    Raises
    ------
    ModelError
        If the model does not exist or its reference file is damaged.
    """
    reference = load_reference(model)
    if reference is None:
        return None
    return grade_scan(measure_quality(result, load_template()), reference, result.protocol)
