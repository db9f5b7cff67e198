"""The reference of a model, which lies beside its weights, and the grade of a run."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from slant.errors import ModelError
from slant.io.models import model_folder
from slant.io.templates import load_template
from slant.quality.grade import judge, plain_quality
from slant.quality.measures import measure
from slant.quality.reference import Reference, reference_of

if TYPE_CHECKING:
    from slant.io.finished import Finished

FILE = "quality.json"
"""Name of the reference in a model's folder."""


@cache
def load_reference(model: str) -> Reference | None:
    """What is usual for a model; None if nobody has measured that.

    Parameters
    ----------
    model : str
        An embedded model's name, or a folder.

    Raises
    ------
    ModelError
        If the model is not there or the file is damaged.
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
    """The quality of finished results as plain values for their record; None if nobody has measured what is usual.

    Parameters
    ----------
    finished : Finished
    model : str
        The embedded model or folder that labelled the scan.

    Raises
    ------
    ModelError
        If the model is not there or its reference is damaged.
    """
    reference = load_reference(model)
    if reference is None:
        return None
    quality = judge(measure(finished, load_template()), reference, finished.protocol)
    return {**plain_quality(quality), "compared_with": reference.about}
