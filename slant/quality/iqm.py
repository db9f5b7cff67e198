"""Reference-free quality metrics of a finished scan."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from slant.resample import pick_labels
from slant.robust import robust_sd
from slant.template import Template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from slant.io.finished import Finished
    from slant.volume import LabelMap, Volume

    Mask = NDArray[np.bool_]
    Array = NDArray[np.float32]

BORDER_MM = 2
"""Thickness of the border of the brain mask that should contain no white matter."""

OUTLIER_SIGMA_MM = 1.5
"""Standard deviation of the Gaussian that suppresses noise before intensity outliers are detected."""

OUTLIER_ROBUST_SD = 4.0
"""Distance from the median of its tissue, in robust SDs, above which a voxel is an intensity outlier."""

DARK_WIDE_MM, DARK_THIN_MM, DARK_NEAR_MM = 4, 2, 8
"""Radius of the ball that fits into an asymmetric hypointensity; radius of the ball that fits into a counterpart in the
other hemisphere; maximum distance of the counterpart from the mirror image."""

_BLOCK = 2  # voxels along each edge
_NEIGHBOURS_26 = np.ones((3, 3, 3), dtype=np.bool_)


@dataclass(frozen=True)
class QualityMetrics:
    """Quality metrics of one scan.

    Attributes
    ----------
    scan : dict of str to float
        Metrics of the whole scan by the names in `slant.quality.reference.METRICS`; nan if they cannot be measured.
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


def measure_quality(finished: Finished, template: Template) -> QualityMetrics:
    """Compute the quality metrics of a finished scan.

    Parameters
    ----------
    finished : Finished
    template : Template
        The template that the scan was registered to.
    """
    ids = [region.id for region in finished.protocol.regions[1:]]
    inside = finished.labels.data != 0
    vote_fractions = _means(finished.labels.data[inside], finished.confidence.data[inside], ids)
    fragmented = fragmentation(finished.template_labels, ids)
    rows = {row.index: row for row in finished.volumes if row.level == "region" and row.index is not None}
    brain = _mask_in_template(finished)
    labelled = finished.template_labels.data != 0
    counts = np.bincount(finished.template_labels.data.ravel(), minlength=256)
    disconnected = sum(counts[i] * fraction for i, fraction in fragmented.items() if not math.isnan(fraction))
    scan = {
        "registration_similarity": float(finished.record.get("registration_similarity", math.nan)),
        "deformation_similarity": float((finished.record.get("deformation") or {}).get("similarity", math.nan)),
        "rotation": rotation_degrees(finished.native_from_template),
        "scale": _head_size(finished.native_from_template),
        "anisotropic_scaling": anisotropic_scaling(finished.native_from_template),
        "vote_fraction": float(finished.confidence.data[inside].mean()) if inside.any() else math.nan,
        "missing_regions": float(sum(row.volume_mm3 == 0 for row in rows.values())),
        "fragmentation": 100 * disconnected / max(1, labelled.sum()),
        "mask_at_image_border": 100 * border_fraction(finished.brain),
        "unlabelled_brain": 100 * float((brain & ~labelled).sum()) / max(1, brain.sum()),
        "template_overlap": _overlap(labelled, template),
        **intensity_metrics(finished.image.data, _tissues(finished), brain, finished),
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
            for row in finished.volumes
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


def intensity_metrics(image: Array, tissues: Mapping[str, Mask], brain: Mask, finished: Finished) -> dict[str, float]:
    """Contrast, noise, intensity outliers and asymmetric hypointensities of the scan in template space.

    All are nan if white matter, gray matter or the ventricles have fewer than 1000 voxels.

    Returns
    -------
    dict of str to float
        ``wm_gm_contrast``: difference of the medians of white and gray matter, as a fraction of the median of white
        matter; ``cjv``: sum of the robust SDs of white and gray matter divided by the absolute difference of their
        medians (coefficient of joint variation, Ganzetti et al. 2016, lower is better); ``gm_csf_contrast``:
        difference of the medians of gray matter and the ventricles, as a fraction of the median of white matter;
        ``noise``: standard deviation from the finest diagonal Haar coefficients in white matter (Donoho & Johnstone
        1994), as a fraction of the contrast; ``bright_mask_border``: percentage of the outermost voxels of the mask
        that are brighter than the mean of the medians of white and gray matter; ``intensity_outlier``: cm3 of the
        largest connected component in white or gray matter whose smoothed intensity is an outlier of its tissue;
        ``asymmetric_hypointensity``: cm3 of the largest component in the brain, whatever its label, that is as dark as
        CSF in one hemisphere only.
    """
    values = {name: image[mask] for name, mask in tissues.items()}
    if any(part.size < 1000 for part in values.values()):
        return dict.fromkeys(
            (
                "wm_gm_contrast",
                "cjv",
                "gm_csf_contrast",
                "noise",
                "bright_mask_border",
                "intensity_outlier",
                "asymmetric_hypointensity",
            ),
            math.nan,
        )
    median = {name: float(np.median(part)) for name, part in values.items()}
    spread = {name: robust_sd(part) for name, part in values.items()}
    difference = median["white"] - median["gray"]
    scale = max(abs(difference), 1e-6)
    border = brain & ~ndimage.binary_erosion(brain, iterations=BORDER_MM)
    bright = (median["white"] + median["gray"]) / 2
    return {
        "wm_gm_contrast": difference / max(abs(median["white"]), 1e-6),
        "cjv": (spread["white"] + spread["gray"]) / scale,
        "gm_csf_contrast": (median["gray"] - median["csf"]) / max(abs(median["white"]), 1e-6),
        "noise": native_noise(finished) / scale,
        "bright_mask_border": 100 * float((image[border] > bright).mean()) if border.any() else math.nan,
        "intensity_outlier": intensity_outlier_cm3(image, tissues, median, spread),
        "asymmetric_hypointensity": asymmetric_hypointensity_cm3(
            finished.image, brain, (median["gray"] + median["csf"]) / 2
        ),
    }


def native_noise(finished: Finished) -> float:
    """Standard deviation of the noise in white matter of the scan in native space, in normalized intensity.

    The preprocessed image in template space is used if the scan is not available.
    """
    line = finished.record.get("intensity")
    if finished.scan is None or not line:
        data, slope = finished.image.data, 1.0
        ids, labels = finished.protocol.groups("tissue"), finished.template_labels.data
    else:
        data, slope = finished.scan.data, abs(float(line["slope"]))
        ids, labels = finished.protocol.groups("tissue"), finished.labels.data
    inside = ndimage.binary_erosion(np.isin(labels, ids["white"]))
    x, y, z = (n - n % 2 for n in data.shape)
    blocks = np.stack(
        [data[i:x:2, j:y:2, k:z:2] * (1 - 2 * ((i + j + k) % 2)) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    )
    white = np.stack([inside[i:x:2, j:y:2, k:z:2] for i in (0, 1) for j in (0, 1) for k in (0, 1)]).all(axis=0)
    if white.sum() < 100:
        return math.nan
    coefficients = blocks.sum(axis=0)[white] / math.sqrt(8)
    return slope * robust_sd(coefficients, center=0.0)


def intensity_outlier_cm3(
    image: Array, tissues: Mapping[str, Mask], median: Mapping[str, float], robust_sd: Mapping[str, float]
) -> float:
    """Volume in cm3 of the largest connected component whose smoothed intensity is an outlier of its tissue."""
    smooth = ndimage.gaussian_filter(image, OUTLIER_SIGMA_MM)
    outlier = np.zeros(image.shape, dtype=np.bool_)
    for name in ("white", "gray"):
        core = ndimage.binary_erosion(tissues[name])
        outlier |= core & (np.abs(smooth - median[name]) > OUTLIER_ROBUST_SD * robust_sd[name])
    components, count = ndimage.label(outlier)
    return float(np.bincount(components.ravel())[1:].max()) / 1000 if count else 0.0


def asymmetric_hypointensity_cm3(image: Volume, brain: Mask, level: float) -> float:
    """Volume in cm3 of the largest connected component in the brain that is hypointense in one hemisphere only.

    Ventricles, fissures and atrophy are hypointense in both hemispheres, and sulci are thin. So only those parts of
    the hypointense area count into which a ball of radius `DARK_WIDE_MM` fits. Parts within `DARK_NEAR_MM` of the
    mirror image of a hypointense area into which a ball of radius `DARK_THIN_MM` fits are excluded. Computed on blocks
    of 2 x 2 x 2 voxels.

    Parameters
    ----------
    image : Volume
        Image in template space, where x = 0 is the midsagittal plane, with voxels of 1 mm.
    brain : array of bool
        Brain mask on the same grid; holes in the mask count as brain.
    level : float
        Intensity between CSF and gray matter below which a block is hypointense.
    """
    x, y, z = (n // _BLOCK for n in brain.shape)
    blocks = image.data[: _BLOCK * x, : _BLOCK * y, : _BLOCK * z].reshape(x, _BLOCK, y, _BLOCK, z, _BLOCK)
    inside = ndimage.binary_fill_holes(brain[::_BLOCK, ::_BLOCK, ::_BLOCK][:x, :y, :z])
    dark = inside & (blocks.mean(axis=(1, 3, 5)) < level)
    wide = ndimage.binary_opening(dark, _ball(DARK_WIDE_MM))
    if not wide.any():
        return 0.0
    thin = ndimage.binary_opening(dark, _ball(DARK_THIN_MM))
    midline = image.grid.voxel_from_ras[0, 3]
    partners = np.rint((2 * midline - (_BLOCK - 1)) / _BLOCK - np.arange(x)).astype(int)
    inside_grid = (partners >= 0) & (partners < x)
    mirrored = np.zeros_like(thin)
    mirrored[inside_grid] = thin[partners[inside_grid]]
    components, count = ndimage.label(wide & ~ndimage.binary_dilation(mirrored, _ball(DARK_NEAR_MM)))
    return float(np.bincount(components.ravel())[1:].max()) * _BLOCK**3 / 1000 if count else 0.0


def _ball(radius_mm: int) -> Mask:
    radius = radius_mm // _BLOCK
    ball: Mask = np.linalg.norm(np.indices((2 * radius + 1,) * 3) - radius, axis=0) <= radius
    return ball


def _tissues(finished: Finished) -> dict[str, Mask]:
    groups, labels = finished.protocol.groups("tissue"), finished.template_labels.data
    return {tissue: np.isin(labels, groups.get(tissue, ())) for tissue in ("white", "gray", "csf")}


def _mask_in_template(finished: Finished) -> Mask:
    grid = finished.template_labels.grid
    mask: Mask = pick_labels(finished.brain, grid, finished.native_from_template).data != 0
    return mask


def _overlap(labelled: Mask, template: Template) -> float:
    """Dice of the labelled voxels with the brain of the template."""
    brain = pick_labels(template.brain, template.grid).data != 0
    return float(2 * (labelled & brain).sum() / max(1, labelled.sum() + brain.sum()))


def _head_size(native_from_template: NDArray[np.float64]) -> float:
    """Natural logarithm of the ratio of the volume of the head to that of the template."""
    return math.log(abs(float(np.linalg.det(native_from_template[:3, :3]))))


def _means(labels: NDArray[np.integer], values: Array, ids: list[int]) -> dict[int, float]:
    counts = np.bincount(labels, minlength=256)
    sums = np.bincount(labels, weights=values, minlength=256)
    return {i: float(sums[i] / counts[i]) if counts[i] else math.nan for i in ids}
