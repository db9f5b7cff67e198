"""Layers of the networks; inference on a CPU takes faster ways through them, whose results differ only by rounding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


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


class ConvBlock(nn.Sequential):
    """3 x 3 x 3 convolution, instance normalization and leaky ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            Conv3d(inputs, outputs, 3, padding=1, bias=False),
            InstanceNorm(outputs, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        )


class PlainEncoder(nn.Sequential):
    """Two convolution blocks in sequence."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(ConvBlock(inputs, outputs), ConvBlock(outputs, outputs))


class ResidualEncoder(nn.Module):
    """A residual block (He et al. 2016) of two convolutions; a 1 x 1 x 1 shortcut matches the channels if necessary."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = ConvBlock(inputs, outputs)
        self.second = nn.Sequential(
            Conv3d(outputs, outputs, 3, padding=1, bias=False), InstanceNorm(outputs, affine=True)
        )
        self.shortcut = nn.Identity() if inputs == outputs else Conv3d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, outputs, X, Y, Z) features from (N, inputs, X, Y, Z) features."""
        return functional.leaky_relu(self.second(self.first(x)) + self.shortcut(x), 0.01, inplace=True)


class RefinementBlock(nn.Sequential):
    """A residual block of two convolutions at 1 mm (He et al. 2016), the second of which is initialized with 0.

    Before it is trained it only multiplies negative features, already small after a leaky ReLU, by 0.01 again.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            Conv3d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.01, inplace=True),
            Conv3d(channels, channels, 3, padding=1),
        )
        with torch.no_grad():
            for parameter in self[2].parameters():
                parameter.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, X, Y, Z) features from features of the same shape."""
        change = self[2](self[1](self[0](x)))
        return functional.leaky_relu(change + x, 0.01, inplace=True)


def space_to_depth(image: Tensor) -> Tensor:
    """Space-to-depth: (N, C, X, Y, Z) with even sizes to (N, 8 C, X/2, Y/2, Z/2)."""
    n, c, x, y, z = image.shape
    blocks = image.reshape(n, c, x // 2, 2, y // 2, 2, z // 2, 2)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(n, 8 * c, x // 2, y // 2, z // 2)


def depth_to_space(features: Tensor) -> Tensor:
    """Depth-to-space, the inverse of `space_to_depth`: (N, 8 C, X, Y, Z) to (N, C, 2X, 2Y, 2Z)."""
    n, c8, x, y, z = features.shape
    return _blocks_of_coarse(features).reshape(n, 2 * x, 2 * y, 2 * z, c8 // 8).permute(0, 4, 1, 2, 3)


def concatenate_coarse_and_fine(coarse: Tensor, fine: Tensor) -> Tensor:
    """(N, C + D, 2X, 2Y, 2Z) channels-last features: ``depth_to_space(coarse)`` and ``fine``, written once.

    Parameters
    ----------
    coarse : (N, 8 C, X, Y, Z) tensor
    fine : (N, D, 2X, 2Y, 2Z) tensor
    """
    n, _, x, y, z = coarse.shape
    blocks = fine.permute(0, 2, 3, 4, 1).reshape(n, x, 2, y, 2, z, 2, -1)
    both = torch.cat([_blocks_of_coarse(coarse), blocks], dim=-1)
    return both.reshape(n, 2 * x, 2 * y, 2 * z, -1).permute(0, 4, 1, 2, 3)


def _blocks_of_coarse(features: Tensor) -> Tensor:
    """(N, X, 2, Y, 2, Z, 2, C) view of (N, 8 C, X, Y, Z) features."""
    n, c8, x, y, z = features.shape
    return features.permute(0, 2, 3, 4, 1).reshape(n, x, y, z, c8 // 8, 2, 2, 2).permute(0, 1, 5, 2, 6, 3, 7, 4)
