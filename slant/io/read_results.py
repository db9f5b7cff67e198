"""Read finished results from their files."""

# mypy: allow-untyped-calls

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slant.errors import GeometryError, InputError, ProtocolError, SlantError
from slant.grid import Grid
from slant.io.luts import read_lut
from slant.io.names import RESULT_FILES, ResultNames
from slant.io.read import Scan, read_label_map, read_scan, read_volume
from slant.io.record import Record
from slant.io.results import Result
from slant.io.volume_table import read_volumes
from slant.labels import LabelProtocol
from slant.resample import pick_labels
from slant.volume import LabelMap, Volume
from slant.volumes import intracranial_volume_mm3, region_volumes

if TYPE_CHECKING:
    from slant.template import Template

RECORD = RESULT_FILES["record"]
"""End of the file names of records."""


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


def read_result(path: Path, scan: Path | None = None) -> Result:
    """Read the results in the folder of a record.

    Parameters
    ----------
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
    from slant.io.templates import load_template

    names, folder = ResultNames(path.name.removesuffix(RECORD)), path.parent
    record = read_record(path)
    labels, _ = read_label_map(folder / names.labels)
    template_labels, _ = read_label_map(folder / names.template_labels)
    brain, _ = read_label_map(folder / names.brain)
    confidence, image = _read_volume(folder / names.confidence), _read_volume(folder / names.preprocessed)
    for file, image_grid in ((names.brain, brain.grid), (names.confidence, confidence.grid)):
        _check_grid(folder / file, image_grid, labels.grid)
    _check_grid(folder / names.preprocessed, image.grid, template_labels.grid)
    template = load_template()
    if template.grid.same_as(template_labels.grid):  # affines in files are rounded to float32
        template_labels = LabelMap(template_labels.data, template.grid)
        image = Volume(image.data, template.grid)
    protocol = _read_protocol(folder / names.lookup, folder / names.volumes)
    source, notes = _find_scan(record, scan, labels.grid)
    try:
        volumes = region_volumes(labels, protocol, _intracranial_mm3(record, template))
        protocol.channels_from_ids(template_labels.data)
    except ProtocolError as error:
        raise ProtocolError(f"{folder / names.labels} does not fit {names.lookup}: {error}") from error
    return Result(
        names.name,
        source,
        labels,
        confidence,
        brain,
        template_labels,
        pick_labels(brain, template_labels.grid, record.native_from_template),
        image,
        protocol,
        volumes,
        record,
        notes,
    )


def read_record(path: Path) -> Record:
    """Read a record.

    Raises
    ------
    InputError
        If the file cannot be read or is not a record.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as the record of a run: {error}; segment the scan again") from error
    return Record.from_json(text, str(path))


def _intracranial_mm3(record: Record, template: Template) -> float | None:
    if record.etiv_mm3 is None:
        return None
    template_from_native = np.asarray(np.linalg.inv(record.native_from_template), dtype=np.float64)
    return intracranial_volume_mm3(template.intracranial_mm3, template_from_native)


def _read_volume(path: Path) -> Volume:
    """Read an image that slant wrote, on the axes closest to RAS+."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; the results are incomplete, segment the scan again")
    try:
        return read_volume(path)
    except SlantError as error:
        raise type(error)(f"{error}; or segment the scan again") from error


def _check_grid(path: Path, found: Grid, expected: Grid) -> None:
    if not found.same_as(expected):
        raise GeometryError(
            f"{path}: found a grid of shape {found.shape}, expected the grid of the label map, shape {expected.shape}, "
            "with the same affine; these files are of different runs, segment the scan again"
        )


def _read_protocol(lookup: Path, volumes: Path) -> LabelProtocol:
    """Regions of the look-up table, with the tissues and lobes of the table of volumes."""
    try:
        return read_lut(lookup, {row.index: row for row in read_volumes(volumes) if row.index is not None})
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{lookup} with {volumes.name} cannot be read as tables of regions: {error!r}") from error
    except ProtocolError as error:
        raise ProtocolError(f"{lookup}: {error}") from error


def _find_scan(record: Record, scan_path: Path | None, grid: Grid) -> tuple[Scan | None, tuple[str, ...]]:
    """The scan, if its file can be read and is the one that was segmented; otherwise None and a note."""
    path = scan_path or Path(record.input.path)
    try:
        if record.input.dicom is None:
            scan = read_scan(path, volume=(record.requested or {}).get("volume"))
        else:
            from slant.io.dicom.convert import read_dicom

            scan = read_dicom(path, series=record.input.dicom.get("series_instance_uid"))
    except SlantError as error:
        if scan_path:
            raise
        return None, (f"The scan could not be read ({error}); give its path with --scan.",)
    if scan.sha256 != record.input.sha256:
        text = f"{path} is not the file that was segmented: its SHA-256 differs from the record's"
        if scan_path:
            raise InputError(f"{text}; give the scan itself")
        return None, (f"The scan is not shown: {text}.",)
    _check_grid(path, scan.volume.grid, grid)
    return scan, ()
