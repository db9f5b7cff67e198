"""Write the results of a target, in the layout that `slant train` reads as auxiliary labels."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slant._version import __version__
from slant.errors import OutputError
from slant.files import file_sha256, write_file
from slant.io.read import Scan
from slant.io.resources import load_protocol
from slant.io.staging import staged, write_json
from slant.io.write import write_image
from slant.multiatlas.atlases import AtlasScan
from slant.multiatlas.candidates import Chosen, LabelSource
from slant.multiatlas.settings import MultiAtlasSettings
from slant.syn import parameters
from slant.volume import LabelMap, Volume

DICE = "dice.tsv"


@dataclass(frozen=True)
class MultiAtlasNames:
    """File names of the results of a target with this name."""

    name: str

    @property
    def t1w(self) -> str:
        """A copy of the scan."""
        return f"{self.name}_T1w.nii.gz"

    @property
    def labels(self) -> str:
        """Region ids in native space."""
        return f"{self.name}_dseg.nii.gz"

    @property
    def agreement(self) -> str:
        """Vote agreement: fraction of the weights that the winning label has."""
        return f"{self.name}_desc-agreement_map.nii.gz"

    @property
    def record(self) -> str:
        """How the labels were made; its presence means finished."""
        return f"{self.name}_multiatlas.json"

    @property
    def all(self) -> tuple[str, ...]:
        """Names of all files in the order in which they are put in place; a file that only slant writes comes first."""
        return self.agreement, self.labels, self.t1w, self.record


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels of a target and how they were made.

    Attributes
    ----------
    labels, agreement : LabelMap, Volume
        Region ids and vote agreement, 0 to 1, on the scan's grid.
    dice : mapping of int to float
        Dice by region id if the target has manual labels; otherwise empty.
    runtime_s : mapping of str to float
        By processing step.
    """

    scan: Scan
    labels: LabelMap
    agreement: Volume
    chosen: Sequence[Chosen]
    dice: Mapping[int, float]
    runtime_s: Mapping[str, float]


def identity(target: LabelSource, atlases: Sequence[LabelSource], settings: MultiAtlasSettings) -> dict[str, Any]:
    """All inputs and settings that the labels of a target depend on; a target with the same values is finished."""
    return {
        "target": {"name": target.atlas_scan.name, "subject": target.atlas_scan.subject, "sha256": target.sha256},
        "reference_sha256": target.dseg_sha256,
        "library": [
            {
                "name": a.atlas_scan.name,
                "subject": a.atlas_scan.subject,
                "T1w_sha256": a.sha256,
                "dseg_sha256": a.dseg_sha256,
            }
            for a in atlases
        ],
        "settings": asdict(settings),
        "registration": parameters(settings.syn),
        "versions": {"slant": __version__, **_versions()},
    }


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("antspyx", "numpy", "scipy", "torch")}


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """The record of a target; None if it does not exist or cannot be read."""
    try:
        record = json.loads((folder / MultiAtlasNames(name).record).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def check_folder(folder: Path, scans: Sequence[AtlasScan]) -> None:
    """Check that results would not be written next to the scans, nor over labels that slant did not make.

    Raises
    ------
    OutputError
        If the folder contains one of the scans, or labels of a target without an agreement map.
    """
    for scan in scans:
        files = [p for p in (scan.t1w, scan.dseg) if p is not None]
        if folder.resolve() in [p.resolve().parent for p in files]:
            raise OutputError(f"{folder} has the scan {files[0].name} itself; give another folder for the results")
        names = MultiAtlasNames(scan.name)
        if (folder / names.labels).exists() and not (folder / names.agreement).exists():
            raise OutputError(
                f"{folder / names.labels} exists and was not made by slant multiatlas; move it or give another folder"
            )


def write_labelled(folder: Path, labelled: Labelled, made_from: Mapping[str, Any], unfinished: Path) -> None:
    """Write all files of a target, the record last.

    Parameters
    ----------
    made_from : mapping
        See `identity`.
    unfinished : Path
        Staging folder, see `slant.io.staging.staged`.

    Raises
    ------
    OutputError
        If a file cannot be written; existing results are then unchanged.
    """
    names = MultiAtlasNames(made_from["target"]["name"])
    with staged(folder, names, unfinished=unfinished) as temporary:
        write_image(temporary / names.agreement, labelled.agreement, labelled.scan)
        write_image(temporary / names.labels, labelled.labels, labelled.scan)
        if labelled.scan.path.name.endswith(".nii.gz"):
            shutil.copyfile(labelled.scan.path, temporary / names.t1w)
        else:
            write_image(temporary / names.t1w, labelled.scan.volume, labelled.scan)
        write_json(temporary / names.record, _record(labelled, made_from, temporary / names.labels))


def _record(labelled: Labelled, made_from: Mapping[str, Any], labels: Path) -> dict[str, Any]:
    chosen = [
        {
            "name": c.source.atlas_scan.name,
            "subject": c.source.atlas_scan.subject,
            "affine_similarity": round(c.affine_similarity, 6),
            "similarity": round(c.pair.similarity, 6),
            "registration_runtime_s": round(c.pair.runtime_s, 1),
        }
        for c in labelled.chosen
    ]
    return {
        "atlases": [c.source.atlas_scan.name for c in labelled.chosen],
        "subjects": sorted({c.source.atlas_scan.subject for c in labelled.chosen}),
        "chosen": chosen,
        **made_from,
        "quality": _quality(labelled),
        "labels_sha256": file_sha256(labels),
        "warnings": list(labelled.scan.warnings),
        "dice": {str(i): None if math.isnan(d) else round(d, 6) for i, d in labelled.dice.items()},
        "runtime_s": {step: round(s, 1) for step, s in labelled.runtime_s.items()},
    }


def _quality(result: Labelled) -> dict[str, Any]:
    """Similarity and agreement of the atlases, which `slant.multiatlas.screening` compares between targets."""
    labelled = result.labels.data != 0
    similarity = [c.pair.similarity for c in result.chosen]
    return {
        "similarity": round(sum(similarity) / len(similarity), 4),
        "agreement": round(float(result.agreement.data[labelled].mean()) if labelled.any() else 0.0, 4),
        "regions": len(np.unique(result.labels.data[labelled])),
        "brain_cm3": round(float(labelled.sum()) * result.labels.grid.voxel_volume_mm3 / 1000, 1),
    }


def dice_table(folder: Path, names: Sequence[str]) -> pd.DataFrame | None:
    """Dice of every region (rows) in every target with manual labels (columns), and means; None without such targets.

    The mean of a target is over the regions of its manual labels; the mean of a region is over the targets that have
    it.
    """
    records = {name: read_record(folder, name) for name in names}
    columns = {n: {int(i): d for i, d in r["dice"].items()} for n, r in records.items() if r is not None and r["dice"]}
    if not columns:
        return None
    regions = load_protocol().regions[1:]
    table = pd.DataFrame(columns, index=[r.id for r in regions], dtype=float)
    table.loc["mean"] = table.mean()
    table["mean"] = table.mean(axis=1)
    table.insert(0, "name", [*(r.name for r in regions), "mean over regions"])
    table.index.name = "index"
    return table.reset_index()


def write_dice(folder: Path, table: pd.DataFrame) -> None:
    """Write the table as ``dice.tsv``, ``n/a`` where a target lacks a region."""
    write_file(folder / DICE, table.round(4).to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n"))
