"""Anatomical augmentation: random changes that depend on the labels, such as atrophy and white matter lesions.

Most subjects with manual labels are young, but subjects of any age are scanned. Atrophy is a deformation that widens
the spaces filled with cerebrospinal fluid (CSF), so the labels move with the image. Lesions of the white matter change
only the image. As in `slant.train.augment`, each change is a function of its generator, computed on the device of the
scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from slant.train import draws
from slant.train.augment import AugmentSettings, pick_labels, smooth_field
from slant.train.data import LabelledScan
from slant.train.intensity import gaussian_blur

VENTRICLE_SPACING, SULCAL_SPACING = 4, 2
"""Template voxels (1 mm) per voxel of the deformation."""

VENTRICLE_SIGMA_MM, SULCAL_SIGMA_MM = 9.0, 2.5
"""Standard deviation of the Gaussian smoothing of the deformation."""

LESION_MM = 9.0
"""Distance in mm between the control points of the random field whose peaks become lesions."""


@dataclass(frozen=True)
class Widening:
    """Distances in mm by which the walls of CSF spaces move apart; negative values narrow them.

    Attributes
    ----------
    shrink_brain : bool
        Whether the brain also shrinks away from the border of its mask, as in atrophy; see `fill_with_csf`.
    """

    ventricles_mm: float
    sulci_mm: float
    shrink_brain: bool = False


def simulate_atrophy(
    coordinates: Tensor, scan: LabelledScan, csf: Tensor, settings: AugmentSettings, generator: Generator
) -> Tensor:
    """Deform sampling coordinates in half of the calls: ventricles and sulci become wider or a little narrower.

    Parameters
    ----------
    coordinates : (X, Y, Z, 3) float32
        Template voxel at which each voxel is sampled; X, Y and Z are even.
    csf : (C,) bool tensor
        Whether each channel is CSF, that is a ventricle.
    settings : AugmentSettings
        Its ``ventricle_dilation_mm`` and ``sulcal_widening_mm`` are the largest widenings.

    Returns
    -------
    (X, Y, Z, 3) float32 tensor
        The input itself if nothing is deformed.
    """
    if not (settings.ventricle_dilation_mm or settings.sulcal_widening_mm) or draws.uniform(generator) < 0.5:
        return coordinates
    limits = (settings.ventricle_dilation_mm, settings.sulcal_widening_mm)
    ventricles, sulci = (mm * (1.2 * draws.uniform(generator) - 0.2) for mm in limits)
    shrink_brain = settings.sulcal_widening_mm > 0 and draws.uniform(generator) < 0.5
    return dilate_csf(coordinates, scan, csf, Widening(ventricles, sulci, shrink_brain), generator)


def dilate_csf(
    coordinates: Tensor, scan: LabelledScan, csf: Tensor, widening: Widening, generator: Generator
) -> Tensor:
    """Deform sampling coordinates so that the walls of ventricles and sulci move apart by about the given distances.

    The distances vary smoothly by a third; for ``coordinates``, ``csf`` and the result see `simulate_atrophy`.
    """
    device = coordinates.device
    ventricles = _in_channels(scan.channels, csf)
    sulci = (scan.channels == 0) & ((scan.image > 0) | widening.shrink_brain)
    sizes = torch.tensor(scan.image.shape, dtype=torch.float32)
    unit = (coordinates[::2, ::2, ::2] * (2 / (sizes - 1)).to(device) - 1).flip(-1)[None]
    coarse = torch.zeros(1, 3, *unit.shape[1:4], device=device)
    for mask, spacing, sigma_mm, mm in (
        (ventricles, VENTRICLE_SPACING, VENTRICLE_SIGMA_MM, widening.ventricles_mm),
        (sulci, SULCAL_SPACING, SULCAL_SIGMA_MM, widening.sulci_mm),
    ):
        field = _vectors_towards(mask, spacing, sigma_mm) * mm
        field *= 1 + 0.3 * smooth_field(field[0].shape, 60 / spacing, 1, generator, device)
        coarse += functional.grid_sample(field[None], unit, padding_mode="border", align_corners=True)
    x, y, z, _ = coordinates.shape
    displacement = functional.interpolate(coarse, size=(x, y, z), mode="trilinear", align_corners=False)
    return coordinates + displacement[0].permute(1, 2, 3, 0)


def _vectors_towards(mask: Tensor, spacing: int, sigma_mm: float) -> Tensor:
    """(3, X/spacing, Y/spacing, Z/spacing) vectors towards a mask, of length 1 along most of its border."""
    fraction = functional.avg_pool3d(mask.float()[None, None], spacing, ceil_mode=True)[0, 0]
    gradient = torch.stack(torch.gradient(gaussian_blur(fraction, sigma_mm / spacing)))
    length = gradient.norm(dim=0)
    return gradient / torch.maximum(length, _large(length)).clamp(min=1e-6)


def _large(length: Tensor) -> Tensor:
    """() the length below which 97 % of the lengths lie that are above a hundredth of the largest; 0 if all are 0.

    The number of these lengths stays on the device, so that the device need not wait for the CPU.
    """
    in_order = torch.sort(length.flatten()).values
    first = torch.searchsorted(in_order, 0.01 * in_order[-1:], right=True)
    last = len(in_order) - 1
    place = first + torch.round(0.97 * (last - first)).long()
    return in_order.gather(0, place.clamp(max=last))[0]


def _in_channels(channels: Tensor, selected: Tensor) -> Tensor:
    """Whether the channel of each voxel is one of those selected by a (C,) mask; False for voxels without a label."""
    table = torch.zeros(256, dtype=torch.bool, device=channels.device)
    table[: len(selected)] = selected.to(channels.device)
    return table[channels.int()]


def fill_with_csf(image: Tensor, scan: LabelledScan, before: Tensor, after: Tensor, csf: Tensor) -> Tensor:
    """Fill the gap between the border of the brain mask and a brain that has shrunk with the intensity of CSF.

    Parameters
    ----------
    image : (X, Y, Z) float32
        Sampled at the coordinates ``after``.
    before, after : (X, Y, Z, 3) float32
        Coordinates before and after `simulate_atrophy`.
    csf : (C,) bool tensor
        Whether each channel is CSF; the mean intensity of these channels fills the gap.

    Returns
    -------
    (X, Y, Z) float32 tensor
    """
    if before is after:
        return image
    mask = (scan.image > 0).to(torch.uint8)
    gap = pick_labels(mask, before).bool() & ~pick_labels(mask, after).bool()
    ventricles = _in_channels(scan.channels[::2, ::2, ::2], csf)
    count = ventricles.sum()
    mean = (scan.image[::2, ::2, ::2] * ventricles).sum() / count.clamp(min=1)
    level = torch.where(count > 0, mean, 0.3)
    return torch.where(gap, torch.maximum(image, level.clamp(min=0.02)), image)


def add_lesions(
    image: Tensor,
    scan: LabelledScan,
    coordinates: Tensor,
    white_matter: Tensor,
    settings: AugmentSettings,
    generator: Generator,
) -> Tensor:
    """Add spots to the white matter, with some probability, that are as dark as gray matter or darker.

    Parameters
    ----------
    image : (X, Y, Z) float32
        Already deformed.
    coordinates : (X, Y, Z, 3) float32
        Template voxel at which each voxel was sampled.
    white_matter : (C,) bool tensor
        Whether each channel is white matter.
    settings : AugmentSettings
        Its ``lesion_probability`` is the probability of lesions.

    Returns
    -------
    (X, Y, Z) float32 tensor
    """
    if draws.uniform(generator) >= settings.lesion_probability:
        return image
    coarse_channels = pick_labels(scan.channels, coordinates[::2, ::2, ::2])
    field = smooth_field(coarse_channels.shape, LESION_MM / 2, 1, generator, image.device)[0]
    threshold = 0.6 + 0.8 * draws.uniform(generator)
    darkening = 0.15 + 0.3 * draws.uniform(generator)
    spots = (4 * (field - threshold)).clamp(0, 1) * _in_channels(coarse_channels, white_matter)
    lesions = functional.interpolate(spots[None, None], size=image.shape, mode="trilinear", align_corners=False)[0, 0]
    return image * (1 - darkening * lesions)
