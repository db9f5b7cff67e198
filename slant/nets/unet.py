"""A compact 3D U-Net that works at 2 mm with a shallow 1 mm branch.

The idea is that of the 3D U-Net (Cicek et al. 2016) with its costliest level moved: each 2 x 2 x 2 block of the
image is folded into eight channels (space to depth), four levels work at 2 mm and coarser, and the result is
unfolded to 1 mm, where a few channels taken from the image itself sharpen the borders before the last layer. A last
1 x 1 x 1 layer gives one logit a region, to which a spatially fixed log-frequency of the regions may be added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from slant.errors import SettingsError
from slant.nets.groupwise import displacement_at
from slant.nets.memory import run_level
from slant.nets.network import Network, NetworkSettings, channels_last, require_positive

__all__ = [
    "CompactUNet",
    "ResidualUNet",
    "UNetSettings",
    "channels_last",
    "coordinate_channels",
    "fold",
    "place_channels",
    "unfold",
]


@dataclass(frozen=True)
class UNetSettings(NetworkSettings):
    """What defines a `CompactUNet` or a `ResidualUNet`.

    Attributes
    ----------
    outputs : int
        Number of channels of the last layer.
    widths : tuple of int
        Channels at 2, 4, 8, 16 mm.
    detail : int
        Channels taken from the image at 1 mm.
    coarse : int, optional
        Channels that the 2 mm features unfold to; by default as many as ``detail``.
    mixed : int
        Channels of the last 3 x 3 x 3 layer.
    tasks : dict of str to int
        Number of classes of each task learned beside the regions from the same features, such as ``{"tissue": 4}``.
    """

    widths: tuple[int, ...] = (24, 32, 48, 64)
    detail: int = 8
    mixed: int = 16
    tasks: dict[str, int] = field(default_factory=dict)
    coarse: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        single = {"detail": self.detail, "mixed": self.mixed, "coarse": self.unfolded}
        for name, values in (("widths", self.widths), *((name, (value,)) for name, value in single.items())):
            require_positive(name, *values)
        for task, classes in self.tasks.items():
            if not task.isidentifier() or hasattr(nn.ModuleDict, task):
                raise SettingsError(f"a task cannot be called {task!r}; use a word such as tissue, lobe or brain")
            if classes < 2:
                raise SettingsError(f"the task {task!r} has {classes} classes, wanted at least 2")

    @property
    def unfolded(self) -> int:
        """Channels that the 2 mm features unfold to."""
        return self.detail if self.coarse is None else self.coarse


class ConvBlock(nn.Sequential):
    """3 x 3 x 3 convolution, instance normalization, leaky rectifier."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv3d(inputs, outputs, 3, padding=1, bias=False),
            nn.InstanceNorm3d(outputs, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        )


class PlainEncoder(nn.Sequential):
    """Two blocks, one after the other."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(ConvBlock(inputs, outputs), ConvBlock(outputs, outputs))


class ResidualEncoder(nn.Module):
    """A residual block (He et al. 2016): two convolutions add to their input, widened if need be."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = ConvBlock(inputs, outputs)
        self.second = nn.Sequential(
            nn.Conv3d(outputs, outputs, 3, padding=1, bias=False), nn.InstanceNorm3d(outputs, affine=True)
        )
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv3d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, outputs, X, Y, Z) from (N, inputs, X, Y, Z)."""
        return functional.leaky_relu(self.second(self.first(x)) + self.shortcut(x), 0.01, inplace=True)


class CompactUNet(Network):
    """Features at 1 mm from an image and the place of its voxels."""

    stride, multiple, reach, prior = 2, 2, 2, True
    encoder: ClassVar[type[nn.Module]] = PlainEncoder
    settings: UNetSettings

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__(settings)
        widths = settings.widths
        self.encoders = nn.ModuleList(self.encoder(a, b) for a, b in pairwise((8 + 3, *widths)))
        self.lifts = nn.ModuleList(nn.Conv3d(deep, shallow, 1) for shallow, deep in pairwise(widths))
        self.decoders = nn.ModuleList(ConvBlock(width, width) for width in widths[:-1])
        self.unfold = nn.Conv3d(widths[0], 8 * settings.unfolded, 1)
        self.detail = nn.Conv3d(1, settings.detail, 3, padding=1)
        self.mix = nn.Conv3d(settings.unfolded + settings.detail, settings.mixed, 3, padding=1)
        self.head = nn.Linear(settings.mixed, settings.outputs)
        self.heads = nn.ModuleDict({task: nn.Linear(settings.mixed, n) for task, n in settings.tasks.items()})
        if not self.head.weight.is_meta:  # where nothing is drawn, torch would import its compiler, some two seconds
            nn.init.normal_(self.head.weight, std=1e-3)
            nn.init.zeros_(self.head.bias)

    def trunk(self, image: Tensor, place: Tensor) -> Tensor:
        """(N, C, X/2, Y/2, Z/2) features of a (N, 1, X, Y, Z) image, even sizes.

        ``place`` is (N, 3, X/2, Y/2, Z/2): template coordinates of the 2 mm voxels, scaled to -1..1.
        """
        x = torch.cat([fold(image), place], dim=1).contiguous(memory_format=torch.channels_last_3d)
        skips = []
        for level in range(len(self.encoders)):
            x = run_level(self.memory, self._down(level), x)
            skips.append(x)
        for level in reversed(range(len(self.decoders))):
            x = run_level(self.memory, self._up(level), x, skips[level])
        return x

    def _down(self, level: int) -> Callable[[Tensor], Tensor]:
        encoder: Callable[[Tensor], Tensor] = self.encoders[level]
        if level == 0:
            return encoder
        return lambda x: encoder(functional.max_pool3d(x, 2, ceil_mode=True))

    def _up(self, level: int) -> Callable[[Tensor, Tensor], Tensor]:
        lift, decoder = self.lifts[level], self.decoders[level]

        def up(x: Tensor, skip: Tensor) -> Tensor:
            lifted = functional.interpolate(lift(x), scale_factor=2.0, mode="nearest")
            out: Tensor = decoder(skip + lifted[:, :, : skip.shape[2], : skip.shape[3], : skip.shape[4]])
            return out

        return up

    def tail(self, features: Tensor, image: Tensor) -> Tensor:
        """(N, mixed, X, Y, Z) features at 1 mm from the trunk's and the image's."""
        return run_level(self.memory, self._tail, features, image)

    def _tail(self, features: Tensor, image: Tensor) -> Tensor:
        coarse = unfold(self.unfold(features))
        fine = functional.leaky_relu(self.detail(image), 0.01, inplace=True)
        both = torch.cat([coarse, fine], dim=1).contiguous(memory_format=torch.channels_last_3d)
        return functional.leaky_relu(self.mix(both), 0.01, inplace=True)

    def logits(self, mixed: Tensor) -> Tensor:
        """(..., outputs) logits of (..., mixed) features, channels last."""
        out: Tensor = self.head(mixed)
        return out

    def logits_of(self, mixed: Tensor, channels: Tensor, onto: Tensor | None = None) -> Tensor:
        """(N, K) logits of some channels only, of (N, mixed) features; see `Network.logits_of`."""
        weight, bias = self.head.weight[channels].T.contiguous(), self.head.bias[channels]
        if onto is None:
            return torch.addmm(bias, mixed, weight)
        return onto.add_(bias).addmm_(mixed, weight)

    def tasks(self, mixed: Tensor) -> dict[str, Tensor]:
        """(..., classes) logits of each task learned beside the regions by hard sharing (Caruana 1997)."""
        return {task: head(mixed) for task, head in self.heads.items()}


class ResidualUNet(CompactUNet):
    """A `CompactUNet` whose encoder is made of residual blocks (He et al. 2016; Lee et al. 2017)."""

    encoder = ResidualEncoder


def fold(image: Tensor) -> Tensor:
    """(N, C, X, Y, Z) with even sizes to (N, 8 C, X/2, Y/2, Z/2): space to depth."""
    n, c, x, y, z = image.shape
    blocks = image.reshape(n, c, x // 2, 2, y // 2, 2, z // 2, 2)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(n, 8 * c, x // 2, y // 2, z // 2)


def unfold(features: Tensor) -> Tensor:
    """(N, 8 C, X, Y, Z) to (N, C, 2X, 2Y, 2Z): depth to space, the inverse of `fold`."""
    n, c8, x, y, z = features.shape
    blocks = features.reshape(n, c8 // 8, 2, 2, 2, x, y, z)
    return blocks.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(n, c8 // 8, 2 * x, 2 * y, 2 * z)


def place_channels(
    shape: tuple[int, int, int],
    start: tuple[int, int, int],
    size: tuple[int, int, int],
    displacement: Tensor | None = None,
) -> Tensor:
    """(1, 3, X/2, Y/2, Z/2) float32 coordinates of the 2 mm voxels of a box, -1..1 over the template grid.

    Parameters
    ----------
    shape : tuple of 3 int
        Voxels of the template grid at 1 mm.
    start, size : tuple of 3 int
        First voxel and number of voxels of the box; sizes even.
    displacement : (3, A/2, B/2, C/2) float32 tensor, optional
        From the scan to the groupwise template, in template voxels, over the whole template; the coordinates are then
        those of the groupwise template.
    """
    axes = [torch.arange(n // 2, dtype=torch.float32) * 2 + 0.5 + s for s, n in zip(start, size, strict=True)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    if displacement is not None:
        places = places + displacement_at(displacement, places)
    return coordinate_channels(places, shape)


def coordinate_channels(places: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(1, 3, X, Y, Z) float32: (X, Y, Z, 3) template voxels scaled to -1..1 over a template of that shape."""
    last = torch.tensor(shape, dtype=torch.float32, device=places.device) - 1
    return ((places / last) * 2 - 1).permute(3, 0, 1, 2)[None]
