"""Write labels as a DICOM Segmentation that refers to its source images.

It has one binary segment per region (SegmentationType BINARY, SOP class 1.2.840.10008.5.1.4.1.1.66.4), since label map
segmentations, which are smaller, are not yet read by all viewers. Frames without a voxel of their region are omitted.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from slant._version import __version__
from slant.errors import GeometryError, InputError, errors_about
from slant.grid import Grid
from slant.io.dicom.files import open_dicom
from slant.io.dicom.planes import on_planes, voxels_from_pixels
from slant.io.dicom.series import DAMAGE, Series
from slant.labels import Region
from slant.volume import LabelMap

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from slant.io.read import Scan
    from slant.labels import Region
    from slant.nets.model import Model

_MANUFACTURER, _LABEL, _DESCRIPTION = "slant", "BRAINCOLOR", "slant BrainCOLOR regions"
_MAY_BE_EMPTY = (  # type 2: must exist, may be empty; de-identification often removes them
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName"),
)
_MAX_SERIES_NUMBER = 2**31 - 1  # largest integer string

_STRUCTURES = {
    "3rd Ventricle": codes.SCT.ThirdVentricle,
    "4th Ventricle": codes.SCT.FourthVentricle,
    "Accumbens Area": codes.SCT.NucleusAccumbens,
    "Amygdala": codes.SCT.Amygdala,
    "Brain Stem": codes.SCT.BrainStem,
    "Caudate": codes.SCT.CaudateNucleus,
    "Cerebellum Exterior": codes.SCT.CerebellarCortex,
    "Cerebellum White Matter": codes.SCT.CerebellarWhiteMatter,
    "Cerebral White Matter": codes.SCT.CerebralWhiteMatter,
    "Hippocampus": codes.SCT.Hippocampus,
    "Inf Lat Vent": codes.SCT.InferiorHornOfLateralVentricle,
    "Lateral Ventricle": codes.SCT.LateralVentricle,
    "Pallidum": codes.SCT.GlobusPallidus,
    "Putamen": codes.SCT.Putamen,
    "Thalamus Proper": codes.SCT.Thalamus,
    "Ventral DC": codes.SCT.Diencephalon,
    "Ent entorhinal area": codes.SCT.EntorhinalCortex,
    "AIns anterior insula": codes.SCT.Insula,
    "PIns posterior insula": codes.SCT.Insula,
}
LOBES = {
    "frontal": codes.SCT.FrontalLobe,
    "temporal": codes.SCT.TemporalLobe,
    "parietal": codes.SCT.ParietalLobe,
    "occipital": codes.SCT.OccipitalLobe,
    "limbic": codes.SCT.LimbicLobe,
}
_GROUPS = {"cerebellum": codes.SCT.Cerebellum}
_TISSUES = {"gray": codes.SCT.GrayMatter, "white": codes.SCT.WhiteMatter, "csf": codes.SCT.CerebrospinalFluid}
SIDES = {"L": codes.SCT.Left, "R": codes.SCT.Right}


@dataclass(frozen=True, eq=False)
class SegTarget:
    """Source images that a segmentation refers to.

    Attributes
    ----------
    headers : tuple of Dataset
        Header of every file, without pixels.
    voxels : (N, 3, 3) integer array
        For every frame, maps ``(column, row, 1)`` to a voxel of ``grid``, the grid of the scan.
    """

    series: Series
    headers: tuple[Dataset, ...]
    voxels: NDArray[np.intp]
    grid: Grid
    model: Model


def seg_target(scan: Scan, model: Model) -> SegTarget:
    """Check, before any work is done, that a segmentation can refer to the series of a scan from `read_dicom`.

    Raises
    ------
    InputError
        If the scan is not DICOM, or its headers lack a tag that a segmentation needs.
    GeometryError
        If the scan's voxels are not exactly the pixels of the images.
    """
    if scan.source is None:
        raise InputError(f"{scan.path}: found a scan that is not DICOM, expected the folder of a DICOM series")
    series, grid = scan.source.series, scan.volume.grid
    with errors_about(f"{scan.path}, {series.title}"):
        voxels = voxels_from_pixels(series.planes, series.images[0].shape, grid)
        target = SegTarget(series, _headers(series), voxels, grid, model)
        trial = np.zeros(grid.shape, dtype=np.uint8)
        trial[0, 0, 0] = model.protocol.regions[-1].id
        seg_bytes(target, LabelMap(trial, grid))
    return target


def seg_bytes(target: SegTarget, labels: LabelMap) -> bytes:
    """Bytes of a DICOM file with one segment for each region found, numbered from 1 by ascending id.

    The labels are region ids of the model's protocol on the scan's grid.

    Raises
    ------
    InputError
        If there is no region, or the headers of the series do not allow a segmentation.
    GeometryError
        If the labels are on another grid.
    """
    if not labels.grid.same_as(target.grid):
        raise GeometryError(f"labels of shape {labels.grid.shape} are not on the scan's grid, {target.grid.shape}")
    ids = [i for i in labels.ids if i]
    if not ids:
        raise InputError("no region was found, so there is nothing to write as a DICOM Segmentation")
    numbers = np.zeros(max(ids) + 1, dtype=np.uint8)
    numbers[ids] = np.arange(1, len(ids) + 1)
    pixels = on_planes(numbers[labels.data], target.voxels, target.series.images[0].shape)
    regions = [target.model.protocol.by_id(i) for i in ids]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values in the source that break DICOM's rules
            return _encoded(target, pixels, regions)
    except DAMAGE as error:
        raise InputError(
            f"its headers do not allow a DICOM Segmentation ({error}); leave --dicom-seg out, or fix the headers"
        ) from error


def _headers(series: Series) -> tuple[Dataset, ...]:
    from pydicom import dcmread

    headers = []
    for image in series.images:
        try:
            with open_dicom(image.path) as stream, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                header = dcmread(stream, stop_before_pixels=True, force=True)
                for name in _MAY_BE_EMPTY:
                    if name not in header:
                        setattr(header, name, None)
        except (OSError, *DAMAGE) as error:
            raise InputError(f"{image.path} cannot be read again: {error}") from error
        headers.append(header)
    if "FrameOfReferenceUID" not in headers[0]:
        raise InputError(
            "its images have no FrameOfReferenceUID, so viewers could not overlay a segmentation on them; "
            "leave --dicom-seg out, or export the series again"
        )
    return tuple(headers)


def _encoded(target: SegTarget, pixels: NDArray[np.uint8], regions: list[Region]) -> bytes:
    from highdicom import UID
    from highdicom.seg import Segmentation, SegmentationTypeValues

    number, model = target.series.number or 0, target.model
    dataset = Segmentation(
        source_images=target.headers,
        pixel_array=pixels,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(i, region, model) for i, region in enumerate(regions, 1)],
        series_instance_uid=UID(),
        series_number=min(max(number, 0) * 100 + 1, _MAX_SERIES_NUMBER),
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer=_MANUFACTURER,
        manufacturer_model_name=f"{_MANUFACTURER} {model.name}"[:64],
        software_versions=__version__,
        device_serial_number=model.identity[:64],
        content_label=_LABEL,
        content_description=_DESCRIPTION,
        series_description=_DESCRIPTION,
        omit_empty_frames=True,
    )
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def _segment(number: int, region: Region, model: Model) -> Any:
    from highdicom import UID, AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept

    lobe, side = LOBES.get(region.lobe), SIDES.get(region.hemisphere)
    algorithm = AlgorithmIdentificationSequence(
        name=_MANUFACTURER,
        family=codes.DCM.ArtificialIntelligence,
        version=__version__,
        source=_MANUFACTURER,
        parameters={"model": model.name, "sha256": model.identity},
    )
    segment = SegmentDescription(
        segment_number=number,
        segment_label=region.name[:64],
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=structure_code(region),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=UID(),
        tracking_id=f"BrainCOLOR {region.id}",
        anatomic_regions=None if lobe is None else [lobe],
        display_color=CIELabColor.from_rgb(*region.color),
    )
    segment.SegmentDescription = f"BrainCOLOR {region.id}, {region.abbreviation}"
    if side is not None:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [CodedConcept.from_code(side)]
    return segment


def structure_code(region: Region) -> Code:
    """Closest code: of the structure, cerebral cortex for a gyrus, otherwise of the cerebellum or the tissue."""
    stem = region.name.removeprefix("Left ").removeprefix("Right ")
    general = codes.SCT.CerebralCortex if region.lobe in LOBES else _TISSUES.get(region.tissue, codes.SCT.Brain)
    code: Code = _STRUCTURES.get(stem, _GROUPS.get(region.lobe, general))
    return code
