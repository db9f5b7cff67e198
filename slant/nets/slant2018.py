"""The original network of SLANT (Huo et al. 2018), with the same layers and parameter names.

A 3D U-Net after Cicek et al. (2016) at 1 mm: encoders 32-64, 64-128, 128-256 and 256-512 with batch norm and three
max-pools between them, decoders of transposed convolutions without normalization, the last ones with one channel for
each region. It follows the released code (MASILab/SLANTbrainSeg, BSD-3-Clause,
``python/torchsrc/models/Unet3D.py``):

- the output is the rectified last 3 x 3 x 3 layer ``dc1``; the 1 x 1 x 1 layer ``dc0`` has weights and is not used;
- it runs in train mode, so the batch norm uses the statistics of the current image; running statistics are not stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from slant.errors import SettingsError
from slant.nets.network import Network, NetworkSettings, require_positive, run_level


@dataclass(frozen=True)
class Slant2018Settings(NetworkSettings):
    """Settings of a `Slant2018`; the defaults give the 19,920,783 parameters of the original.

    Attributes
    ----------
    outputs : int
        Number of output channels, which is also the number of channels of the last five decoders.
    widths : tuple of 5 int
        Channels of the first layer and of the four levels at 1, 2, 4, 8 mm.
    """

    outputs: int = 133
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("widths", *self.widths)
        if len(self.widths) != 5:
            raise SettingsError(f"widths of a slant2018 network must be 5 numbers, found {list(self.widths)}")

    @property
    def stride(self) -> int:
        """1: the features are at the voxels of the image."""
        return 1

    @property
    def multiple(self) -> int:
        """8, because of three max-pools by 2."""
        return 8


def _encoder(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, padding=1),
        nn.BatchNorm3d(outputs, track_running_stats=False),
        nn.ReLU(inplace=True),
    )


def _decoder(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    padding = 1 if kernel == 3 else 0
    return nn.Sequential(nn.ConvTranspose3d(inputs, outputs, kernel, stride, padding), nn.ReLU(inplace=True))


class Slant2018(Network):
    """One logit per region for each voxel of a tile, from the image alone.

    The image is one tile, scaled to 0-255 by its own minimum and maximum. The weights of the original expect the axes
    (z, x, y); the network itself does not depend on the order of the axes.
    """

    prior, half_precision, probabilistic = False, False, False
    settings: Slant2018Settings

    def __init__(self, settings: Slant2018Settings) -> None:
        super().__init__(settings)
        first, one, two, four, eight = settings.widths
        outputs = settings.outputs
        self.ec0, self.ec1 = _encoder(1, first), _encoder(first, one)
        self.ec2, self.ec3 = _encoder(one, one), _encoder(one, two)
        self.ec4, self.ec5 = _encoder(two, two), _encoder(two, four)
        self.ec6, self.ec7 = _encoder(four, four), _encoder(four, eight)
        self.dc9 = _decoder(eight, eight, kernel=2, stride=2)
        self.dc8, self.dc7 = _decoder(four + eight, four), _decoder(four, four)
        self.dc6 = _decoder(four, four, kernel=2, stride=2)
        self.dc5, self.dc4 = _decoder(two + four, outputs), _decoder(outputs, outputs)
        self.dc3 = _decoder(outputs, outputs, kernel=2, stride=2)
        self.dc2, self.dc1 = _decoder(one + outputs, outputs), _decoder(outputs, outputs)
        self.dc0 = _decoder(one, outputs, kernel=1)

    @property
    def halo(self) -> int:
        """None: logits of a voxel depend on its features only."""
        return 0

    def backbone(self, image: Tensor, coordinates: Tensor, earlier: Tensor | None = None) -> Tensor:
        """(N, outputs, X, Y, Z) rectified ``dc1`` of a (N, 1, X, Y, Z) image whose sizes are multiples of 8."""
        self.require_earlier(earlier)
        del coordinates
        level = run_level
        e1 = level(self.memory, lambda x: self.ec1(self.ec0(x)), image)
        e3 = level(self.memory, _pooled(self.ec2, self.ec3), e1)
        e5 = level(self.memory, _pooled(self.ec4, self.ec5), e3)
        x = level(self.memory, _pooled(self.ec6, self.ec7), e5)
        x = level(self.memory, _joined(self.dc9, self.dc8, self.dc7), x, e5)
        del e5
        x = level(self.memory, _joined(self.dc6, self.dc5, self.dc4), x, e3)
        del e3
        return level(self.memory, _joined(self.dc3, self.dc2, self.dc1), x, e1)

    def decoder_head(self, features: Tensor, image: Tensor) -> Tensor:
        """The features of the backbone unchanged, because they are at 1 mm already."""
        del image
        return features

    def logits(self, features: Tensor) -> Tensor:
        """The features unchanged: one per region."""
        return features

    def logits_of(self, features: Tensor, channels: Tensor, prior: Tensor | None = None) -> Tensor:
        """(N, K) logits of selected channels, from (N, outputs) features; see `Network.logits_of`."""
        return features[:, channels] if prior is None else prior.add_(features[:, channels])


def _pooled(first: nn.Module, second: nn.Module) -> Callable[[Tensor], Tensor]:
    def down(x: Tensor) -> Tensor:
        out: Tensor = second(first(functional.max_pool3d(x, 2)))
        return out

    return down


def _joined(lift: nn.Module, first: nn.Module, second: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    def up(x: Tensor, skip: Tensor) -> Tensor:
        out: Tensor = second(first(torch.cat([lift(x), skip], dim=1)))
        return out

    return up
