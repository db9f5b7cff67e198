"""Reference-free quality metrics of a finished scan, from its labels, brain mask and registration."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from slant.quality.intensity_metrics import intensity_metrics
from slant.resample import pick_labels
from slant.template import Template
from slant.threads import ONE_THREAD, Threads
from slant.volumes import head_volumes_cm3

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slant.io.results import Result
    from slant.volume import LabelMap

    Mask = NDArray[np.bool_]
    Array = NDArray[np.float32]

_NEIGHBOURS_26 = np.ones((3, 3, 3), dtype=np.bool_)


@dataclass(frozen=True)
class QualityMetrics:
    """Quality metrics of one scan.

    Attributes
    ----------
    scan : dict of str to float
        Metrics of the whole scan by the names in `slant.quality.metrics.METRICS`; nan if they cannot be measured.
    fractions : dict of int to float
        Volume of each region as a fraction of the intracranial volume, by id.
    asymmetries : dict of int to float
        Asymmetry ``100 (L - R) / (0.5 (L + R))`` of each pair of regions, by the id of the left region.
    vote_fractions : dict of int to float
        Mean vote fraction of each region, by id; nan if the region was not found.
    fragmentation : dict of int to float
        Fraction of each region outside its largest connected component, by id; nan if the region was not found.
    aggregates : dict of str to float
        Volumes of tissues, lobes and the brain as fractions of the intracranial volume, by ``level:name``.
    """

    scan: dict[str, float]
    fractions: dict[int, float] = field(default_factory=dict)
    asymmetries: dict[int, float] = field(default_factory=dict)
    vote_fractions: dict[int, float] = field(default_factory=dict)
    fragmentation: dict[int, float] = field(default_factory=dict)
    aggregates: dict[str, float] = field(default_factory=dict)


def measure_quality(result: Result, template: Template, threads: Threads = ONE_THREAD) -> QualityMetrics:
    """Compute the quality metrics of a finished scan, which was registered to the template, on these threads."""
    ids = [region.id for region in result.protocol.regions[1:]]
    fragmenting = threads.start(fragmentation, result.template_labels, ids)
    bordering = threads.start(border_fraction, result.brain)
    brain, labelled = result.template_brain.data != 0, result.template_labels.data != 0
    intensities = intensity_metrics(result, brain, threads)
    inside = result.labels.data != 0
    vote_fractions = _means(result.labels.data[inside], result.confidence.data[inside], ids)
    fragmented = fragmenting.result()
    rows = {row.index: row for row in result.volumes if row.level == "region" and row.index is not None}
    counts = np.bincount(result.template_labels.data.ravel(), minlength=256)
    disconnected = sum(counts[i] * fraction for i, fraction in fragmented.items() if not math.isnan(fraction))
    head_cm3 = head_volumes_cm3(result.volumes)
    registration, deformation = result.record.registration_similarity, result.record.deformation
    scan = {
        "registration_similarity": math.nan if registration is None else registration,
        "deformation_similarity": math.nan if deformation is None else deformation.similarity,
        "rotation": rotation_degrees(result.native_from_template),
        "brain_volume": head_cm3.get("brain with ventricles", math.nan),
        "etiv": head_cm3.get("eTIV", math.nan),
        "scale": math.log(abs(float(np.linalg.det(result.native_from_template[:3, :3])))),
        "anisotropic_scaling": anisotropic_scaling(result.native_from_template),
        "vote_fraction": float(result.confidence.data[inside].mean()) if inside.any() else math.nan,
        "missing_regions": float(sum(row.volume_mm3 == 0 for row in rows.values())),
        "fragmentation": 100 * disconnected / max(1, labelled.sum()),
        "mask_at_image_border": 100 * bordering.result(),
        "unlabelled_brain": 100 * float((brain & ~labelled).sum()) / max(1, brain.sum()),
        "template_overlap": _overlap(labelled, template),
        **intensities,
    }
    left = {i: row for i, row in rows.items() if row.hemisphere == "L"}
    return QualityMetrics(
        scan,
        {i: row.etiv_fraction for i, row in rows.items()},
        {i: row.asymmetry_percent for i, row in left.items()},
        vote_fractions,
        fragmented,
        {
            f"{row.level}:{row.name}": row.etiv_fraction
            for row in result.volumes
            if row.level not in ("region", "intracranial") and row.hemisphere == "both"
        },
    )


def fragmentation(labels: LabelMap, ids: list[int]) -> dict[int, float]:
    """Fraction of each region outside its largest connected component (26 neighbours); nan for absent regions."""
    boxes = ndimage.find_objects(labels.data)
    fractions = dict.fromkeys(ids, math.nan)
    for i in ids:
        box = boxes[i - 1] if i <= len(boxes) else None
        if box is not None:
            components, _ = ndimage.label(labels.data[box] == i, structure=_NEIGHBOURS_26)
            sizes = np.bincount(components.ravel())[1:]
            fractions[i] = 1 - float(sizes.max() / sizes.sum())
    return fractions


def rotation_degrees(native_from_template: NDArray[np.float64]) -> float:
    """Angle of the rotation nearest to the affine between the template and native space."""
    u, _, v = np.linalg.svd(native_from_template[:3, :3])
    cosine = (np.trace(u @ v) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def anisotropic_scaling(native_from_template: NDArray[np.float64]) -> float:
    """Ratio of the largest to the smallest singular value of the affine: 1 for isotropic scaling."""
    scales = np.linalg.svd(native_from_template[:3, :3], compute_uv=False)
    return float(scales[0] / scales[-1])


def border_fraction(mask: LabelMap) -> float:
    """Fraction of the surface of the mask that lies on the faces of the image: 0 if the mask is not truncated."""
    data = mask.data != 0
    surface = data & ~ndimage.binary_erosion(data, border_value=1)
    faces = np.zeros(data.shape, dtype=np.bool_)
    for axis in range(3):
        for end in (0, -1):
            np.moveaxis(faces, axis, 0)[end] = True
    on_faces = (data & faces).sum()
    return float(on_faces / max(1, on_faces + (surface & ~faces).sum()))


def _overlap(labelled: Mask, template: Template) -> float:
    """Dice of the labelled voxels with the brain of the template."""
    brain = pick_labels(template.brain, template.grid).data != 0
    return float(2 * (labelled & brain).sum() / max(1, labelled.sum() + brain.sum()))


def _means(labels: NDArray[np.integer], values: Array, ids: list[int]) -> dict[int, float]:
    counts = np.bincount(labels, minlength=256)
    sums = np.bincount(labels, weights=values, minlength=256)
    return {i: float(sums[i] / counts[i]) if counts[i] else math.nan for i in ids}
