"""Data augmentation: settings, random numbers, and random deformations of a training scan.

Every function draws its random numbers from a `torch.Generator` of the CPU, so a training step is a function of its
seed, and computes on the device of its tensors. After a left-right flip, `flip_labels` exchanges the channels of left
and right regions. Intensities are changed in `slant.train.intensity`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional

from slant.errors import SettingsError
from slant.grid import Shape
from slant.nets.planes import PLANES, Plane
from slant.train import draws


@dataclass(frozen=True)
class AugmentSettings:
    """Strength of the augmentation; values are one standard deviation unless stated otherwise.

    Attributes
    ----------
    rotation_deg, scaling, translation_mm : float
        Remaining error of an affine registration; ``scaling`` is the logarithm of the scale.
    elastic_mm : float
        Displacement of control points 32 mm apart, times a random fraction. A fifth of it is added at control points
        12 mm apart.
    ventricle_dilation_mm, sulcal_widening_mm : float
        Maximum distance by which the walls of ventricles and of sulci move apart; they move together by at most a
        sixth of it.
    lesion_probability : float
        Probability of dark spots in the white matter.
    gamma, bias_field : float
        Logarithm of the exponent of the intensities; logarithm of a smooth multiplicative field.
    contrast : float
        Amplitude of a smooth curve that is added to the intensities and keeps their order.
    noise : float
        Maximum standard deviation of Gaussian noise, as a fraction of the mean brain intensity.
    ghosting : float
        Maximum fraction of the image that appears again elsewhere, as after motion.
    blur_mm : float
        Maximum standard deviation of a Gaussian blur.
    slice_thickness_mm : float
        Maximum thickness of simulated slices.
    slice_thickness_probability : float
        Probability of simulated slices.
    slice_thickness_plane : {"any", "sagittal", "coronal", "axial"}
        Plane of the simulated slices; "any" draws one of the three at every step.
    mask_perturbation : float
        Probability of adding a border to the brain mask or removing one.
    flip_probability : float
        Probability of a left-right flip of the image and of the labels.
    mixup_alpha : float
        Both parameters of the beta distribution of the MixUp weight (Zhang et al. 2018); 0 disables MixUp.
    """

    rotation_deg: float = 3.0
    scaling: float = 0.04
    translation_mm: float = 2.0
    elastic_mm: float = 3.0
    ventricle_dilation_mm: float = 8.0
    sulcal_widening_mm: float = 2.5
    lesion_probability: float = 0.2
    gamma: float = 0.2
    bias_field: float = 0.12
    contrast: float = 0.05
    noise: float = 0.1
    ghosting: float = 0.1
    blur_mm: float = 0.8
    slice_thickness_mm: float = 3.0
    slice_thickness_probability: float = 0.25
    slice_thickness_plane: Literal["any", Plane] = "any"
    mask_perturbation: float = 0.5
    flip_probability: float = 0.0
    mixup_alpha: float = 0.0

    def __post_init__(self) -> None:
        strengths = asdict(self)
        plane = strengths.pop("slice_thickness_plane")
        if plane not in ("any", *PLANES):
            raise SettingsError(f"[augment] slice_thickness_plane must be any, {', '.join(PLANES)}; found {plane!r}")
        for name, value in strengths.items():
            probability = name.endswith("_probability") or name == "mask_perturbation"
            if value < 0 or (probability and value > 1):
                raise SettingsError(f"[augment] {name} must be at least 0 (a probability at most 1), found {value}")


@dataclass(frozen=True, eq=False)
class Field:
    """The part of the template that a network sees, and the channels that it distinguishes there.

    Attributes
    ----------
    start, shape : tuple of 3 int
        First voxel (negative outside the template) and size of the box, in template voxels.
    template_shape : tuple of 3 int
        In voxels.
    channels : (K,) int64 array
        Channels that the network distinguishes.
    """

    start: Shape
    shape: Shape
    template_shape: Shape
    channels: NDArray[np.int64]

    def enlarged(self, multiple: int) -> Field:
        """The field enlarged on both sides so that its size is a multiple of the given number."""
        x, y, z = (s - (-n % multiple) // 2 for s, n in zip(self.start, self.shape, strict=True))
        return replace(self, start=(x, y, z), shape=multiple_of(self.shape, multiple))


def multiple_of(shape: Shape, multiple: int) -> Shape:
    """The shape enlarged to multiples of the given number."""
    x, y, z = (n + -n % multiple for n in shape)
    return x, y, z


def mixup_weight(settings: AugmentSettings, generator: Generator) -> float:
    """MixUp weight of the second of two scans: beta distributed, mirrored to at most 0.5."""
    rng = np.random.default_rng(draws.integer(generator, 2**31))
    weight = float(rng.beta(settings.mixup_alpha, settings.mixup_alpha))
    return min(weight, 1 - weight)


def smooth_field(
    shape: tuple[int, ...], spacing: float, channels: int, generator: Generator, device: torch.device | None = None
) -> Tensor:
    """(channels, X, Y, Z) field that is roughly standard normal at control points ``spacing`` voxels apart."""
    points = [max(3, int(n / spacing) + 2) for n in shape]
    coarse = draws.normal(generator, 1, channels, *points).to(device)
    return functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0]


def random_coordinates(
    seen: Field, settings: AugmentSettings, generator: Generator, device: torch.device | None = None
) -> Tensor:
    """(X, Y, Z, 3) float32 template coordinates, in voxels, at which each voxel of a field of view is sampled.

    Parameters
    ----------
    seen : Field
        Its template's center is the center of rotation.
    """
    angles = [float(np.deg2rad(settings.rotation_deg)) * number for number in draws.normals(generator, 3)]
    scales = torch.exp(draws.normal(generator, 3) * settings.scaling)
    shear = draws.normal(generator, 3, 3) * settings.scaling * 0.3
    matrix = _rotation(angles) @ torch.diag(scales) + shear
    axes = [torch.arange(s, s + n, dtype=torch.float32) for n, s in zip(seen.shape, seen.start, strict=True)]
    coordinates = torch.stack(torch.meshgrid(*(axis.to(device) for axis in axes), indexing="ij"), dim=-1)
    center = torch.tensor(seen.template_shape) / 2
    moved = center + draws.normal(generator, 3) * settings.translation_mm
    transformed = (coordinates - center.to(device)) @ matrix.T.to(device) + moved.to(device)
    strength = settings.elastic_mm * draws.uniform(generator)
    displacement = smooth_field(seen.shape, 32, 3, generator, device) * strength
    displacement += smooth_field(seen.shape, 12, 3, generator, device) * (strength / 5)
    return transformed + displacement.permute(1, 2, 3, 0)


def flip_coordinates(coordinates: Tensor, mirror_x: float) -> Tensor:
    """(..., 3) coordinates after a left-right flip: x becomes ``mirror_x - x``."""
    return torch.cat([mirror_x - coordinates[..., :1], coordinates[..., 1:]], dim=-1)


def flip_labels(channels: Tensor, mirrored: Tensor) -> Tensor:
    """Channels with left and right regions exchanged; see `LabelProtocol.mirrored_channels`."""
    table = torch.arange(256, dtype=channels.dtype, device=channels.device)
    table[: len(mirrored)] = mirrored.to(table)
    return table[channels.long()]


def _rotation(angles: list[float]) -> Tensor:
    a, b, c = angles
    x = torch.tensor([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = torch.tensor([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = torch.tensor([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return (x @ y @ z).float()


def sample_image(image: Tensor, coordinates: Tensor) -> Tensor:
    """(X, Y, Z) values of ``image`` at (X, Y, Z, 3) voxel coordinates, interpolated trilinearly; 0 outside."""
    sizes = torch.tensor(image.shape, dtype=torch.float32)
    unit = coordinates * (2 / (sizes - 1)).to(coordinates) - 1
    sampled = functional.grid_sample(
        image[None, None], unit.flip(-1)[None], mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return sampled[0, 0]


def pick_labels(labels: Tensor, coordinates: Tensor) -> Tensor:
    """Values of the integer map ``labels`` at the voxels nearest to (..., 3) coordinates; 0 outside."""
    sizes = torch.tensor(labels.shape, device=labels.device)
    index = torch.round(coordinates).long()
    inside = ((index >= 0) & (index < sizes)).all(dim=-1)
    index = torch.minimum(index.clamp(min=0), sizes - 1)
    flat = (index[..., 0] * sizes[1] + index[..., 1]) * sizes[2] + index[..., 2]
    return torch.where(inside, labels.flatten()[flat], 0)
