"""The results of one scan, from memory or from files, and how they are written: atomically, the record last."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slant._version import __version__
from slant.errors import OutputError
from slant.io.luts import format_lut
from slant.io.names import OPTIONAL, RESULT_FILES, ResultNames
from slant.io.record import DeformationRecord, InputRecord, IntensityRecord, ModelRecord, Record
from slant.io.staging import staged, write_json
from slant.io.volume_table import format_volumes
from slant.io.write import write_image
from slant.preprocess.ants import affine_file
from slant.resample import pick_labels
from slant.threads import ONE_THREAD, Threads

if TYPE_CHECKING:
    from slant.config import SegmentSettings
    from slant.grid import Matrix
    from slant.io.quality import Quality
    from slant.io.read import Scan
    from slant.labels import LabelProtocol
    from slant.nets.model import Model
    from slant.segmentation import Segmentation
    from slant.volume import LabelMap, Volume
    from slant.volumes import VolumeRow

_PACKAGES = ("antspyx", "deepbet", "nibabel", "numpy", "scipy", "torch")


@dataclass(frozen=True, eq=False)
class Result:
    """One scan's results: `make_result` makes them in memory, `slant.io.read_results.read_result` reads their files.

    Attributes
    ----------
    name : str
        Prefix of the output files.
    scan : Scan or None
        None if the file named in the record cannot be read or has changed.
    labels, confidence, brain : LabelMap, Volume, LabelMap
        Region ids, confidence of the labels (0 to 1) and brain mask, in native space.
    template_labels, template_brain : LabelMap
        Region ids and brain mask on the template's grid.
    image : Volume
        Input of the networks, on the template's grid.
    notes : tuple of str
        Messages about what could not be found.
    """

    name: str
    scan: Scan | None
    labels: LabelMap
    confidence: Volume
    brain: LabelMap
    template_labels: LabelMap
    template_brain: LabelMap
    image: Volume
    protocol: LabelProtocol
    volumes: tuple[VolumeRow, ...]
    record: Record
    notes: tuple[str, ...] = ()

    @property
    def quality(self) -> Quality | None:
        """Grade, checks, metrics and quality of each region; None if the scan is not graded."""
        return self.record.quality

    @property
    def native_from_template(self) -> Matrix:
        """(4, 4) float64: RAS mm in template space to RAS mm in the scan's space."""
        return self.record.native_from_template


def make_result(
    scan: Scan,
    segmentation: Segmentation,
    model: Model,
    settings: SegmentSettings,
    requested: dict[str, Any] | None = None,
) -> Result:
    """The result of a segmentation that is not graded yet.

    Parameters
    ----------
    settings : SegmentSettings
        Resolved settings.
    requested : dict, optional
        Settings as given, and ``volume``.
    """
    prepared = segmentation.prepared
    return Result(
        scan.name,
        scan,
        segmentation.labels,
        segmentation.confidence,
        prepared.brain,
        segmentation.template_labels,
        pick_labels(prepared.brain, segmentation.template_labels.grid, prepared.native_from_template),
        prepared.image,
        model.protocol,
        segmentation.volumes,
        _record(scan, segmentation, model, settings, requested),
    )


def _record(
    scan: Scan, segmentation: Segmentation, model: Model, settings: SegmentSettings, requested: dict[str, Any] | None
) -> Record:
    prepared, volumes = segmentation.prepared, segmentation.volumes
    line, scaling, found = prepared.intensity_line, model.inputs.scaling, prepared.deformation
    etiv_mm3 = next(row.volume_mm3 for row in volumes if row.level == "intracranial")
    return Record(
        InputRecord(os.fspath(scan.path), scan.sha256, None if scan.source is None else scan.source.plain()),
        ModelRecord(model.name, model.identity, model.licence),
        software_versions(),
        {**asdict(settings), "threads": settings.thread_count},
        requested,
        scan.warnings + segmentation.warnings,
        round(prepared.similarity, 6),
        None
        if found is None
        else DeformationRecord(round(found.similarity, 6), round(found.affine_similarity, 6), found.accepted),
        prepared.native_from_template,
        None
        if line is None
        else IntensityRecord(
            line.slope, line.intercept, scaling.offset, scaling.scale, scan.intensities.zero, scan.intensities.scale
        ),
        None if math.isnan(etiv_mm3) else round(etiv_mm3, 1),
        sum(row.volume_mm3 > 0 for row in volumes if row.level == "region"),
        None,
        segmentation.timings,
        None if prepared.atlases is None else prepared.atlases.similarities,
    )


def software_versions() -> dict[str, str]:
    """Versions of slant and of the packages that the labels depend on."""
    return {"slant": __version__, **{name: version(name) for name in _PACKAGES}}


def write_results(
    result: Result,
    folder: Path,
    drawings: Mapping[str, bytes],
    unfinished: Path | None = None,
    threads: Threads = ONE_THREAD,
) -> dict[str, Path]:
    """Write all files of a scan through `slant.io.staging.staged`; returns their paths by kind, sorted.

    Parameters
    ----------
    result : Result
        With its scan, whose geometry the images in native space have.
    drawings : mapping of str to bytes
        Contents of the ``overlay`` and, if wanted, of the optional files, by their kinds in
        `slant.io.names.RESULT_FILES`.
    unfinished : Path, optional
        Staging folder, see `slant.io.staging.staged`.
    threads : Threads, optional
        Compress the images.

    Raises
    ------
    OutputError
        If the scan is missing or a file cannot be written; existing results are then unchanged.
    """
    if result.scan is None:
        raise OutputError(f"cannot write the results of {result.name}: its scan, whose geometry they have, is missing")
    names = ResultNames(result.name)
    with staged(folder, names, names.optional, unfinished) as temporary:
        images: tuple[tuple[str, Volume | LabelMap, Scan | None], ...] = (
            (names.preprocessed, result.image, None),  # the slowest first
            (names.confidence, result.confidence, result.scan),
            (names.labels, result.labels, result.scan),
            (names.template_labels, result.template_labels, None),
            (names.brain, result.brain, result.scan),
        )
        written: list[Future[None]] = []
        try:
            for name, data, like in images:
                written.append(threads.start(write_image, temporary / name, data, like))
            _write_texts(temporary, names, result, drawings)
        finally:
            wait(written)  # nothing is written any more when an error deletes the folder
        for image in written:
            image.result()
    kinds = [kind for kind in sorted(RESULT_FILES) if kind in drawings or kind not in OPTIONAL]
    return {kind: folder / names.of(kind) for kind in kinds}


def _write_texts(folder: Path, names: ResultNames, result: Result, drawings: Mapping[str, bytes]) -> None:
    """Write the files of a scan that are not images, and the drawings."""
    (folder / names.transform).write_bytes(affine_file(result.native_from_template))
    texts = {
        names.lookup: format_lut(result.protocol, "tsv"),
        names.volumes: format_volumes(result.volumes, result.quality),
        names.record: result.record.to_json(),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    write_json(folder / names.sidecar, _sidecar(result.record))
    for kind, content in drawings.items():
        (folder / names.of(kind)).write_bytes(content)


def _sidecar(record: Record) -> dict[str, Any]:
    return {
        "Description": "BrainCOLOR regions by slant",
        "Sources": [Path(record.input.path).name],
        "SpatialReference": "orig",
        "Atlas": "BrainCOLOR",
        "Manual": False,
        "Model": record.model.name,
        "ModelHash": record.model.sha256,
        "ModelLicense": record.model.licence,
        "GeneratedBy": [{"Name": "slant", "Version": record.versions["slant"]}],
    }
