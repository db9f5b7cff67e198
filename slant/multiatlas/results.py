"""What a labelled target leaves behind, in the layout that `slant train` reads as auxiliary labels."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import slant
from slant.errors import OutputError
from slant.io.read import Scan
from slant.io.resources import load_protocol
from slant.io.staging import staged, write_json
from slant.io.write import write_image
from slant.multiatlas.candidates import Chosen, Source
from slant.multiatlas.settings import MultiAtlasSettings
from slant.volume import LabelMap, Volume

DICE = "dice.tsv"


@dataclass(frozen=True)
class MultiAtlasNames:
    """File names of one target's results.

    Attributes
    ----------
    name : str
        Of the target.
    """

    name: str

    @property
    def t1w(self) -> str:
        """A copy of the scan."""
        return f"{self.name}_T1w.nii.gz"

    @property
    def labels(self) -> str:
        """Region ids on the scan's own grid."""
        return f"{self.name}_dseg.nii.gz"

    @property
    def agreement(self) -> str:
        """Share of the weighted votes that the label won."""
        return f"{self.name}_desc-agreement_probseg.nii.gz"

    @property
    def record(self) -> str:
        """How the labels were made; its presence means done."""
        return f"{self.name}_multiatlas.json"

    @property
    def all(self) -> tuple[str, ...]:
        """Every file in the order they are put in place; the labels come after a file that only we write."""
        return self.agreement, self.labels, self.t1w, self.record


@dataclass(frozen=True, eq=False)
class Labelled:
    """A target's labels, and from what they came.

    Attributes
    ----------
    scan : Scan
    labels : LabelMap
        Region ids on the scan's grid.
    agreement : Volume
        0 to 1 on the scan's grid.
    chosen : sequence of Chosen
    dice : mapping of int to float
        By region, where the target has manual labels; else empty.
    seconds : mapping of str to float
        Of each stage.
    """

    scan: Scan
    labels: LabelMap
    agreement: Volume
    chosen: Sequence[Chosen]
    dice: Mapping[int, float]
    seconds: Mapping[str, float]


def identity(target: Source, atlases: Sequence[Source], settings: MultiAtlasSettings) -> dict[str, Any]:
    """All that the labels of a target depend on, as plain values: while it is the same, they need not be made again."""
    return {
        "target": {"name": target.member.name, "person": target.member.person, "sha256": target.sha256},
        "truth_sha256": target.dseg_sha256,
        "library": [
            {"name": a.member.name, "person": a.member.person, "T1w_sha256": a.sha256, "dseg_sha256": a.dseg_sha256}
            for a in atlases
        ],
        "settings": asdict(settings),
        "registration": json.loads(json.dumps(asdict(settings.syn))),
        "versions": {"slant": slant.__version__, **{name: version(name) for name in ("antspyx", "numpy", "scipy")}},
    }


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """The record of a target; None if there is none that can be read."""
    try:
        found = json.loads((folder / MultiAtlasNames(name).record).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def is_done(folder: Path, name: str, wanted: Mapping[str, Any]) -> bool:
    """Whether the results are there, made from the same files with the same settings."""
    names, record = MultiAtlasNames(name), read_record(folder, name)
    return (
        record is not None
        and "quality" in record
        and all(record.get(key) == value for key, value in wanted.items())
        and all((folder / file).is_file() for file in names.all)
    )


def check_folder(folder: Path, sources: Sequence[Source]) -> None:
    """Refuse to write among the scans, or over labels that we did not make.

    Raises
    ------
    OutputError
        If the folder is that of a scan, or holds labels of a target beside which our agreement map is missing.
    """
    for source in sources:
        files = [p for p in (source.member.t1w, source.member.dseg) if p is not None]
        if folder.resolve() in [p.resolve().parent for p in files]:
            raise OutputError(f"{folder} holds the scan {files[0].name} itself; give another folder for the results")
        names = MultiAtlasNames(source.member.name)
        if (folder / names.labels).exists() and not (folder / names.agreement).exists():
            raise OutputError(
                f"{folder / names.labels} is there and was not made by slant multiatlas; move it or give another folder"
            )


def write_labelled(folder: Path, found: Labelled, wanted: Mapping[str, Any]) -> None:
    """Write all files of a target, the record last.

    Raises
    ------
    OutputError
        If one cannot be written; what was there before is then unchanged.
    """
    names = MultiAtlasNames(wanted["target"]["name"])
    with staged(folder, names) as temporary:
        write_image(temporary / names.agreement, found.agreement, found.scan)
        write_image(temporary / names.labels, found.labels, found.scan)
        if found.scan.path.name.endswith(".nii.gz"):
            shutil.copyfile(found.scan.path, temporary / names.t1w)
        else:
            write_image(temporary / names.t1w, found.scan.volume, found.scan)
        write_json(temporary / names.record, _record(found, wanted, temporary / names.labels))


def _record(found: Labelled, wanted: Mapping[str, Any], labels: Path) -> dict[str, Any]:
    chosen = [
        {
            "name": c.source.member.name,
            "person": c.source.member.person,
            "affine_similarity": round(c.affine_similarity, 6),
            "similarity": round(c.pair.similarity, 6),
            "registration_seconds": round(c.pair.seconds, 1),
        }
        for c in found.chosen
    ]
    return {
        "atlases": [c.source.member.name for c in found.chosen],
        "persons": sorted({c.source.member.person for c in found.chosen}),
        "chosen": chosen,
        **wanted,
        "quality": _quality(found),
        "labels_sha256": hashlib.sha256(labels.read_bytes()).hexdigest(),
        "warnings": list(found.scan.warnings),
        "dice": {str(i): None if math.isnan(d) else round(d, 6) for i, d in found.dice.items()},
        "seconds": {stage: round(s, 1) for stage, s in found.seconds.items()},
    }


def _quality(found: Labelled) -> dict[str, Any]:
    """How well the atlases fit and agree, what `slant.multiatlas.quality` compares between targets."""
    labelled = found.labels.data != 0
    similarity = [c.pair.similarity for c in found.chosen]
    return {
        "similarity": round(sum(similarity) / len(similarity), 4),
        "agreement": round(float(found.agreement.data[labelled].mean()) if labelled.any() else 0.0, 4),
        "regions": len(np.unique(found.labels.data[labelled])),
        "brain_cm3": round(float(labelled.sum()) * found.labels.grid.voxel_volume_mm3 / 1000, 1),
    }


def dice_table(folder: Path, names: Sequence[str]) -> pd.DataFrame | None:
    """Dice of every region (rows) in every target that has manual labels (columns), and their means; None if none has.

    The mean of a target is over the regions that its manual labels hold; that of a region over the targets that
    have it.
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
    partial = folder / f".slant-{DICE}.part"
    table.round(4).to_csv(partial, sep="\t", index=False, na_rep="n/a", lineterminator="\n")
    partial.replace(folder / DICE)
