"""Two segmentations of one scan are brought together for the page that compares them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slant.errors import InputError, SlantError
from slant.evaluation.files import find_labels
from slant.evaluation.maps import bring_together
from slant.evaluation.metrics import compare_regions
from slant.io.finished import RECORD, Finished, find_records, read_finished
from slant.io.read import read_label_map, read_scan
from slant.io.resources import load_protocol
from slant.io.results import ResultNames
from slant.labels import LabelProtocol
from slant.report.difference import Difference, RegionChange
from slant.volume import LabelMap, Volume


@dataclass(frozen=True, eq=False)
class _Side:
    name: str
    labels: LabelMap
    source: Mapping[str, str]
    protocol: LabelProtocol | None = None
    scan: Volume | None = None


def compare(first: Path, second: Path, scan: Path | None = None) -> Difference:
    """Compare two segmentations of one scan.

    Parameters
    ----------
    first, second : Path
        A label map, its folder, or finished results of `slant segment`: their folder or record.
    scan : Path, optional
        The scan, to be shown under the labels; by default that of finished results, if it is there.

    Raises
    ------
    InputError, GeometryError, ProtocolError
        If a map cannot be read, a place holds several, or the two do not fit.
    """
    sides = _read(first), _read(second)
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
    return Difference(sides[0].name, sources, pair.truth, pair.prediction, protocol, regions, base)


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
