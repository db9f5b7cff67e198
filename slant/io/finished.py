"""Finished results as values, from memory or read from their files, for reports and comparisons."""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slant.errors import GeometryError, InputError, ProtocolError, SlantError
from slant.grid import Grid, Matrix
from slant.io.read import Scan, read_label_map, read_scan
from slant.io.results import ResultNames, SegmentationRun, record
from slant.labels import LabelProtocol, Region
from slant.volume import LabelMap, Volume
from slant.volumes import VolumeRow, intracranial_volume_mm3, region_volumes

RECORD = "_record.json"
"""End of the file names of records."""


@dataclass(frozen=True, eq=False)
class Finished:
    """One scan's results.

    Attributes
    ----------
    name : str
        Prefix of the output files.
    scan : Volume or None
        The scan; None if the file named in the record cannot be read or has changed.
    labels : LabelMap
        Region ids in native space.
    confidence : Volume
        Confidence of the labels, 0 to 1, in native space.
    brain : LabelMap
        Brain mask in native space.
    template_labels : LabelMap
        Region ids on the template's grid.
    image : Volume
        Input of the networks, on the template's grid.
    protocol : LabelProtocol
    volumes : tuple of VolumeRow
    record : dict
        As `slant.io.results.record` makes it.
    notes : tuple of str
        Messages about what could not be found.
    """

    name: str
    scan: Volume | None
    labels: LabelMap
    confidence: Volume
    brain: LabelMap
    template_labels: LabelMap
    image: Volume
    protocol: LabelProtocol
    volumes: tuple[VolumeRow, ...]
    record: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def native_from_template(self) -> Matrix:
        """(4, 4) float64: RAS mm in template space to RAS mm in the scan's space."""
        return np.asarray(self.record["native_from_template"], dtype=np.float64)


def finished_of(run: SegmentationRun) -> Finished:
    """Results of a run, which need not be written yet."""
    segmentation = run.segmentation
    return Finished(
        run.scan.name,
        run.scan.volume,
        segmentation.labels,
        segmentation.confidence,
        segmentation.prepared.brain,
        segmentation.template_labels,
        segmentation.prepared.image,
        run.model.protocol,
        segmentation.volumes,
        record(run),
    )


def find_records(path: Path) -> list[Path]:
    """Records of finished results in a folder and its subfolders, or the given record itself.

    Raises
    ------
    InputError
        If there is none.
    """
    if path.is_file() and path.name.endswith(RECORD):
        return [path]
    if not path.exists():
        raise InputError(f"{path}: no such folder; check the spelling of the path")
    records = [p for p in sorted(path.rglob(f"*{RECORD}")) if p.is_file()]
    records = [p for p in records if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    if not records:
        raise InputError(
            f"{path} holds no finished results: found no file NAME{RECORD}, expected the output of `slant segment`"
        )
    return records


def read_finished(path: Path, scan: Path | None = None) -> Finished:
    """Read the results in the folder of a record.

    Parameters
    ----------
    path : Path
        The record.
    scan : Path, optional
        File of the scan, if it is not where the record says.

    Raises
    ------
    InputError
        If a file is missing or damaged, or ``scan`` is not the scan that was segmented.
    GeometryError
        If the grids of the files do not agree.
    ProtocolError
        If the labels do not fit the look-up table.
    """
    names, folder = ResultNames(path.name.removesuffix(RECORD)), path.parent
    written = _read_record(path)
    labels, _ = read_label_map(folder / names.labels)
    template_labels, _ = read_label_map(folder / names.template_labels)
    brain, _ = read_label_map(folder / names.brain)
    confidence, image = _read_volume(folder / names.confidence), _read_volume(folder / names.preprocessed)
    for file, image_grid in ((names.brain, brain.grid), (names.confidence, confidence.grid)):
        _check_grid(folder / file, image_grid, labels.grid)
    _check_grid(folder / names.preprocessed, image.grid, template_labels.grid)
    template_labels, image = _on_template(template_labels, image)
    protocol = _read_protocol(folder / names.lookup, folder / names.volumes)
    source, notes = _find_scan(written, scan, labels.grid)
    try:
        volumes = region_volumes(labels, protocol, _intracranial_mm3(written))
        protocol.channels_from_ids(template_labels.data)
    except ProtocolError as error:
        raise ProtocolError(f"{folder / names.labels} does not fit {names.lookup}: {error}") from error
    return Finished(
        names.name,
        source.volume if source else None,
        labels,
        confidence,
        brain,
        template_labels,
        image,
        protocol,
        volumes,
        written,
        notes,
    )


def _read_record(path: Path) -> dict[str, Any]:
    try:
        written: dict[str, Any] = json.loads(path.read_text("utf-8"))
        needed = ("input", "model", "versions", "settings", "warnings", "timings", "native_from_template")
        missing = [key for key in needed if key not in written]
        matrix = np.array(written.get("native_from_template"), dtype=np.float64)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as the record of a run: {error}; segment the scan again") from error
    if missing or matrix.shape != (4, 4) or not np.isfinite(matrix).all() or "path" not in written["input"]:
        problem = f"it lacks {', '.join(missing)}" if missing else "`native_from_template` or `input` is damaged"
        raise InputError(f"{path} is not the record of `slant segment`: {problem}; segment the scan again")
    return written


def _on_template(labels: LabelMap, image: Volume) -> tuple[LabelMap, Volume]:
    """The same on the exact grid of the template: affines in files are rounded to float32."""
    from slant.io.templates import load_template

    grid = load_template().grid
    if not grid.same_as(labels.grid):
        return labels, image
    return LabelMap(labels.data, grid), Volume(image.data, grid)


def _intracranial_mm3(written: dict[str, Any]) -> float | None:
    from slant.io.templates import load_template

    if written.get("etiv_mm3") is None:
        return None
    template_from_native = np.linalg.inv(np.asarray(written["native_from_template"], dtype=np.float64))
    return intracranial_volume_mm3(load_template().intracranial_mm3, np.asarray(template_from_native, np.float64))


def _read_volume(path: Path) -> Volume:
    """Read an image that slant wrote, on the axes closest to RAS+."""
    import nibabel as nib

    if not path.is_file():
        raise InputError(f"{path}: no such file; the results are incomplete, segment the scan again")
    try:
        image = nib.as_closest_canonical(nib.load(path))
        data = np.asarray(image.dataobj, dtype=np.float32)
        return Volume(data, Grid(image.shape, image.affine))
    except SlantError as error:
        raise type(error)(f"{path}: {error}") from error
    except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise InputError(f"{path} is damaged ({error}); segment the scan again") from error


def _check_grid(path: Path, found: Grid, expected: Grid) -> None:
    if not found.same_as(expected):
        raise GeometryError(
            f"{path}: found a grid of shape {found.shape}, expected the grid of the label map, shape {expected.shape}, "
            "with the same affine; these files are of different runs, segment the scan again"
        )


def _read_protocol(lookup: Path, volumes: Path) -> LabelProtocol:
    """Regions of the look-up table, with the tissues and lobes of the table of volumes."""
    import pandas as pd

    try:
        names = pd.read_csv(lookup, sep="\t", keep_default_na=False)
        rows = pd.read_csv(volumes, sep="\t", keep_default_na=False)
        groups = rows[rows["level"] == "region"].astype({"index": int}).set_index("index")
        regions = [
            Region(
                int(row["index"]),
                str(row["name"]),
                str(row["abbreviation"]),
                row["hemisphere"],
                groups["tissue"][row["index"]] if row["index"] else "background",
                groups["lobe"][row["index"]] if row["index"] else "background",
                tuple(bytes.fromhex(str(row["color"]).removeprefix("#"))),  # type: ignore[arg-type]
            )
            for row in names.to_dict("records")
        ]
        return LabelProtocol("results", tuple(regions))
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{lookup} with {volumes.name} cannot be read as tables of regions: {error!r}") from error
    except ProtocolError as error:
        raise ProtocolError(f"{lookup}: {error}") from error


def _find_scan(written: dict[str, Any], scan_path: Path | None, grid: Grid) -> tuple[Scan | None, tuple[str, ...]]:
    """The scan, if its file can be read and is the one that was segmented; otherwise None and a note."""
    entry, requested = written["input"], written.get("requested") or {}
    path = scan_path or Path(entry["path"])
    try:
        if "dicom" in entry:
            from slant.io.dicom.convert import read_dicom

            scan = read_dicom(path, series=entry["dicom"].get("series_instance_uid"))
        else:
            scan = read_scan(path, volume=requested.get("volume"))
    except SlantError as error:
        if scan_path:
            raise
        return None, (f"The scan could not be read ({error}); give its path with --scan.",)
    if scan.sha256 != entry.get("sha256"):
        text = f"{path} is not the file that was segmented: its SHA-256 differs from the record's"
        if scan_path:
            raise InputError(f"{text}; give the scan itself")
        return None, (f"The scan is not shown: {text}.",)
    _check_grid(path, scan.volume.grid, grid)
    return scan, ()
