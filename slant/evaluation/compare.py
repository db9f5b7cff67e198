"""Compare two segmentations of one scan for the comparison report."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from slant.errors import GeometryError, InputError, ProtocolError, errors_about
from slant.evaluation.files import find_labels
from slant.evaluation.maps import align_maps, lattice_offset
from slant.evaluation.metrics import compare_regions
from slant.io.names import ResultNames
from slant.io.read import read_label_map, read_scan
from slant.io.read_results import RECORD, find_records, read_result
from slant.io.resources import load_protocol, read_protocol, resource
from slant.io.results import Result
from slant.labels import LabelProtocol
from slant.report.comparison import Comparison, RegionChange
from slant.resample import pick_labels
from slant.volume import LabelMap, Volume

Structures = Literal["auto", "regions", "freesurfer"]

Source = Literal["freesurfer", "braincolor"]

_MAX_LISTED = 12
_ONLY_FREESURFER = frozenset((2, 3, 42))
"""Ids of cerebral white matter and cortex that every aseg has and BrainCOLOR does not; aparc+aseg has 2 and 1000s."""


@dataclass(frozen=True, eq=False)
class _Side:
    """One of the two segmentations."""

    name: str
    labels: LabelMap
    source: Mapping[str, str]
    protocol: LabelProtocol | None = None
    scan: Volume | None = None

    @property
    def kind(self) -> Source:
        """Program whose ids the labels are."""
        return "freesurfer" if is_freesurfer(np.unique(self.labels.data).tolist()) else "braincolor"


def compare(first: Path, second: Path, scan: Path | None = None, structures: Structures = "auto") -> Comparison:
    """Compare two segmentations of one scan.

    Parameters
    ----------
    first, second : Path
        A label map, its folder, or finished results of `slant segment`: their folder or record.
    scan : Path, optional
        The scan to show under the labels; by default the scan of finished results, if its file exists.
    structures : {"auto", "regions", "freesurfer"}, optional
        Compare the regions, or the structures that FreeSurfer and BrainCOLOR have in common; ``"auto"`` does the latter
        if one of the two is an aseg, aparc+aseg or wmparc.

    Raises
    ------
    InputError, GeometryError, ProtocolError
        If a map cannot be read, a folder has several, or the two maps do not fit.
    """
    sides = _read(first), _read(second)
    notes: tuple[str, ...] = ()
    if structures == "freesurfer" or (structures == "auto" and "freesurfer" in (sides[0].kind, sides[1].kind)):
        sides, notes = _in_common(sides, (first, second))
    protocol = sides[0].protocol or sides[1].protocol or load_protocol()
    with errors_about(f"{second} (the prediction) against {first} (the reference)"):
        maps = align_maps(sides[1].labels, sides[0].labels, protocol)
    base = read_scan(scan).volume if scan else sides[0].scan or sides[1].scan
    table = compare_regions(maps, protocol, surfaces=False)
    regions = tuple(
        RegionChange(
            int(row["index"]),
            str(row["name"]),
            str(row["abbreviation"]),
            str(row["hemisphere"]),
            float(row["dice"]) if row["dice"] is not None else math.nan,
            float(row["reference_mm3"]),
            float(row["prediction_mm3"]),
        )
        for row in table.to_dict("records")
    )
    sources = sides[0].source, sides[1].source
    return Comparison(sides[0].name, sources, maps.reference, maps.prediction, protocol, regions, base, notes)


def _in_common(sides: tuple[_Side, _Side], paths: tuple[Path, Path]) -> tuple[tuple[_Side, _Side], tuple[str, ...]]:
    """Both with the structures that they have in common, on the grid of the first one, and notes for the report."""
    common = load_common()
    names = {"freesurfer": "FreeSurfer", "braincolor": "BrainCOLOR"}
    notes = [f"The {len(common.protocol) - 1} structures that FreeSurfer and BrainCOLOR have in common are compared."]
    merged = []
    for letter, side, path in zip("AB", sides, paths, strict=True):
        with errors_about(str(path)):
            labels, others = common.structures(side.labels, side.kind)
        if others:
            more = ", ..." if len(others) > _MAX_LISTED else ""
            notes.append(
                f"{letter} has ids of {names[side.kind]} that belong to none of these structures and count as "
                f"background: {', '.join(map(str, others[:_MAX_LISTED]))}{more}."
            )
        merged.append(replace(side, labels=labels, protocol=common.protocol))
    first, second = merged
    try:
        lattice_offset(second.labels.grid, first.labels.grid)
    except GeometryError:
        second = replace(second, labels=pick_labels(second.labels, first.labels.grid))
        notes.append("B was resampled to the grid of A by nearest neighbour.")
    return (first, second), tuple(notes)


def _read(path: Path) -> _Side:
    if path.name.endswith(RECORD) or (path.is_dir() and any(path.glob(f"*{RECORD}"))):
        records = find_records(path)
        if len(records) > 1:
            raise InputError(f"{path} holds results of {len(records)} scans, expected one scan; give its record")
        return _of_results(records[0], read_result(records[0]))
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the spelling of the path")
    files = find_labels(path)
    if len(files) > 1:
        raise InputError(f"{path} holds {len(files)} label maps, expected one; give the file itself")
    (name, file), *_ = files.items()
    labels, sha256 = read_label_map(file)
    return _Side(name, labels, {"labels": os.fspath(file), "SHA-256": sha256})


def _of_results(record: Path, result: Result) -> _Side:
    model = result.record.model
    source = {
        "labels": os.fspath(record.with_name(ResultNames(result.name).labels)),
        "model": f"{model.name}, SHA-256 {model.sha256}",
        "slant": result.record.versions.get("slant", "unknown"),
    }
    scan = result.scan.volume if result.scan else None
    return _Side(result.name, result.labels, source, result.protocol, scan)


@dataclass(frozen=True, eq=False)
class CommonStructures:
    """Structures that FreeSurfer and BrainCOLOR have in common, from ``atlases/freesurfer/structures.tsv``.

    ``structure_ids`` are, for each source, the id of the structure that each id of the source belongs to.
    """

    protocol: LabelProtocol
    structure_ids: dict[Source, dict[int, int]]

    def structures(self, labels: LabelMap, source: Source) -> tuple[LabelMap, tuple[int, ...]]:
        """Label map of the structures, and the ids of the map that belong to none.

        Raises
        ------
        ProtocolError
            If no id of the map belongs to a structure.
        """
        known = self.structure_ids[source]
        ids, inverse = np.unique(labels.data, return_inverse=True)
        table = np.array([known.get(int(i), 0) for i in ids], dtype=np.uint8)
        if not table.any():
            raise ProtocolError(
                f"found the ids {', '.join(map(str, ids[:8]))} ..., expected ids of {source} that belong to a common "
                "structure"
            )
        others = tuple(int(i) for i in ids if i != 0 and int(i) not in known)
        return LabelMap(table[inverse].reshape(labels.data.shape), labels.grid), others


def is_freesurfer(ids: Iterable[int]) -> bool:
    """Whether a map with these ids is an aseg, aparc+aseg or wmparc."""
    found = set(ids)
    return len(found & _ONLY_FREESURFER) > 1 or any(i in found for i in range(1000, 5003))


@cache
def load_common() -> CommonStructures:
    """Load the table that ships with the package."""
    import csv

    path = resource("atlases", "freesurfer", "structures.tsv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    sources: tuple[Source, ...] = ("freesurfer", "braincolor")
    structure_ids = {source: {i: int(row["id"]) for row in rows for i in _numbers(row[source])} for source in sources}
    return CommonStructures(read_protocol(path, "structures common to FreeSurfer and BrainCOLOR"), structure_ids)


def _numbers(text: str) -> list[int]:
    """Integers and ranges of integers, separated by spaces."""
    numbers: list[int] = []
    for part in text.split():
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers
