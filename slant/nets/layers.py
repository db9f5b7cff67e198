"""Layers of the networks; inference on a CPU takes faster ways through them, whose results differ only by rounding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

Kernel = tuple[int, int, int]
"""Edge lengths of a convolution kernel along x, y, z; 1 along an axis: the slices across it are independent."""

CUBE: Kernel = (3, 3, 3)


def fast_inference(x: Tensor) -> bool:
    """Whether an input is of inference on a CPU, with the library oneDNN."""
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
        return False
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


class Conv3d(nn.Conv3d):
    """A convolution that oneDNN computes for inference, also where PyTorch would choose its own, slower way.

    PyTorch does so if the input has few channels or planes, for example the image. Padding must be a number of voxels.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name in PyTorch)
        """(N, outputs, X, Y, Z) from (N, inputs, X, Y, Z)."""
        if not fast_inference(input):
            return super().forward(input)
        padding = [int(n) for n in self.padding]
        out: Tensor = torch.mkldnn_convolution(
            input, self.weight, self.bias, padding, self.stride, self.dilation, self.groups
        )
        return out


class InstanceNorm(nn.InstanceNorm3d):
    """Instance normalization that, for inference of one image, sums along one axis after the other.

    PyTorch copies features that are stored channels last, or sums them one by one, which loses three digits.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name in PyTorch)
        """(N, C, X, Y, Z) features, normalized for each image and channel."""
        if len(input) != 1 or not fast_inference(input):
            return super().forward(input)
        count = input[0, 0].numel()
        mean = _channel_sums(input) / count
        variance = _channel_sums((input - mean.to(input.dtype).view(1, -1, 1, 1, 1)).square_()) / count
        return functional.batch_norm(input, mean, variance, self.weight.float(), self.bias.float(), eps=self.eps)


def _channel_sums(x: Tensor) -> Tensor:
    return x.sum(dim=(3, 4), dtype=torch.float32).sum(dim=(0, 2))


def same_conv(inputs: int, outputs: int, kernel: Kernel = CUBE, *, bias: bool = True) -> Conv3d:
    """A convolution with an odd kernel whose output has the size of its input."""
    x, y, z = kernel
    return Conv3d(inputs, outputs, kernel, padding=(x // 2, y // 2, z // 2), bias=bias)


class ConvBlock(nn.Sequential):
    """Convolution, instance normalization and leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel = CUBE) -> None:
        super().__init__(
            same_conv(inputs, outputs, kernel, bias=False),
            InstanceNorm(outputs, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        )


class PlainEncoder(nn.Sequential):
    """Two convolution blocks in sequence."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel = CUBE) -> None:
        super().__init__(ConvBlock(inputs, outputs, kernel), ConvBlock(outputs, outputs, kernel))


class ResidualEncoder(nn.Module):
    """A residual block (He et al. 2016) of two convolutions; a 1 x 1 x 1 shortcut matches the channels if necessary."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel = CUBE) -> None:
        super().__init__()
        self.first = ConvBlock(inputs, outputs, kernel)
        self.second = nn.Sequential(same_conv(outputs, outputs, kernel, bias=False), InstanceNorm(outputs, affine=True))
        self.shortcut = nn.Identity() if inputs == outputs else Conv3d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, outputs, X, Y, Z) features from (N, inputs, X, Y, Z) features."""
        return functional.leaky_relu(self.second(self.first(x)) + self.shortcut(x), 0.01, inplace=True)


class RefinementBlock(nn.Sequential):
    """A residual block of two convolutions (He et al. 2016), the second of which is initialized with 0.

    Before it is trained it only multiplies negative features, already small after a leaky ReLU, by 0.01 again.
    """

    def __init__(self, channels: int, kernel: Kernel = CUBE) -> None:
        super().__init__(
            same_conv(channels, channels, kernel),
            nn.LeakyReLU(0.01, inplace=True),
            same_conv(channels, channels, kernel),
        )
        with torch.no_grad():
            for parameter in self[2].parameters():
                parameter.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, X, Y, Z) features from features of the same shape."""
        change = self[2](self[1](self[0](x)))
        return functional.leaky_relu(change + x, 0.01, inplace=True)

    def inner(self, x: Tensor) -> Tensor:
        """The output without two voxels on each side, which are not computed."""
        first: nn.Conv3d = self[0]  # type: ignore[assignment]
        last: nn.Conv3d = self[2]  # type: ignore[assignment]
        change = inner_conv(last, self[1](inner_conv(first, x)))
        return functional.leaky_relu(change + inside(x, 2), 0.01, inplace=True)


def inner_conv(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """The output of a `same_conv` of edge 1 or 3 without the outermost voxels on each side, which are not computed."""
    out = functional.conv3d(x, layer.weight, layer.bias)
    cuts = (slice(None) if edge == 3 else slice(1, -1) for edge in layer.kernel_size)
    return out[:, :, *cuts]


def inside(x: Tensor, margin: int) -> Tensor:
    """(N, C, X - 2 margin, Y - 2 margin, Z - 2 margin) features without those near the faces of (N, C, X, Y, Z)."""
    spans = (slice(margin, size - margin) for size in x.shape[2:])
    return x[:, :, *spans]


def space_to_depth(image: Tensor, edge: int = 2) -> Tensor:
    """Space-to-depth of cubes of an edge e in voxels: (N, C, X, Y, Z) to (N, e^3 C, X/e, Y/e, Z/e).

    The sizes must be multiples of the edge; an edge of 1 leaves the image as it is.
    """
    n, c, x, y, z = image.shape[0], image.shape[1], *(size // edge for size in image.shape[2:])
    blocks = image.reshape(n, c, x, edge, y, edge, z, edge)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(n, edge**3 * c, x, y, z)


def depth_to_space(features: Tensor, edge: int = 2) -> Tensor:
    """Depth-to-space, the inverse of `space_to_depth`: (N, e^3 C, X, Y, Z) to (N, C, eX, eY, eZ)."""
    n, _, x, y, z = features.shape
    return _blocks_of_coarse(features, edge).reshape(n, edge * x, edge * y, edge * z, -1).permute(0, 4, 1, 2, 3)


def concatenate_coarse_and_fine(coarse: Tensor, fine: Tensor, edge: int = 2) -> Tensor:
    """(N, C + D, eX, eY, eZ) channels-last features: ``depth_to_space(coarse, e)`` and ``fine``, written once.

    Parameters
    ----------
    coarse : (N, e^3 C, X, Y, Z) tensor
    fine : (N, D, eX, eY, eZ) tensor
    edge : int
        Edge e of the cubes in voxels.
    """
    n, _, x, y, z = coarse.shape
    blocks = fine.permute(0, 2, 3, 4, 1).reshape(n, x, edge, y, edge, z, edge, -1)
    both = torch.cat([_blocks_of_coarse(coarse, edge), blocks], dim=-1)
    return both.reshape(n, edge * x, edge * y, edge * z, -1).permute(0, 4, 1, 2, 3)


def _blocks_of_coarse(features: Tensor, edge: int) -> Tensor:
    """(N, X, e, Y, e, Z, e, C) view of (N, e^3 C, X, Y, Z) features."""
    n, _, x, y, z = features.shape
    blocks = features.permute(0, 2, 3, 4, 1).reshape(n, x, y, z, -1, edge, edge, edge)
    return blocks.permute(0, 1, 5, 2, 6, 3, 7, 4)
