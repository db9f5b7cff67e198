"""Reads the normative reference of a model and grades finished results with it."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from slant.errors import ModelError
from slant.io.models import model_folder
from slant.io.templates import load_template
from slant.quality.grade import grade_scan, plain_quality
from slant.quality.iqm import measure_quality
from slant.quality.reference import NormativeReference, reference_of

if TYPE_CHECKING:
    from slant.io.finished import Finished

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


def grade(finished: Finished, model: str) -> dict[str, Any] | None:
    """The quality of finished results as plain values for their record, or None if the model has no reference.

    Parameters
    ----------
    finished : Finished
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
    quality = grade_scan(measure_quality(finished, load_template()), reference, finished.protocol)
    return {**plain_quality(quality), "compared_with": reference.about}
