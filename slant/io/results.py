"""Write the results of a run: files with BIDS-derivative names, written atomically, the record last."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slant._version import __version__
from slant.io.luts import format_lut
from slant.io.staging import staged, write_json
from slant.io.write import write_image

if TYPE_CHECKING:
    from slant.config import SegmentSettings
    from slant.grid import Matrix
    from slant.io.read import Scan
    from slant.nets.model import Model
    from slant.pipeline import Segmentation


_QUALITY_COLUMNS = ("expected_dice", "volume_z", "reference_low", "reference_high")  # n/a without a reference


@dataclass(frozen=True)
class ResultNames:
    """File names of one scan's results.

    Attributes
    ----------
    name : str
        The scan's name without extension and without a trailing ``_T1w``.
    """

    name: str

    @property
    def labels(self) -> str:
        """Region ids in native space."""
        return f"{self.name}_seg-BrainCOLOR_dseg.nii.gz"

    @property
    def template_labels(self) -> str:
        """Region ids in MNI305."""
        return f"{self.name}_space-MNI305_seg-BrainCOLOR_dseg.nii.gz"

    @property
    def preprocessed(self) -> str:
        """Input of the networks, in MNI305."""
        return f"{self.name}_space-MNI305_desc-preproc_T1w.nii.gz"

    @property
    def brain(self) -> str:
        """Brain mask in native space."""
        return f"{self.name}_desc-brain_mask.nii.gz"

    @property
    def confidence(self) -> str:
        """Confidence of each label, 0 to 1, in native space."""
        return f"{self.name}_desc-confidence_map.nii.gz"

    @property
    def transform(self) -> str:
        """Affine between native space and MNI305, for ANTs."""
        return f"{self.name}_from-T1w_to-MNI305_mode-image_xfm.mat"

    @property
    def lookup(self) -> str:
        """Names and colours of the ids."""
        return f"{self.name}_seg-BrainCOLOR_dseg.tsv"

    @property
    def volumes(self) -> str:
        """Volumes of regions, tissues, lobes, brain and intracranial space."""
        return f"{self.name}_seg-BrainCOLOR_volumes.tsv"

    @property
    def sidecar(self) -> str:
        """Metadata of the label map."""
        return f"{self.name}_seg-BrainCOLOR_dseg.json"

    @property
    def overlay(self) -> str:
        """Picture of the scan with the outlines of the regions."""
        return f"{self.name}_overlay.png"

    @property
    def report(self) -> str:
        """HTML report for visual quality control (optional)."""
        return f"{self.name}_report.html"

    @property
    def pdf(self) -> str:
        """The report as PDF (optional)."""
        return f"{self.name}_report.pdf"

    @property
    def dicom_seg(self) -> str:
        """The labels as a DICOM Segmentation (optional)."""
        return f"{self.name}_seg-BrainCOLOR_dseg.dcm"

    @property
    def optional(self) -> tuple[str, ...]:
        """Names of the optional files."""
        return (self.report, self.pdf, self.dicom_seg)

    @property
    def record(self) -> str:
        """How the results were made; written last, so that its presence means finished."""
        return f"{self.name}_record.json"

    @property
    def all(self) -> tuple[str, ...]:
        """Names of all files that are not optional, in the order in which they are put in place."""
        return (
            self.labels,
            self.template_labels,
            self.preprocessed,
            self.brain,
            self.confidence,
            self.transform,
            self.lookup,
            self.volumes,
            self.sidecar,
            self.overlay,
            self.record,
        )


@dataclass(frozen=True, eq=False)
class SegmentationRun:
    """One scan, its segmentation, and the model and settings that made it.

    Attributes
    ----------
    scan : Scan
    segmentation : Segmentation
    model : Model
    settings : SegmentSettings
        Resolved settings.
    picture : bytes
        The overlay as PNG.
    requested : dict, optional
        Settings as given, and ``volume``, the index of the volume of a 4D file.
    exports : dict of str to bytes
        Contents of the optional files: any of ``report``, ``pdf`` and ``dicom_seg``.
    quality : dict, optional
        Grade, checks, metrics and values of each region, as `slant.quality.grade.plain_quality` returns them.
    """

    scan: Scan
    segmentation: Segmentation
    model: Model
    settings: SegmentSettings
    picture: bytes
    requested: dict[str, Any] | None = None
    exports: dict[str, bytes] = field(default_factory=dict)
    quality: dict[str, Any] | None = None

    @property
    def names(self) -> ResultNames:
        """File names of the results."""
        return ResultNames(self.scan.name)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings from reading and from segmenting the scan."""
        return self.scan.warnings + self.segmentation.warnings


def write_results(run: SegmentationRun, folder: Path, unfinished: Path | None = None) -> dict[str, Path]:
    """Write all files of a run through `slant.io.staging.staged`.

    Parameters
    ----------
    run : SegmentationRun
    folder : Path
    unfinished : Path, optional
        Staging folder, see `slant.io.staging.staged`.

    Returns
    -------
    dict of str to Path
        Paths of the files by the properties of `ResultNames`.

    Raises
    ------
    OutputError
        If a file cannot be written; existing results are then unchanged.
    """
    names, segmentation = run.names, run.segmentation
    with staged(folder, names, names.optional, unfinished) as temporary:
        write_image(temporary / names.labels, segmentation.labels, run.scan)
        write_image(temporary / names.template_labels, segmentation.template_labels, None)
        write_image(temporary / names.preprocessed, segmentation.prepared.image, None)
        write_image(temporary / names.brain, segmentation.prepared.brain, run.scan)
        write_image(temporary / names.confidence, segmentation.confidence, run.scan)
        (temporary / names.transform).write_bytes(_transform(segmentation.prepared.native_from_template))
        (temporary / names.lookup).write_text(format_lut(run.model.protocol, "tsv"), encoding="utf-8")
        _write_volumes(temporary / names.volumes, run)
        write_json(temporary / names.sidecar, _sidecar(run))
        (temporary / names.overlay).write_bytes(run.picture)
        for kind, content in run.exports.items():
            (temporary / getattr(names, kind)).write_bytes(content)
        write_json(temporary / names.record, record(run))
    kinds = [name for name, value in vars(ResultNames).items() if isinstance(value, property)]
    files = {name: folder / getattr(names, name) for name in sorted(kinds) if name not in ("all", "optional")}
    return {name: path for name, path in files.items() if path.name not in names.optional or name in run.exports}


def _transform(native_from_template: Matrix) -> bytes:
    """The affine as ANTs writes it, by way of a temporary file: ITK neither takes all names nor notices a full disk."""
    from slant.preprocess.register import write_transform

    with tempfile.TemporaryDirectory(prefix="slant-") as folder:
        path = Path(folder) / "affine.mat"
        write_transform(path, native_from_template)
        return path.read_bytes()


def _write_volumes(path: Path, run: SegmentationRun) -> None:
    import pandas as pd

    table = pd.DataFrame([asdict(row) for row in run.segmentation.volumes])
    table["index"] = table["index"].astype("Int64")
    quality = run.quality or {"columns": _QUALITY_COLUMNS, "regions": {}, "aggregates": {}}
    keys = [str(row.index) if row.index is not None else f"{row.level}:{row.name}" for row in run.segmentation.volumes]
    rows = quality["regions"] | quality["aggregates"]
    for column, name in enumerate(quality["columns"]):
        values = [rows[key][column] if key in rows else None for key in keys]
        table[name] = pd.array(values, dtype="Float64")
    table = table.round({"volume_mm3": 3, "etiv_fraction": 7, "asymmetry_percent": 3})
    table.to_csv(path, sep="\t", index=False, na_rep="n/a", lineterminator="\n")


def _sidecar(run: SegmentationRun) -> dict[str, Any]:
    return {
        "Description": "BrainCOLOR regions by slant",
        "Sources": [run.scan.path.name],
        "SpatialReference": "orig",
        "Atlas": "BrainCOLOR",
        "Manual": False,
        "Model": run.model.name,
        "ModelHash": run.model.identity,
        "ModelLicense": run.model.licence,
        "GeneratedBy": [{"Name": "slant", "Version": __version__}],
    }


def record(run: SegmentationRun) -> dict[str, Any]:
    """How the results were made, as plain values.

    Returns
    -------
    dict
        Input and model with their SHA-256, versions, resolved settings, warnings, similarity after registration
        and after deformation, quality, and runtime and peak memory of each processing step.
    """
    segmentation = run.segmentation
    etiv = next(row.volume_mm3 for row in segmentation.volumes if row.level == "intracranial")
    return {
        "input": _input(run),
        "model": {"name": run.model.name, "sha256": run.model.identity, "licence": run.model.licence},
        "versions": _versions(),
        "settings": {**asdict(run.settings), "threads": run.settings.thread_count},
        "requested": run.requested,
        "warnings": list(run.warnings),
        "registration_similarity": round(segmentation.prepared.similarity, 6),
        "deformation": _deformation(run),
        "native_from_template": segmentation.prepared.native_from_template.tolist(),
        "intensity": _intensity(run),
        "etiv_mm3": None if math.isnan(etiv) else round(etiv, 1),
        "regions_found": sum(row.volume_mm3 > 0 for row in segmentation.volumes if row.level == "region"),
        "quality": run.quality,
        "timings": [asdict(timing) for timing in segmentation.timings],
    }


def _input(run: SegmentationRun) -> dict[str, Any]:
    entry: dict[str, Any] = {"path": os.fspath(run.scan.path), "sha256": run.scan.sha256}
    return entry if run.scan.source is None else {**entry, "dicom": run.scan.source.plain()}


def _deformation(run: SegmentationRun) -> dict[str, float | bool] | None:
    """Similarity to the model's groupwise template before and after deformation; None without such a template."""
    deformation = run.segmentation.prepared.deformation
    if deformation is None:
        return None
    return {
        "similarity": round(deformation.similarity, 6),
        "affine_similarity": round(deformation.affine_similarity, 6),
        "accepted": deformation.accepted,
    }


def _intensity(run: SegmentationRun) -> dict[str, float] | None:
    """Linear maps from bias-corrected intensities of the scan, and from z-scores, to those of the network input."""
    line, scaling = run.segmentation.prepared.intensity_line, run.model.inputs.scaling
    if line is None:
        return None
    return {"slope": line[0], "intercept": line[1], "z_offset": scaling.offset, "z_scale": scaling.scale}


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ("antspyx", "deepbet", "nibabel", "numpy", "scipy", "torch")
    return {"slant": __version__, **{name: version(name) for name in packages}}
