"""What a run leaves behind: files with BIDS-derivative names, whole or not at all, the record last."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import slant
from slant.io.luts import format_lut
from slant.io.staging import staged, write_json
from slant.io.write import write_image

if TYPE_CHECKING:
    from slant.config import SegmentSettings
    from slant.grid import Matrix
    from slant.io.read import Scan
    from slant.nets.model import Model
    from slant.pipeline import Segmentation


_JUDGED = ("expected_dice", "volume_z", "usual_low", "usual_high")  # columns of models that grade nothing, all empty


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
        """Region ids on the scan's own grid."""
        return f"{self.name}_seg-BrainCOLOR_dseg.nii.gz"

    @property
    def template_labels(self) -> str:
        """Region ids in MNI305."""
        return f"{self.name}_space-MNI305_seg-BrainCOLOR_dseg.nii.gz"

    @property
    def preprocessed(self) -> str:
        """What the networks saw, in MNI305."""
        return f"{self.name}_space-MNI305_desc-preproc_T1w.nii.gz"

    @property
    def brain(self) -> str:
        """Brain mask on the scan's own grid."""
        return f"{self.name}_desc-brain_mask.nii.gz"

    @property
    def confidence(self) -> str:
        """Share of the votes for each label, on the scan's own grid."""
        return f"{self.name}_desc-confidence_probseg.nii.gz"

    @property
    def transform(self) -> str:
        """Affine for ANTs."""
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
        """Picture of the outlines."""
        return f"{self.name}_overlay.png"

    @property
    def report(self) -> str:
        """Page to judge the results by, if it is wanted."""
        return f"{self.name}_report.html"

    @property
    def pdf(self) -> str:
        """The page as PDF, if it is wanted."""
        return f"{self.name}_report.pdf"

    @property
    def dicom_seg(self) -> str:
        """The labels as a DICOM Segmentation, if it is wanted."""
        return f"{self.name}_seg-BrainCOLOR_dseg.dcm"

    @property
    def pages(self) -> tuple[str, ...]:
        """Files that a run may leave out."""
        return (self.report, self.pdf, self.dicom_seg)

    @property
    def record(self) -> str:
        """How the results were made; written last, so its presence means done."""
        return f"{self.name}_record.json"

    @property
    def all(self) -> tuple[str, ...]:
        """Every file that no run leaves out, in the order they are put in place."""
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
class Run:
    """One scan, its segmentation, and what made it.

    Attributes
    ----------
    scan : Scan
    segmentation : Segmentation
    model : Model
    settings : SegmentSettings
        As resolved.
    picture : bytes
        The overlay as PNG.
    requested : dict, optional
        The settings as given, and the ``volume`` of a 4D file.
    pages : dict of str to bytes
        Content of ``report``, ``pdf`` and ``dicom_seg``, those that are wanted.
    quality : dict, optional
        Grade, measures and what to expect of each region, as `slant.quality.grade.plain_quality` gives them.
    """

    scan: Scan
    segmentation: Segmentation
    model: Model
    settings: SegmentSettings
    picture: bytes
    requested: dict[str, Any] | None = None
    pages: dict[str, bytes] = field(default_factory=dict)
    quality: dict[str, Any] | None = None

    @property
    def names(self) -> ResultNames:
        """Of the files it leaves."""
        return ResultNames(self.scan.name)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know, from reading the file on."""
        return self.scan.warnings + self.segmentation.warnings


def write_results(run: Run, folder: Path, unfinished: Path | None = None) -> dict[str, Path]:
    """Write all files of a run, by way of `slant.io.staging.staged`.

    Returns
    -------
    dict of str to Path
        The files by the fields of `ResultNames`.

    Raises
    ------
    OutputError
        If one cannot be written; what was in the folder before is then unchanged.
    """
    names, found = run.names, run.segmentation
    with staged(folder, names, names.pages, unfinished) as temporary:
        write_image(temporary / names.labels, found.labels, run.scan)
        write_image(temporary / names.template_labels, found.template_labels, None)
        write_image(temporary / names.preprocessed, found.prepared.image, None)
        write_image(temporary / names.brain, found.prepared.brain, run.scan)
        write_image(temporary / names.confidence, found.confidence, run.scan)
        (temporary / names.transform).write_bytes(_transform(found.prepared.home_from_template))
        (temporary / names.lookup).write_text(format_lut(run.model.protocol, "tsv"), encoding="utf-8")
        _write_volumes(temporary / names.volumes, run)
        write_json(temporary / names.sidecar, _sidecar(run))
        (temporary / names.overlay).write_bytes(run.picture)
        for page, content in run.pages.items():
            (temporary / getattr(names, page)).write_bytes(content)
        write_json(temporary / names.record, record(run))
    kinds = [kind for kind, value in vars(ResultNames).items() if isinstance(value, property)]
    files = {kind: folder / getattr(names, kind) for kind in sorted(kinds) if kind not in ("all", "pages")}
    return {kind: path for kind, path in files.items() if path.name not in names.pages or kind in run.pages}


def _transform(home_from_template: Matrix) -> bytes:
    """The affine as ANTs writes it, which knows neither all file names nor when a disk is full."""
    from slant.register import write_transform

    with tempfile.TemporaryDirectory(prefix="slant-") as folder:
        path = Path(folder) / "affine.mat"
        write_transform(path, home_from_template)
        return path.read_bytes()


def _write_volumes(path: Path, run: Run) -> None:
    import pandas as pd

    table = pd.DataFrame([asdict(row) for row in run.segmentation.volumes])
    table["index"] = table["index"].astype("Int64")
    judged = run.quality or {"columns": _JUDGED, "regions": {}, "sums": {}}
    keys = [str(row.index) if row.index is not None else f"{row.level}:{row.name}" for row in run.segmentation.volumes]
    known = judged["regions"] | judged["sums"]
    for column, name in enumerate(judged["columns"]):
        values = [known[key][column] if key in known else None for key in keys]
        table[name] = pd.array(values, dtype="Float64")
    table = table.round({"volume_mm3": 3, "tiv_fraction": 7, "asymmetry_percent": 3})
    table.to_csv(path, sep="\t", index=False, na_rep="n/a", lineterminator="\n")


def _sidecar(run: Run) -> dict[str, Any]:
    return {
        "Description": "BrainCOLOR regions by slant",
        "Sources": [run.scan.path.name],
        "SpatialReference": "orig",
        "Atlas": "BrainCOLOR",
        "Manual": False,
        "Model": run.model.name,
        "ModelHash": run.model.identity,
        "ModelLicense": run.model.licence,
        "GeneratedBy": [{"Name": "slant", "Version": slant.__version__}],
    }


def record(run: Run) -> dict[str, Any]:
    """How the results were made, as plain values.

    Returns
    -------
    dict
        Input and model with their SHA-256, versions, resolved settings, warnings, similarity after registration
        and after deformation, quality, and seconds and peak memory of each stage.
    """
    found = run.segmentation
    tiv = next(row.volume_mm3 for row in found.volumes if row.level == "intracranial")
    return {
        "input": _input(run),
        "model": {"name": run.model.name, "sha256": run.model.identity, "licence": run.model.licence},
        "versions": _versions(),
        "settings": {**asdict(run.settings), "threads": run.settings.thread_count},
        "requested": run.requested,
        "warnings": list(run.warnings),
        "registration_similarity": round(found.prepared.similarity, 6),
        "deformation": _deformation(run),
        "home_from_template": found.prepared.home_from_template.tolist(),
        "intensity": _intensity(run),
        "total_intracranial_volume_mm3": None if math.isnan(tiv) else round(tiv, 1),
        "regions_found": sum(row.volume_mm3 > 0 for row in found.volumes if row.level == "region"),
        "quality": run.quality,
        "stages": [asdict(stage) for stage in found.stages],
    }


def _input(run: Run) -> dict[str, Any]:
    known: dict[str, Any] = {"path": os.fspath(run.scan.path), "sha256": run.scan.sha256}
    return known if run.scan.source is None else {**known, "dicom": run.scan.source.plain()}


def _deformation(run: Run) -> dict[str, float | bool] | None:
    """How well the scan fits the model's groupwise template, before and after deformation; None without one."""
    found = run.segmentation.prepared.deformation
    if found is None:
        return None
    return {
        "similarity": round(found.similarity, 6),
        "affine_similarity": round(found.affine_similarity, 6),
        "accepted": found.accepted,
    }


def _intensity(run: Run) -> dict[str, float] | None:
    """What takes intensities of the scan without its bias field, and z-scores, to those of the network input."""
    line, scaling = run.segmentation.prepared.intensity_line, run.model.inputs.scaling
    if line is None:
        return None
    return {"slope": line[0], "intercept": line[1], "z_offset": scaling.offset, "z_scale": scaling.scale}


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ("antspyx", "deepbet", "nibabel", "numpy", "scipy", "torch")
    return {"slant": slant.__version__, **{name: version(name) for name in packages}}
