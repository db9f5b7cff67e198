"""Random changes to a training scan that keep its labels true.

Every function takes its randomness as a `torch.Generator`, so a step of training is a function of its seed. Images
are (X, Y, Z) float32 in network units: 0 outside the brain, about 1 on average inside. Where left and right are
exchanged, `flip_labels` exchanges the regions' channels too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from slant.errors import SettingsError
from slant.grid import Shape


@dataclass(frozen=True)
class AugmentSettings:
    """How strongly scans are changed; every number is one standard deviation or a probability.

    Attributes
    ----------
    rotate_deg, scale, shift_mm : float
        What is left over of an affine registration.
    elastic_mm : float
        Displacement of control points 32 mm apart; a fifth of it at points 12 mm apart is added.
    ventricles_mm, sulci_mm : float
        At most this far are the walls of ventricles, and of sulci, moved apart, or a sixth of it together.
    lesions : float
        Probability of dark spots in the white matter.
    gamma, bias : float
        Logarithm of the exponent of the intensities; logarithm of a smooth field.
    contrast : float
        Amplitude of the smooth monotone curve that changes the order of no intensities but their distances.
    noise : float
        Gaussian noise of up to this share of the mean brain intensity.
    ghost : float
        Largest share of the image that appears again elsewhere, as motion makes it.
    blur_mm : float
        Largest Gaussian blur.
    thick_mm : float
        Largest slice thickness imitated along one axis.
    rough_mask : float
        Probability of changing the border of the brain mask: pasting or removing a rim.
    flip : float
        Probability of exchanging left and right, of the image and of the labels.
    mixup : float
        Both parameters of the beta distribution that says how two scans are mixed (Zhang et al. 2018); 0 mixes none.
    """

    rotate_deg: float = 3.0
    scale: float = 0.04
    shift_mm: float = 2.0
    elastic_mm: float = 3.0
    ventricles_mm: float = 8.0
    sulci_mm: float = 2.5
    lesions: float = 0.2
    gamma: float = 0.2
    bias: float = 0.12
    contrast: float = 0.05
    noise: float = 0.1
    ghost: float = 0.1
    blur_mm: float = 0.8
    thick_mm: float = 3.0
    rough_mask: float = 0.5
    flip: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 0 or (name in ("rough_mask", "flip", "lesions") and value > 1):
                raise SettingsError(f"[augment] {name} must be at least 0 (a probability at most 1), found {value}")


def normal(generator: Generator, *shape: int) -> Tensor:
    """Standard normal numbers of the given shape."""
    return torch.randn(*shape, generator=generator)


def chance(generator: Generator) -> float:
    """One number between 0 and 1."""
    return float(torch.rand(1, generator=generator))


def mixup_share(settings: AugmentSettings, generator: Generator) -> float:
    """Share of the second of two mixed scans: beta distributed, folded to at most a half."""
    numbers = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    share = float(numbers.beta(settings.mixup, settings.mixup))
    return min(share, 1 - share)


def smooth_field(shape: Shape, spacing: float, channels: int, generator: Generator) -> Tensor:
    """(channels, X, Y, Z) field that is about standard normal at control points ``spacing`` voxels apart."""
    points = [max(3, int(n / spacing) + 2) for n in shape]
    coarse = normal(generator, 1, channels, *points)
    return functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0]


def random_places(
    box: tuple[Shape, Shape], template_shape: Shape, settings: AugmentSettings, generator: Generator
) -> Tensor:
    """(X, Y, Z, 3) float32 template voxel coordinates from where each voxel of a box takes its value.

    Parameters
    ----------
    box : pair of 3 int each
        First voxel and size of the box, in template voxels.
    template_shape : tuple of 3 int
        Voxels of the template, whose middle the head turns about.
    settings : AugmentSettings
    generator : torch.Generator
    """
    start, shape = box
    angles = normal(generator, 3) * np.deg2rad(settings.rotate_deg)
    scales = torch.exp(normal(generator, 3) * settings.scale)
    shear = normal(generator, 3, 3) * settings.scale * 0.3
    matrix = _rotation(angles) @ torch.diag(scales) + shear
    axes = [torch.arange(n, dtype=torch.float32) + s for n, s in zip(shape, start, strict=True)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    middle = torch.tensor(template_shape) / 2
    moved = (places - middle) @ matrix.T + (middle + normal(generator, 3) * settings.shift_mm)
    strength = settings.elastic_mm * chance(generator)
    bend = smooth_field(shape, 32, 3, generator) * strength
    bend += smooth_field(shape, 12, 3, generator) * (strength / 5)
    return moved + bend.permute(1, 2, 3, 0)


def flip_places(places: Tensor, mirror_x: float) -> Tensor:
    """The same (..., 3) places seen in a mirror: x becomes ``mirror_x - x``."""
    return torch.cat([mirror_x - places[..., :1], places[..., 1:]], dim=-1)


def flip_labels(channels: Tensor, mirrored: Tensor) -> Tensor:
    """Channels of the regions' partners, where a channel has one; see `LabelProtocol.mirrored_channels`."""
    table = torch.arange(256, dtype=channels.dtype)
    table[: len(mirrored)] = mirrored.to(channels.dtype)
    return table[channels.long()]


def _rotation(angles: Tensor) -> Tensor:
    a, b, c = (float(x) for x in angles)
    x = torch.tensor([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = torch.tensor([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = torch.tensor([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return (x @ y @ z).float()


def sample_image(image: Tensor, places: Tensor) -> Tensor:
    """(X, Y, Z) trilinear values of ``image`` at (X, Y, Z, 3) voxel coordinates, 0 outside."""
    sizes = torch.tensor(image.shape, dtype=torch.float32)
    unit = places * (2 / (sizes - 1)) - 1
    picked = functional.grid_sample(
        image[None, None], unit.flip(-1)[None], mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return picked[0, 0]


def pick_labels(labels: Tensor, places: Tensor) -> Tensor:
    """Values of the integer map ``labels`` at the voxels nearest to (..., 3) coordinates, 0 outside."""
    sizes = torch.tensor(labels.shape)
    index = torch.round(places).long()
    inside = ((index >= 0) & (index < sizes)).all(dim=-1)
    index = torch.minimum(index.clamp(min=0), sizes - 1)
    flat = (index[..., 0] * sizes[1] + index[..., 1]) * sizes[2] + index[..., 2]
    return torch.where(inside, labels.flatten()[flat], torch.zeros((), dtype=labels.dtype))


def vary_intensity(image: Tensor, settings: AugmentSettings, generator: Generator) -> Tensor:
    """The image with another contrast, bias field, resolution, noise and brain border."""
    if chance(generator) < settings.rough_mask:
        image = _rough_mask(image, generator)
    brain = image > 0
    image = _curve(_gamma(image, settings, generator), settings, generator)
    if chance(generator) < 0.25:
        image = _ghost(image, settings, generator)
    if chance(generator) < 0.5:
        image = image * torch.exp(smooth_field(_shape(image), 50, 1, generator)[0] * settings.bias)
    if chance(generator) < 0.4:
        image = gaussian_blur(image, chance(generator) * settings.blur_mm)
    if chance(generator) < 0.25:
        image = _thick_slices(image, settings, generator)
    if chance(generator) < 0.5:
        image = image + normal(generator, *image.shape) * (settings.noise * chance(generator))
    shift, scale = normal(generator, 2).tolist()
    return torch.where(brain, image * float(np.exp(scale * 0.05)) + shift * 0.05, torch.zeros(()))


def _shape(image: Tensor) -> Shape:
    x, y, z = image.shape
    return x, y, z


def _gamma(image: Tensor, settings: AugmentSettings, generator: Generator) -> Tensor:
    """Power law that leaves 0 and 1.5 (about white matter) where they are."""
    power = float(torch.exp(normal(generator, 1) * settings.gamma))
    return 1.5 * torch.pow((image / 1.5).clamp(min=0), power)


def _curve(image: Tensor, settings: AugmentSettings, generator: Generator) -> Tensor:
    """A sum of sines added to the intensities, which leaves 0 and 1.5 where they are, and stays monotone."""
    if not settings.contrast:
        return image
    heights = (normal(generator, 3) * settings.contrast).clamp(-0.15, 0.15)
    angle = image * (np.pi / 1.5)
    waves = sum(float(h) / k * torch.sin(k * angle) for k, h in enumerate(heights, start=1))
    return (image + waves).clamp(min=0)


def _ghost(image: Tensor, settings: AugmentSettings, generator: Generator) -> Tensor:
    """A faint copy of the image shifted by a part of the field of view along one axis."""
    axis = int(torch.randint(3, (1,), generator=generator))
    part = int(torch.randint(2, 6, (1,), generator=generator))
    share = settings.ghost * chance(generator)
    return image * (1 - share) + share * torch.roll(image, image.shape[axis] // part, dims=axis)


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """The (X, Y, Z) image smoothed by a Gaussian of that many voxels; below 0.2 as it is."""
    if sigma < 0.2:
        return image
    radius = max(1, round(2.5 * sigma))
    kernel = torch.exp(-(torch.arange(-radius, radius + 1, dtype=torch.float32) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    out = image[None, None]
    for axis in range(3):
        sizes, pad = [1, 1, 1], [0, 0, 0]
        sizes[axis], pad[axis] = len(kernel), radius
        out = functional.conv3d(out, kernel.reshape(1, 1, *sizes), padding=pad)
    return out[0, 0]


def _thick_slices(image: Tensor, settings: AugmentSettings, generator: Generator) -> Tensor:
    axis = int(torch.randint(3, (1,), generator=generator))
    thick = 1 + chance(generator) * (settings.thick_mm - 1)
    sizes = list(image.shape)
    sizes[axis] = max(4, round(sizes[axis] / thick))
    coarse = functional.interpolate(image[None, None], size=sizes, mode="area")
    return functional.interpolate(coarse, size=image.shape, mode="trilinear", align_corners=False)[0, 0]


def _rough_mask(image: Tensor, generator: Generator) -> Tensor:
    """Paste a rim of smooth non-brain tissue around the brain, or take a rim of it away, here and there."""
    brain = image > 0
    where = smooth_field(_shape(image), 25, 1, generator)[0]
    radius = int(torch.randint(1, 5, (1,), generator=generator))
    if chance(generator) < 0.7:
        rim = _dilate(brain, radius) & ~brain
        tissue = 0.4 + 0.4 * chance(generator) + 0.35 * smooth_field(_shape(image), 6, 1, generator)[0]
        level = chance(generator) * 1.5 - 0.5
        return torch.where(rim & (where > level), tissue.clamp(min=0.02), image)
    lost = _dilate(~brain, 1) & (where > 0.8)
    return torch.where(lost, torch.zeros(()), image)


def _dilate(mask: Tensor, radius: int) -> Tensor:
    """The bool mask grown by a cube of ``2 * radius + 1`` voxels."""
    for axis in range(3):
        grown = mask.clone()
        size = mask.shape[axis]
        for step in range(1, radius + 1):
            grown.narrow(axis, 0, size - step).logical_or_(mask.narrow(axis, step, size - step))
            grown.narrow(axis, step, size - step).logical_or_(mask.narrow(axis, 0, size - step))
        mask = grown
    return mask
