"""Data augmentation: random intensity changes of a training scan.

Every function draws its random numbers from a `torch.Generator` of the CPU, so a training step is a function of its
seed, and computes on the device of the image. Images are (X, Y, Z) float32 in network units: 0 outside the brain, about
1 on average inside.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from slant.nets.planes import PLANES
from slant.train import draws
from slant.train.augment import AugmentSettings, smooth_field


def vary_intensity(image: Tensor, settings: AugmentSettings, generator: Generator) -> Tensor:
    """Change contrast, bias field, resolution, noise and the border of the brain mask at random."""
    if draws.uniform(generator) < settings.mask_perturbation:
        image = _perturb_mask(image, generator)
    brain = image > 0
    image = _contrast_curve(_gamma(image, settings, generator), settings, generator)
    if draws.uniform(generator) < 0.25:
        image = _add_ghost(image, settings, generator)
    if draws.uniform(generator) < 0.5:
        field = smooth_field(image.shape, 50, 1, generator, image.device)[0]
        image = image * torch.exp(field * settings.bias_field)
    if draws.uniform(generator) < 0.4:
        image = gaussian_blur(image, draws.uniform(generator) * settings.blur_mm)
    if draws.uniform(generator) < settings.slice_thickness_probability:
        image = _thick_slices(image, settings, generator)
    if draws.uniform(generator) < 0.5:
        noise = draws.noise(generator, image.shape, image.device)
        image = image + noise * (settings.noise * draws.uniform(generator))
    shift, scale = draws.normals(generator, 2)
    return torch.where(brain, image * float(np.exp(scale * 0.05)) + shift * 0.05, 0.0)


def _gamma(image: Tensor, settings: AugmentSettings, generator: Generator) -> Tensor:
    """Apply a power law that maps 0 and 1.5 (about white matter) to themselves."""
    power = math.exp(draws.normals(generator, 1)[0] * settings.gamma)
    return 1.5 * torch.pow((image / 1.5).clamp(min=0), power)


def _contrast_curve(image: Tensor, settings: AugmentSettings, generator: Generator) -> Tensor:
    """Add a sum of sines to the intensities; the curve is monotone and maps 0 and 1.5 to themselves."""
    if not settings.contrast:
        return image
    amplitudes = [min(max(a * settings.contrast, -0.15), 0.15) for a in draws.normals(generator, 3)]
    angle = image * (np.pi / 1.5)
    waves = sum(a / k * torch.sin(k * angle) for k, a in enumerate(amplitudes, start=1))
    return (image + waves).clamp(min=0)


def _add_ghost(image: Tensor, settings: AugmentSettings, generator: Generator) -> Tensor:
    """Mix the image with a copy of itself that is shifted by a part of the field of view along one axis."""
    axis = draws.integer(generator, 3)
    divisor = 2 + draws.integer(generator, 4)
    fraction = settings.ghosting * draws.uniform(generator)
    return image * (1 - fraction) + fraction * torch.roll(image, image.shape[axis] // divisor, dims=axis)


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Smooth the (X, Y, Z) image with a Gaussian of ``sigma`` voxels; unchanged if that is below 0.2."""
    if sigma < 0.2:
        return image
    radius = max(1, round(2.5 * sigma))
    kernel = torch.exp(-(torch.arange(-radius, radius + 1, dtype=torch.float32) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(image.device)
    out = image[None, None]
    for axis in range(3):
        sizes, pad = [1, 1, 1], [0, 0, 0]
        sizes[axis], pad[axis] = len(kernel), radius
        out = functional.conv3d(out, kernel.reshape(1, 1, *sizes), padding=pad)
    return out[0, 0]


def _thick_slices(image: Tensor, settings: AugmentSettings, generator: Generator) -> Tensor:
    """Simulate thick slices of one plane: average over each slice, then interpolate back to the grid."""
    axis = draws.integer(generator, 3)
    if settings.slice_thickness_plane != "any":  # the random numbers of a step do not depend on the plane
        axis = PLANES.index(settings.slice_thickness_plane)
    thickness = 1 + draws.uniform(generator) * (settings.slice_thickness_mm - 1)
    sizes = list(image.shape)
    sizes[axis] = max(4, round(sizes[axis] / thickness))
    coarse = functional.interpolate(image[None, None], size=sizes, mode="area")
    return functional.interpolate(coarse, size=image.shape, mode="trilinear", align_corners=False)[0, 0]


def _perturb_mask(image: Tensor, generator: Generator) -> Tensor:
    """Add a border of smooth non-brain tissue to parts of the brain surface, or remove a border from parts of it."""
    brain = image > 0
    selector = smooth_field(image.shape, 25, 1, generator, image.device)[0]
    radius = 1 + draws.integer(generator, 4)
    if draws.uniform(generator) < 0.7:
        border = _dilate(brain, radius) & ~brain
        level = 0.4 + 0.4 * draws.uniform(generator)
        tissue = level + 0.35 * smooth_field(image.shape, 6, 1, generator, image.device)[0]
        threshold = draws.uniform(generator) * 1.5 - 0.5
        return torch.where(border & (selector > threshold), tissue.clamp(min=0.02), image)
    removed = _dilate(~brain, 1) & (selector > 0.8)
    return torch.where(removed, 0.0, image)


def _dilate(mask: Tensor, radius: int) -> Tensor:
    """Dilate a bool mask by a cube of ``2 * radius + 1`` voxels."""
    for axis in range(3):
        grown = mask.clone()
        size = mask.shape[axis]
        for step in range(1, radius + 1):
            grown.narrow(axis, 0, size - step).logical_or_(mask.narrow(axis, step, size - step))
            grown.narrow(axis, step, size - step).logical_or_(mask.narrow(axis, 0, size - step))
        mask = grown
    return mask
