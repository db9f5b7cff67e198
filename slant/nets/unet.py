"""A compact 3D U-Net that works at 2 mm with a shallow 1 mm branch.

The idea is that of the 3D U-Net (Cicek et al. 2016) with its costliest level moved: each 2 x 2 x 2 block of the
image is folded into eight channels (space to depth), four levels work at 2 mm and coarser, and the result is
unfolded to 1 mm, where a few channels taken from the image itself sharpen the borders before the last layer. A last
1 x 1 x 1 layer gives one logit a region, to which a spatially fixed log-frequency of the regions may be added.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class UNetSettings:
    """What defines a `CompactUNet`.

    Attributes
    ----------
    outputs : int
        Number of channels of the last layer.
    widths : tuple of int
        Channels at 2, 4, 8, 16 mm.
    detail : int
        Channels taken from the image at 1 mm, and channels that the 2 mm features unfold to.
    mixed : int
        Channels of the last 3 x 3 x 3 layer.
    """

    outputs: int
    widths: tuple[int, ...] = (24, 32, 48, 64)
    detail: int = 8
    mixed: int = 16

    def as_dict(self) -> dict[str, object]:
        """The fields as plain values for a manifest."""
        return {**asdict(self), "widths": list(self.widths)}


class ConvBlock(nn.Sequential):
    """3 x 3 x 3 convolution, instance normalization, leaky rectifier."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv3d(inputs, outputs, 3, padding=1, bias=False),
            nn.InstanceNorm3d(outputs, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        )


class CompactUNet(nn.Module):
    """Features at 1 mm from an image and the place of its voxels.

    ``trunk`` and ``tail`` are apart so that training may run the tail on a sample of small boxes only.
    """

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__()
        self.settings = settings
        widths = settings.widths
        self.encoders = nn.ModuleList()
        inputs = 8 + 3
        for width in widths:
            self.encoders.append(nn.Sequential(ConvBlock(inputs, width), ConvBlock(width, width)))
            inputs = width
        self.lifts = nn.ModuleList(nn.Conv3d(deep, shallow, 1) for shallow, deep in pairwise(widths))
        self.decoders = nn.ModuleList(ConvBlock(width, width) for width in widths[:-1])
        self.unfold = nn.Conv3d(widths[0], 8 * settings.detail, 1)
        self.detail = nn.Conv3d(1, settings.detail, 3, padding=1)
        self.mix = nn.Conv3d(2 * settings.detail, settings.mixed, 3, padding=1)
        self.head = nn.Linear(settings.mixed, settings.outputs)
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)

    def trunk(self, image: Tensor, place: Tensor) -> Tensor:
        """(N, C, X/2, Y/2, Z/2) features of a (N, 1, X, Y, Z) image, even sizes.

        ``place`` is (N, 3, X/2, Y/2, Z/2): template coordinates of the 2 mm voxels, scaled to -1..1.
        """
        x = torch.cat([fold(image), place], dim=1).contiguous(memory_format=torch.channels_last_3d)
        skips = []
        for level, encoder in enumerate(self.encoders):
            x = encoder(x if level == 0 else functional.max_pool3d(x, 2, ceil_mode=True))
            skips.append(x)
        for level in reversed(range(len(self.decoders))):
            skip = skips[level]
            up = functional.interpolate(self.lifts[level](x), scale_factor=2.0, mode="nearest")
            x = self.decoders[level](skip + up[:, :, : skip.shape[2], : skip.shape[3], : skip.shape[4]])
        return x

    def tail(self, features: Tensor, image: Tensor) -> Tensor:
        """(N, mixed, X, Y, Z) features at 1 mm from the trunk's and the image's."""
        coarse = unfold(self.unfold(features))
        fine = functional.leaky_relu(self.detail(image), 0.01, inplace=True)
        both = torch.cat([coarse, fine], dim=1).contiguous(memory_format=torch.channels_last_3d)
        return functional.leaky_relu(self.mix(both), 0.01, inplace=True)

    def logits(self, mixed: Tensor) -> Tensor:
        """(..., outputs) logits of (..., mixed) features, channels last."""
        out: Tensor = self.head(mixed)
        return out


def channels_last(network: CompactUNet) -> CompactUNet:
    """The same network with its weights laid out as CPUs and GPUs convolve fastest."""
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]


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


def place_channels(shape: tuple[int, int, int], start: tuple[int, int, int], size: tuple[int, int, int]) -> Tensor:
    """(1, 3, X/2, Y/2, Z/2) float32 coordinates of the 2 mm voxels of a box, -1..1 over the template grid.

    Parameters
    ----------
    shape : tuple of 3 int
        Voxels of the template grid at 1 mm.
    start, size : tuple of 3 int
        First voxel and number of voxels of the box; sizes even.
    """
    axes = [
        ((torch.arange(n // 2, dtype=torch.float32) * 2 + 0.5 + s) / (whole - 1)) * 2 - 1
        for whole, s, n in zip(shape, start, size, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
