"""What can be measured on a finished scan without knowing the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from slant.resample import pick_labels
from slant.template import Template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from slant.io.finished import Finished
    from slant.volume import LabelMap, Volume

    Mask = NDArray[np.bool_]
    Array = NDArray[np.float32]

RIM_MM = 2
"""Thickness of the rim of the brain mask that should hold no white matter."""

LESION_SIGMA_MM = 1.5
"""Smoothing before intensities are compared with their tissue, so that noise makes no lesion."""

LESION_SPREADS = 4.0
"""Spreads from the middle of its tissue from which a voxel counts as strange."""

DARK_WIDE_MM, DARK_THIN_MM, DARK_NEAR_MM = 4, 2, 8
"""Radius of the ball that fits into a dark place that counts; into one on the other side that excuses it; how far from
its mirror image that one may lie."""

_MAD = 1.4826  # of a normal distribution: standard deviation by median absolute deviation
_BLOCK = 2
_FACE = np.ones((3, 3, 3), dtype=np.bool_)


@dataclass(frozen=True)
class Measures:
    """Numbers of one scan.

    Attributes
    ----------
    scan : dict of str to float
        By the names in `slant.quality.reference.MEASURES`; nan where it cannot be measured.
    fractions : dict of int to float
        Volume of each region as a share of the intracranial volume, by id.
    asymmetries : dict of int to float
        ``100 (L - R) / (0.5 (L + R))`` of each left region with its partner, by the id of the left one.
    shares : dict of int to float
        Mean share of the votes in each region, nan where it was not found.
    pieces : dict of int to float
        Share of each region that lies apart from its largest piece, nan where it was not found.
    sums : dict of str to float
        Volumes of tissues, lobes and the brain as shares of the intracranial volume, by ``level:name``.
    """

    scan: dict[str, float]
    fractions: dict[int, float] = field(default_factory=dict)
    asymmetries: dict[int, float] = field(default_factory=dict)
    shares: dict[int, float] = field(default_factory=dict)
    pieces: dict[int, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)


def measure(finished: Finished, template: Template) -> Measures:
    """Measure a finished scan.

    Parameters
    ----------
    finished : Finished
    template : Template
        The space of its networks.
    """
    ids = [region.id for region in finished.protocol.regions[1:]]
    inside = finished.labels.data != 0
    shares = _means(finished.labels.data[inside], finished.confidence.data[inside], ids)
    pieces = fragments(finished.template_labels, ids)
    rows = {row.index: row for row in finished.volumes if row.level == "region" and row.index is not None}
    brain = _mask_in_template(finished)
    labelled = finished.template_labels.data != 0
    counts = np.bincount(finished.template_labels.data.ravel(), minlength=256)
    apart = sum(counts[i] * share for i, share in pieces.items() if not math.isnan(share))
    scan = {
        "similarity": float(finished.record.get("registration_similarity", math.nan)),
        "deformation": float((finished.record.get("deformation") or {}).get("similarity", math.nan)),
        "tilt": tilt_degrees(finished.home_from_template),
        "head": _head_size(finished.home_from_template),
        "stretch": stretch(finished.home_from_template),
        "votes": float(finished.confidence.data[inside].mean()) if inside.any() else math.nan,
        "missing": float(sum(row.volume_mm3 == 0 for row in rows.values())),
        "fragments": 100 * apart / max(1, labelled.sum()),
        "cut": 100 * border_share(finished.brain),
        "brain": 100 * float((brain & ~labelled).sum()) / max(1, brain.sum()),
        "overlap": _overlap(labelled, template),
        **intensity_measures(finished.image.data, _tissues(finished), brain, finished),
    }
    left = {i: row for i, row in rows.items() if row.hemisphere == "L"}
    return Measures(
        scan,
        {i: row.tiv_fraction for i, row in rows.items()},
        {i: row.asymmetry_percent for i, row in left.items()},
        shares,
        pieces,
        {
            f"{row.level}:{row.name}": row.tiv_fraction
            for row in finished.volumes
            if row.level not in ("region", "intracranial") and row.hemisphere == "both"
        },
    )


def fragments(labels: LabelMap, ids: list[int]) -> dict[int, float]:
    """Share of each region's voxels that lie apart from its largest piece (26 neighbours); nan where it is absent."""
    boxes = ndimage.find_objects(labels.data)
    found = dict.fromkeys(ids, math.nan)
    for i in ids:
        box = boxes[i - 1] if i <= len(boxes) else None
        if box is not None:
            pieces, _ = ndimage.label(labels.data[box] == i, structure=_FACE)
            sizes = np.bincount(pieces.ravel())[1:]
            found[i] = 1 - float(sizes.max() / sizes.sum())
    return found


def tilt_degrees(home_from_template: NDArray[np.float64]) -> float:
    """Angle by which the head is turned against the template, from the rotation nearest to the affine."""
    u, _, v = np.linalg.svd(home_from_template[:3, :3])
    cosine = (np.trace(u @ v) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def stretch(home_from_template: NDArray[np.float64]) -> float:
    """How much more the head is stretched along one direction than along another, against the template: 1 if not."""
    scales = np.linalg.svd(home_from_template[:3, :3], compute_uv=False)
    return float(scales[0] / scales[-1])


def border_share(mask: LabelMap) -> float:
    """Share of the mask's surface that lies on the faces of the image: 0 if nothing is cut."""
    data = mask.data != 0
    surface = data & ~ndimage.binary_erosion(data, border_value=1)
    faces = np.zeros(data.shape, dtype=np.bool_)
    for axis in range(3):
        for end in (0, -1):
            np.moveaxis(faces, axis, 0)[end] = True
    cut = (data & faces).sum()
    return float(cut / max(1, cut + (surface & ~faces).sum()))


def intensity_measures(image: Array, tissues: Mapping[str, Mask], brain: Mask, finished: Finished) -> dict[str, float]:
    """Contrast, noise and strange places of the scan in template space.

    Returns
    -------
    dict of str to float
        ``contrast``: difference of the medians of white and gray matter, as a share of white matter's; ``joint
        variation`` (CJV): sum of their spreads divided by that difference (Ganzetti et al. 2016, lower is better);
        ``fluid``: that of gray matter and the ventricles; ``noise``: standard deviation from the finest diagonal Haar
        coefficients in white matter (Donoho & Johnstone 1994) as a share of the contrast; ``rim``: % of the outermost
        voxels of the mask that are as bright as white matter; ``lesion``: cm3 of the largest connected place inside
        white matter, deep gray matter and cortex whose intensity is strange for its tissue; ``dark``: cm3 of the
        largest place in the brain, whatever its label, that is as dark as fluid on one side only.
    """
    values = {name: image[mask] for name, mask in tissues.items()}
    if any(part.size < 1000 for part in values.values()):
        return dict.fromkeys(("contrast", "joint variation", "fluid", "noise", "rim", "lesion", "dark"), math.nan)
    middle = {name: float(np.median(part)) for name, part in values.items()}
    spread = {name: _MAD * float(np.median(np.abs(part - middle[name]))) for name, part in values.items()}
    difference = middle["white"] - middle["gray"]
    scale = max(abs(difference), 1e-6)
    rim = brain & ~ndimage.binary_erosion(brain, iterations=RIM_MM)
    bright = (middle["white"] + middle["gray"]) / 2
    return {
        "contrast": difference / max(abs(middle["white"]), 1e-6),
        "joint variation": (spread["white"] + spread["gray"]) / scale,
        "fluid": (middle["gray"] - middle["fluid"]) / max(abs(middle["white"]), 1e-6),
        "noise": native_noise(finished) / scale,
        "rim": 100 * float((image[rim] > bright).mean()) if rim.any() else math.nan,
        "lesion": strange_cm3(image, tissues, middle, spread),
        "dark": dark_cm3(finished.image, brain, (middle["gray"] + middle["fluid"]) / 2),
    }


def native_noise(finished: Finished) -> float:
    """Standard deviation of the noise in white matter, in units of the networks, from the scan as it was measured."""
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
    details = blocks.sum(axis=0)[white] / math.sqrt(8)
    return slope * _MAD * float(np.median(np.abs(details)))


def strange_cm3(
    image: Array, tissues: Mapping[str, Mask], middle: Mapping[str, float], spread: Mapping[str, float]
) -> float:
    """Volume of the largest connected place whose smoothed intensity does not fit its tissue, in cm3."""
    smooth = ndimage.gaussian_filter(image, LESION_SIGMA_MM)
    strange = np.zeros(image.shape, dtype=np.bool_)
    for name in ("white", "gray"):
        core = ndimage.binary_erosion(tissues[name])
        strange |= core & (np.abs(smooth - middle[name]) > LESION_SPREADS * spread[name])
    pieces, count = ndimage.label(strange)
    return float(np.bincount(pieces.ravel())[1:].max()) / 1000 if count else 0.0


def dark_cm3(image: Volume, brain: Mask, level: float) -> float:
    """Volume of the largest connected place in the brain that is dark on one side only, in cm3.

    Ventricles, fissures and atrophy are dark on both sides, and sulci are thin. So a place counts where a ball of
    `DARK_WIDE_MM` fits into what is darker than the level, and no place that takes one of `DARK_THIN_MM` lies within
    `DARK_NEAR_MM` of its mirror image. Measured on blocks of 2 x 2 x 2 voxels.

    Parameters
    ----------
    image : Volume
        In template space, whose x = 0 is the plane between the sides, at 1 mm.
    brain : array of bool
        Brain mask on the same grid; holes in it count as brain.
    level : float
        Between fluid and gray matter.
    """
    x, y, z = (n // _BLOCK for n in brain.shape)
    blocks = image.data[: _BLOCK * x, : _BLOCK * y, : _BLOCK * z].reshape(x, _BLOCK, y, _BLOCK, z, _BLOCK)
    inside = ndimage.binary_fill_holes(brain[::_BLOCK, ::_BLOCK, ::_BLOCK][:x, :y, :z])
    dark = inside & (blocks.mean(axis=(1, 3, 5)) < level)
    wide = ndimage.binary_opening(dark, _ball(DARK_WIDE_MM))
    if not wide.any():
        return 0.0
    thin = ndimage.binary_opening(dark, _ball(DARK_THIN_MM))
    middle = image.grid.voxel_from_ras[0, 3]
    partners = np.rint((2 * middle - (_BLOCK - 1)) / _BLOCK - np.arange(x)).astype(int)
    there = (partners >= 0) & (partners < x)
    mirrored = np.zeros_like(thin)
    mirrored[there] = thin[partners[there]]
    pieces, count = ndimage.label(wide & ~ndimage.binary_dilation(mirrored, _ball(DARK_NEAR_MM)))
    return float(np.bincount(pieces.ravel())[1:].max()) * _BLOCK**3 / 1000 if count else 0.0


def _ball(radius_mm: int) -> Mask:
    radius = radius_mm // _BLOCK
    ball: Mask = np.linalg.norm(np.indices((2 * radius + 1,) * 3) - radius, axis=0) <= radius
    return ball


def _tissues(finished: Finished) -> dict[str, Mask]:
    groups, labels = finished.protocol.groups("tissue"), finished.template_labels.data
    names = {"white": "white", "gray": "gray", "fluid": "csf"}
    return {name: np.isin(labels, groups.get(tissue, ())) for name, tissue in names.items()}


def _mask_in_template(finished: Finished) -> Mask:
    grid = finished.template_labels.grid
    mask: Mask = pick_labels(finished.brain, grid, finished.home_from_template).data != 0
    return mask


def _overlap(labelled: Mask, template: Template) -> float:
    """Dice of what is labelled with the brain of the template."""
    brain = pick_labels(template.brain, template.grid).data != 0
    return float(2 * (labelled & brain).sum() / max(1, labelled.sum() + brain.sum()))


def _head_size(home_from_template: NDArray[np.float64]) -> float:
    """Natural logarithm of the head's volume relative to the template's."""
    return math.log(abs(float(np.linalg.det(home_from_template[:3, :3]))))


def _means(labels: NDArray[np.integer], values: Array, ids: list[int]) -> dict[int, float]:
    counts = np.bincount(labels, minlength=256)
    sums = np.bincount(labels, weights=values, minlength=256)
    return {i: float(sums[i] / counts[i]) if counts[i] else math.nan for i in ids}
