"""The record of a run: how the results of a scan were made, from which file, by which model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from slant.errors import InputError
from slant.io.quality import Quality
from slant.io.staging import json_text
from slant.timing import Timing

if TYPE_CHECKING:
    from slant.grid import Matrix

_NEEDED = ("input", "model", "versions", "settings", "warnings", "timings", "native_from_template")


@dataclass(frozen=True)
class InputRecord:
    """The file that was segmented.

    Attributes
    ----------
    path : str
        Path as given: of the file, or of the folder of a DICOM series.
    dicom : dict, optional
        Values of `slant.io.dicom.choose.DicomSource.plain` if the scan is a DICOM series.
    """

    path: str
    sha256: str
    dicom: dict[str, Any] | None = None


@dataclass(frozen=True)
class ModelRecord:
    """Name, SHA-256 of the manifest, and licence of the weights of a model."""

    name: str
    sha256: str
    licence: str


@dataclass(frozen=True)
class DeformationRecord:
    """Similarity to the groupwise template of the model after and before deformation, and whether it was accepted."""

    similarity: float
    affine_similarity: float
    accepted: bool


@dataclass(frozen=True)
class IntensityRecord:
    """Linear maps to the intensities of the network input.

    Attributes
    ----------
    slope, intercept : float
        From bias-corrected robust intensities.
    z_offset, z_scale : float
        From z-scores: ``(z + z_offset) * z_scale``.
    zero, scale : float
        Robust intensities are ``(intensity of the file - zero) * scale``.
    """

    slope: float
    intercept: float
    z_offset: float
    z_scale: float
    zero: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Record:
    """How the results of a scan were made; the attributes are the keys of ``NAME_record.json``, in this order.

    Attributes
    ----------
    versions : dict of str to str
        Versions of slant and of the packages that the labels depend on.
    settings, requested : dict
        Settings, resolved and as given; ``requested`` has ``volume`` too, the index of the volume of a 4D file.
    warnings : tuple of str
        Warnings from reading and from segmenting the scan.
    registration_similarity : float or None
        Correlation of the registered scan with the template.
    deformation : DeformationRecord or None
        None if the model has no groupwise template.
    native_from_template : (4, 4) float64 array
        RAS mm in template space to RAS mm in native space.
    intensity : IntensityRecord or None
        None if the intensities are not known to be linearly related.
    etiv_mm3 : float or None
        Estimated total intracranial volume.
    regions_found : int or None
        Number of regions with at least one voxel.
    quality : Quality or None
        None if the model has no normative reference.
    atlases : dict of str to float or None
        Names of the atlases that voted, with their similarity (0 to 1) to the scan after registration; None without
        atlases.
    """

    input: InputRecord
    model: ModelRecord
    versions: dict[str, str]
    settings: dict[str, Any]
    requested: dict[str, Any] | None
    warnings: tuple[str, ...]
    registration_similarity: float | None
    deformation: DeformationRecord | None
    native_from_template: Matrix
    intensity: IntensityRecord | None
    etiv_mm3: float | None
    regions_found: int | None
    quality: Quality | None
    timings: tuple[Timing, ...]
    atlases: dict[str, float] | None = None

    def plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **vars(self),
            "input": {name: value for name, value in vars(self.input).items() if value is not None},
            "model": vars(self.model),
            "warnings": list(self.warnings),
            "deformation": None if self.deformation is None else vars(self.deformation),
            "native_from_template": self.native_from_template.tolist(),
            "intensity": None if self.intensity is None else vars(self.intensity),
            "quality": None if self.quality is None else self.quality.plain(),
            "timings": [vars(timing) for timing in self.timings],
        }

    def to_json(self) -> str:
        """The text of ``NAME_record.json``; bytes of file names that are not valid text are escaped."""
        return json_text(self.plain())

    @classmethod
    def from_json(cls, text: str, source: str = "the text") -> Record:
        """The record in a text that `to_json` returned; ``source`` names the text in error messages.

        Raises
        ------
        InputError
            If the text is not a record.
        """
        try:
            plain: dict[str, Any] = json.loads(text)
            missing = [key for key in _NEEDED if key not in plain]
            matrix = np.array(plain.get("native_from_template"), dtype=np.float64)
            if not missing and matrix.shape == (4, 4) and np.isfinite(matrix).all() and "path" in plain["input"]:
                return _from_plain(plain, matrix)
            problem = f"it lacks {', '.join(missing)}" if missing else "`native_from_template` or `input` is damaged"
        except KeyError as error:
            problem = f"it lacks {error.args[0]}"
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            raise InputError(
                f"{source} cannot be read as the record of a run: {error}; segment the scan again"
            ) from error
        raise InputError(f"{source} is not the record of `slant segment`: {problem}; segment the scan again")


def _from_plain(plain: Mapping[str, Any], native_from_template: Matrix) -> Record:
    deformation, intensity, quality = (plain.get(key) for key in ("deformation", "intensity", "quality"))
    return Record(
        InputRecord(**plain["input"]),
        ModelRecord(**plain["model"]),
        plain["versions"],
        plain["settings"],
        plain.get("requested"),
        tuple(plain["warnings"]),
        plain.get("registration_similarity"),
        None if deformation is None else DeformationRecord(**deformation),
        native_from_template,
        None if intensity is None else IntensityRecord(**intensity),
        plain.get("etiv_mm3"),
        plain.get("regions_found"),
        None if quality is None else Quality.from_plain(quality),
        tuple(Timing(**timing) for timing in plain["timings"]),
        plain.get("atlases"),
    )
