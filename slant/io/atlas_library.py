"""Library of atlases: one file with the prepared images and the labels of scans that were labelled by hand."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slant._version import __version__
from slant.atlas_votes import MIN_ATLASES, Atlas
from slant.errors import InputError, SettingsError
from slant.files import output_errors, write_atomic
from slant.grid import Grid
from slant.io.models import load_inputs
from slant.io.names import subject_of
from slant.io.prepared import input_sha256, load_arrays
from slant.io.resources import load_protocol

if TYPE_CHECKING:
    from slant.io.read import Scan
    from slant.nets.model import Model

FORMAT = 1
"""Format of the file; readers refuse others."""

_ADVICE = "make it with slant atlases"
_ARRAYS = ("intensities", "grid", "channels", "voxel_from_template")


@dataclass(frozen=True)
class LibraryFile:
    """Path of a library, and the SHA-256 of its file."""

    path: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> LibraryFile:
        """The file at a path; InputError if it cannot be read."""
        if path.is_dir():
            raise InputError(f"{path} is a folder, expected a library of atlases; {_ADVICE} {path} LIBRARY")
        return cls(str(path), input_sha256(path))

    def plain(self) -> dict[str, str]:
        """Plain values for a record."""
        return {"library": self.path, "sha256": self.sha256}


@dataclass(frozen=True, eq=False)
class AtlasLibrary:
    """Atlases, prepared in one way.

    Attributes
    ----------
    path : Path
        The file.
    protocol, template : str
        Names of the label protocol and of the template.
    scaling : dict
        Scaling of the intensities, see `slant.nets.inputs.InputScaling`.
    """

    path: Path
    protocol: str
    template: str
    scaling: dict[str, Any]
    atlases: tuple[Atlas, ...]

    def check(self, model: Model) -> None:
        """Check that the networks of a model see scans as the atlases are, and have the same labels.

        Raises
        ------
        SettingsError
            If that is not so.
        """
        inputs = model.inputs
        if model.protocol.name != self.protocol:
            raise SettingsError(
                f"--atlases {self.path} has labels of the protocol {self.protocol!r}, the model {model.name} of "
                f"{model.protocol.name!r}; use a model and atlases with the same labels"
            )
        if (inputs.template.name, inputs.scaling.as_dict()) != (self.template, self.scaling):
            raise SettingsError(
                f"--atlases needs a model with the input of the networks of slant; that of {model.name} differs; leave "
                "--atlases out, or use another model"
            )

    def atlases_for(self, scan: Scan) -> tuple[Atlas, ...]:
        """The atlases that may be used for a scan: neither it nor one with its name, nor another scan of its subject.

        The subject is the ``sub-`` part of the scan's name or path or, without one, its name.

        Raises
        ------
        InputError
            If fewer than `slant.atlas_votes.MIN_ATLASES` are left.
        """
        subject, own = subject_of(scan.name), {scan.name, subject_of(scan.name), subject_of(str(scan.path))}
        atlases = tuple(a for a in self.atlases if a.sha256 != scan.sha256 and own.isdisjoint((a.name, a.subject)))
        if len(atlases) < MIN_ATLASES:
            raise InputError(
                f"{self.path}: found {len(atlases)} atlas(es) of other subjects than {subject}, expected at least "
                f"{MIN_ATLASES}; make a library of more subjects"
            )
        return atlases


def write_library(path: Path, atlases: Sequence[Atlas]) -> None:
    """Write atlases, prepared for the inputs of slant and labelled with its protocol; the same atlases, the same bytes.

    Raises
    ------
    OutputError
        If the file cannot be written; an existing file is then unchanged.
    """
    inputs = load_inputs()
    about = {
        "format": FORMAT,
        "slant": __version__,
        "protocol": load_protocol().name,
        "template": inputs.template.name,
        "scaling": inputs.scaling.as_dict(),
        "atlases": [{"name": a.name, "subject": a.subject, "sha256": a.sha256} for a in atlases],
    }
    arrays: dict[str, Any] = {"about": np.array(json.dumps(about))}
    for i, atlas in enumerate(atlases):
        values = atlas.intensities, atlas.grid.ras_from_voxel, atlas.channels, atlas.voxel_from_template
        arrays |= {f"{name}_{i}": value for name, value in zip(_ARRAYS, values, strict=True)}
    contents = io.BytesIO()
    np.savez_compressed(contents, **arrays)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, contents.getvalue())


@lru_cache(maxsize=1)
def read_library(file: LibraryFile) -> AtlasLibrary:
    """Read a library, once per process.

    Raises
    ------
    InputError
        If it is missing, damaged, of another version, or has changed.
    """
    path = Path(file.path)
    if input_sha256(path) != file.sha256:
        raise InputError(f"{path} has changed since the run began; run the command again")
    arrays = load_arrays(path)
    try:
        if arrays is None:
            raise ValueError("it is damaged or another kind of file")  # noqa: TRY301 (one message for all)
        about = json.loads(str(arrays["about"]))
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']}, expected {FORMAT}")  # noqa: TRY301
        atlases = tuple(_atlas(entry, i, arrays) for i, entry in enumerate(about["atlases"]))
        return AtlasLibrary(path, about["protocol"], about["template"], about["scaling"], atlases)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path} is not a library of atlases: {reason}; {_ADVICE}") from error


def _atlas(entry: dict[str, str], i: int, arrays: dict[str, Any]) -> Atlas:
    intensities, ras_from_voxel, channels, voxel_from_template = (arrays[f"{name}_{i}"] for name in _ARRAYS)
    grid = Grid(intensities.shape, ras_from_voxel)
    return Atlas(entry["name"], entry["subject"], entry["sha256"], intensities, grid, channels, voxel_from_template)
