"""Random changes to a training scan that its labels tell how to make: wider ventricles, sulci and gaps, lesions.

The people whose labels there are to learn from are mostly young; those who get scanned are of any age. Fluid is
widened by a deformation, so that the labels move with the image; lesions of the white matter change only the image.
Like everything in `slant.train.augment`, a change is a function of its generator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor
from torch.nn import functional

from slant.train.augment import AugmentSettings, chance, gaussian_blur, pick_labels, smooth_field

if TYPE_CHECKING:
    from slant.grid import Shape
    from slant.train.data import LabelledScan

VENTRICLES, SULCI = (4, 9.0), (2, 2.5)
"""Voxels of the deformation, and standard deviation in mm of the Gaussian that says how far tissue gives way."""

LESION_MM = 9.0
"""Spacing of the control points of the field whose peaks are lesions."""


def aged_places(
    places: Tensor, scan: LabelledScan, fluid: Tensor, settings: AugmentSettings, generator: Generator
) -> Tensor:
    """The places moved towards fluid, so that the warped scan has wider, or somewhat narrower, ventricles and sulci.

    Parameters
    ----------
    places : (X, Y, Z, 3) float32
        Template voxels from where each voxel takes its value; even sizes.
    scan : LabelledScan
    fluid : (C,) bool tensor
        Channels of the ventricles.
    settings : AugmentSettings
        Its ``ventricles_mm`` and ``sulci_mm``.
    generator : torch.Generator
    """
    if not (settings.ventricles_mm or settings.sulci_mm) or chance(generator) < 0.5:
        return places
    most = (settings.ventricles_mm, settings.sulci_mm)
    ventricles, sulci = (mm * (1.2 * chance(generator) - 0.2) for mm in most)
    beyond = settings.sulci_mm > 0 and chance(generator) < 0.5
    return widened_places(places, scan, fluid, (ventricles, sulci), generator, beyond=beyond)


def widened_places(
    places: Tensor,
    scan: LabelledScan,
    fluid: Tensor,
    apart_mm: tuple[float, float],
    generator: Generator,
    *,
    beyond: bool = False,
) -> Tensor:
    """The places moved so that the walls of ventricles, and of sulci, lie about so many mm further apart.

    Parameters
    ----------
    places : (X, Y, Z, 3) float32
        Even sizes.
    scan : LabelledScan
    fluid : (C,) bool tensor
    apart_mm : pair of float
        Of ventricles and of sulci; below 0 they come nearer. Varies smoothly by a third.
    generator : torch.Generator
    beyond : bool
        Whether the brain also shrinks away from the border of its mask, as it does in atrophy; see `with_fluid`.
    """
    inside = _of(scan.channels, fluid)
    between = (scan.channels == 0) & ((scan.image > 0) | beyond)
    sizes = torch.tensor(scan.image.shape, dtype=torch.float32)
    unit = (places[::2, ::2, ::2] * (2 / (sizes - 1)) - 1).flip(-1)[None]
    pull = torch.zeros(1, 3, *unit.shape[1:4])
    for mask, (spacing, reach_mm), apart in zip((inside, between), (VENTRICLES, SULCI), apart_mm, strict=True):
        field = _towards(mask, spacing, reach_mm) * apart
        field *= 1 + 0.3 * smooth_field(_shape(field[0]), 60 / spacing, 1, generator)
        pull += functional.grid_sample(field[None], unit, padding_mode="border", align_corners=True)
    x, y, z, _ = places.shape
    moved = functional.interpolate(pull, size=(x, y, z), mode="trilinear", align_corners=False)
    return places + moved[0].permute(1, 2, 3, 0)


def _shape(image: Tensor) -> Shape:
    x, y, z = image.shape
    return x, y, z


def _towards(mask: Tensor, spacing: int, reach_mm: float) -> Tensor:
    """(3, X/spacing, Y/spacing, Z/spacing) vectors towards a mask, of length 1 along most of its border."""
    share = functional.avg_pool3d(mask.float()[None, None], spacing, ceil_mode=True)[0, 0]
    slope = torch.stack(torch.gradient(gaussian_blur(share, reach_mm / spacing)))
    length = slope.norm(dim=0)
    usual = torch.quantile(length[length > 0.01 * length.max()][::4], 0.97) if length.any() else length.max()
    return slope / torch.maximum(length, usual).clamp(min=1e-6)


def _of(channels: Tensor, wanted: Tensor) -> Tensor:
    """Whether each voxel's channel is one of those wanted; voxels that nobody labelled are not."""
    table = torch.zeros(256, dtype=torch.bool)
    table[: len(wanted)] = wanted
    return table[channels.int()]


def with_fluid(image: Tensor, scan: LabelledScan, places: tuple[Tensor, Tensor], fluid: Tensor) -> Tensor:
    """The warped image with fluid where the brain has shrunk away from the border of its mask.

    Parameters
    ----------
    image : (X, Y, Z) float32
        Warped by the second places.
    scan : LabelledScan
    places : pair of (X, Y, Z, 3) float32
        Before and after the brain was made older.
    fluid : (C,) bool tensor
        Channels of the ventricles, whose mean intensity the fluid has.
    """
    before, after = places
    if before is after:
        return image
    mask = (scan.image > 0).to(torch.uint8)
    left = pick_labels(mask, before).bool() & ~pick_labels(mask, after).bool()
    ventricles = scan.image[::2, ::2, ::2][_of(scan.channels[::2, ::2, ::2], fluid)]
    level = ventricles.mean() if len(ventricles) else torch.tensor(0.3)
    return torch.where(left, torch.maximum(image, level.clamp(min=0.02)), image)


def with_lesions(
    image: Tensor, labels: tuple[Tensor, Tensor], places: Tensor, settings: AugmentSettings, generator: Generator
) -> Tensor:
    """The warped image with spots of its white matter as dark as gray matter or darker, at times.

    Parameters
    ----------
    image : (X, Y, Z) float32
        Already warped.
    labels : (A, B, C) uint8 and (K,) bool tensors
        The scan's channels in the template, and which of them are white matter.
    places : (X, Y, Z, 3) float32
    settings : AugmentSettings
        Its ``lesions`` is the probability.
    generator : torch.Generator
    """
    if chance(generator) >= settings.lesions:
        return image
    channels, white = labels
    picked = pick_labels(channels, places[::2, ::2, ::2])
    field = smooth_field(_shape(picked), LESION_MM / 2, 1, generator)[0]
    level = 0.6 + 0.8 * chance(generator)
    depth = 0.15 + 0.3 * chance(generator)
    spots = (4 * (field - level)).clamp(0, 1) * _of(picked, white)
    x, y, z = _shape(image)
    loss = functional.interpolate(spots[None, None], size=(x, y, z), mode="trilinear", align_corners=False)[0, 0]
    return image * (1 - depth * loss)
