"""Levels of a ResNet encoder in 3D (He et al. 2016): basic blocks of two convolutions, bottleneck blocks of three.

The names and numbers of blocks are those of the 3D ResNets of Med3D (Chen, Ma and Zheng 2019, arXiv 1904.00625). What
differs: instance instead of batch normalization, leaky ReLU (0.01), max pooling between the levels instead of strides
and of the 7 x 7 x 7 convolution at the beginning, and the widths of the U-Net instead of 64 to 512 (or 2048).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from slant.nets.layers import CUBE, Conv3d, ConvBlock, InstanceNorm, Kernel, ResidualEncoder

ResNetName = Literal["resnet10", "resnet18", "resnet34", "resnet50"]

BLOCKS: dict[ResNetName, tuple[int, ...]] = {
    "resnet10": (1, 1, 1, 1),
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
}
"""Residual blocks of the four levels. ``resnet50`` has bottleneck blocks, the others basic ones."""


class BottleneckBlock(nn.Module):
    """A residual block (He et al. 2016) of three convolutions, the first two with a quarter of the channels."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel = CUBE) -> None:
        super().__init__()
        narrow = max(1, outputs // 4)
        self.reduce = ConvBlock(inputs, narrow, (1, 1, 1))
        self.first = ConvBlock(narrow, narrow, kernel)
        self.expand = nn.Sequential(Conv3d(narrow, outputs, 1, bias=False), InstanceNorm(outputs, affine=True))
        self.shortcut = nn.Identity() if inputs == outputs else Conv3d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, outputs, X, Y, Z) features from (N, inputs, X, Y, Z) features."""
        change: Tensor = self.expand(self.first(self.reduce(x)))
        return functional.leaky_relu(change + self.shortcut(x), 0.01, inplace=True)


def resnet_level(name: ResNetName, level: int, inputs: int, outputs: int, kernel: Kernel = CUBE) -> nn.Sequential:
    """The residual blocks of one of the four levels, 0 to 3; with a 2D kernel, those of a 2D ResNet."""
    block = BottleneckBlock if name == "resnet50" else ResidualEncoder
    count = BLOCKS[name][level]
    return nn.Sequential(block(inputs, outputs, kernel), *(block(outputs, outputs, kernel) for _ in range(count - 1)))
