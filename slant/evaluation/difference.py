"""Two segmentations of one scan are brought together for the page that compares them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from slant.errors import GeometryError, InputError, SlantError
from slant.evaluation.common import Source, is_freesurfer, load_common
from slant.evaluation.files import find_labels
from slant.evaluation.maps import bring_together, lattice_offset
from slant.evaluation.metrics import compare_regions
from slant.io.finished import RECORD, Finished, find_records, read_finished
from slant.io.read import read_label_map, read_scan
from slant.io.resources import load_protocol
from slant.io.results import ResultNames
from slant.labels import LabelProtocol
from slant.report.difference import Difference, RegionChange
from slant.resample import pick_labels
from slant.volume import LabelMap, Volume

Structures = Literal["auto", "regions", "freesurfer"]

_LISTED = 12


@dataclass(frozen=True, eq=False)
class _Side:
    name: str
    labels: LabelMap
    source: Mapping[str, str]
    protocol: LabelProtocol | None = None
    scan: Volume | None = None

    @property
    def kind(self) -> Source:
        """Whose ids these are."""
        return "freesurfer" if is_freesurfer(np.unique(self.labels.data).tolist()) else "braincolor"


def compare(first: Path, second: Path, scan: Path | None = None, structures: Structures = "auto") -> Difference:
    """Compare two segmentations of one scan.

    Parameters
    ----------
    first, second : Path
        A label map, its folder, or finished results of `slant segment`: their folder or record.
    scan : Path, optional
        The scan, to be shown under the labels; by default that of finished results, if it is there.
    structures : {"auto", "regions", "freesurfer"}, optional
        Compare regions as they are, or the structures that FreeSurfer and BrainCOLOR have in common; ``"auto"`` does
        the latter if one of the two is an aseg, aparc+aseg or wmparc.

    Raises
    ------
    InputError, GeometryError, ProtocolError
        If a map cannot be read, a place holds several, or the two do not fit.
    """
    sides = _read(first), _read(second)
    notes: tuple[str, ...] = ()
    if structures == "freesurfer" or (structures == "auto" and "freesurfer" in (sides[0].kind, sides[1].kind)):
        sides, notes = _in_common(sides, (first, second))
    protocol = sides[0].protocol or sides[1].protocol or load_protocol()
    try:
        pair = bring_together(sides[1].labels, sides[0].labels, protocol)
    except SlantError as error:
        raise type(error)(f"{second} (the prediction) against {first} (the truth): {error}") from error
    base = read_scan(scan).volume if scan else sides[0].scan or sides[1].scan
    table = compare_regions(pair, protocol, surfaces=False)
    regions = tuple(
        RegionChange(
            int(row["index"]),
            str(row["name"]),
            str(row["abbreviation"]),
            str(row["hemisphere"]),
            float(row["dice"]) if row["dice"] is not None else math.nan,
            float(row["truth_mm3"]),
            float(row["prediction_mm3"]),
        )
        for row in table.to_dict("records")
    )
    sources = sides[0].source, sides[1].source
    return Difference(sides[0].name, sources, pair.truth, pair.prediction, protocol, regions, base, notes)


def _in_common(sides: tuple[_Side, _Side], places: tuple[Path, Path]) -> tuple[tuple[_Side, _Side], tuple[str, ...]]:
    """Both with the structures that they have in common, on the first one's grid, and what to tell of it."""
    common = load_common()
    names = {"freesurfer": "FreeSurfer", "braincolor": "BrainCOLOR"}
    notes = [f"Compared are the {len(common.protocol) - 1} structures that FreeSurfer and BrainCOLOR have in common."]
    made = []
    for letter, side, place in zip("AB", sides, places, strict=True):
        try:
            labels, left = common.structures(side.labels, side.kind)
        except SlantError as error:
            raise type(error)(f"{place}: {error}") from error
        if left:
            more = ", ..." if len(left) > _LISTED else ""
            notes.append(
                f"{letter} has ids of {names[side.kind]} that the other has no name for, and that count as background: "
                f"{', '.join(map(str, left[:_LISTED]))}{more}."
            )
        made.append(replace(side, labels=labels, protocol=common.protocol))
    first, second = made
    try:
        lattice_offset(second.labels.grid, first.labels.grid)
    except GeometryError:
        second = replace(second, labels=pick_labels(second.labels, first.labels.grid))
        notes.append("B was carried to the voxels of A by nearest neighbour.")
    return (first, second), tuple(notes)


def _read(place: Path) -> _Side:
    if place.name.endswith(RECORD) or (place.is_dir() and any(place.glob(f"*{RECORD}"))):
        records = find_records(place)
        if len(records) > 1:
            raise InputError(f"{place} holds results of {len(records)} scans, wanted those of one; give its record")
        return _of_results(records[0], read_finished(records[0]))
    if not place.exists():
        raise InputError(f"{place}: no such file or folder; check the spelling of the path")
    found = find_labels(place)
    if len(found) > 1:
        raise InputError(f"{place} holds {len(found)} label maps, wanted one; give the file itself")
    (name, path), *_ = found.items()
    labels, sha256 = read_label_map(path)
    return _Side(name, labels, {"labels": os.fspath(path), "SHA-256": sha256})


def _of_results(record: Path, finished: Finished) -> _Side:
    source = {
        "labels": os.fspath(record.with_name(ResultNames(finished.name).labels)),
        "model": f"{finished.record['model']['name']}, SHA-256 {finished.record['model'].get('sha256', 'unknown')}",
        "slant": str(finished.record["versions"].get("slant", "unknown")),
    }
    return _Side(finished.name, finished.labels, source, finished.protocol, finished.scan)
