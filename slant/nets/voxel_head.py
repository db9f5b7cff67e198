"""Networks with a decoder head at the voxels of the image, and their settings.

Space-to-depth turns each block of voxels of the image into channels; a backbone of any kind computes features of the
blocks; depth-to-space returns them to the voxels, where a few channels from the image itself sharpen the borders before
the last layers. A linear layer gives one logit per region, to which an atlas prior (log-frequencies of the regions) may
be added.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from slant.errors import SettingsError
from slant.nets.layers import (
    CUBE,
    Conv3d,
    Kernel,
    RefinementBlock,
    concatenate_coarse_and_fine,
    inner_conv,
    inside,
    same_conv,
    space_to_depth,
)
from slant.nets.network import Network, NetworkSettings, later_setting, require_positive, run_level


@dataclass(frozen=True)
class UNetSettings(NetworkSettings):
    """Settings of a `VoxelNetwork`, and all that define a `slant.nets.unet.CompactUNet`.

    Attributes
    ----------
    outputs : int
        Number of output channels.
    widths : tuple of int
        Channels of the levels at ``stem``, ``2 * stem``, ``4 * stem``, ... voxels of the image.
    image_channels : int
        Channels computed from the image at its voxels.
    upsampled_channels : int, optional
        Channels at the voxels of the image after depth-to-space of the features (default: ``image_channels``).
    head_channels : int
        Channels of the last 3 x 3 x 3 layers.
    head_layers : int
        Residual blocks of two 3 x 3 x 3 layers at the voxels of the image before the logits.
    tasks : dict of str to int
        Number of classes of each auxiliary task, learned from the same features, for example ``{"tissue": 4}``.
    stem : {2, 1}
        Edge in voxels of the blocks of the image that space-to-depth turns into channels of the first level; 1: none.
    earlier_channels : int
        Channels of the learned linear embedding of the result of an earlier assembly; 0: the network takes none.
    """

    widths: tuple[int, ...] = (24, 32, 48, 64)
    image_channels: int = 8
    head_channels: int = 16
    tasks: dict[str, int] = field(default_factory=dict)
    upsampled_channels: int | None = None
    head_layers: int = 0
    stem: int = later_setting(2)
    earlier_channels: int = later_setting(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("head_layers", self.head_layers), ("earlier_channels", self.earlier_channels)):
            if value < 0:
                raise SettingsError(f"{name} must be at least 0, found {value}")
        if self.stem not in (1, 2):
            raise SettingsError(
                f"stem must be 2 (blocks of 2 x 2 x 2 voxels become channels) or 1 (no blocks), found {self.stem}"
            )
        require_positive("widths", *self.widths)
        require_positive("image_channels", self.image_channels)
        require_positive("head_channels", self.head_channels)
        require_positive("upsampled_channels", self.upsampled)
        for task, classes in self.tasks.items():
            if not task.isidentifier() or hasattr(nn.ModuleDict, task):
                raise SettingsError(f"a task cannot be called {task!r}; use a word, for example tissue, lobe or brain")
            if classes < 2:
                raise SettingsError(f"the task {task!r} has {classes} classes, expected at least 2")

    @property
    def upsampled(self) -> int:
        """Number of channels at the voxels of the image after depth-to-space of the features."""
        return self.image_channels if self.upsampled_channels is None else self.upsampled_channels

    @property
    def stride(self) -> int:
        """Distance between features of the backbone, in voxels of the image."""
        return self.stem

    @property
    def multiple(self) -> int:
        """Number of which the size of an image must be a multiple; levels below the first pad what they need."""
        return self.stem

    @property
    def kernel(self) -> Kernel:
        """Kernel of the convolutions of the backbone."""
        return CUBE

    @property
    def head_kernel(self) -> Kernel:
        """Kernel of the convolutions at the voxels of the image."""
        return CUBE

    @property
    def pooling(self) -> Kernel:
        """Block of features of one level that becomes one of the next."""
        return 2, 2, 2


class VoxelNetwork(Network):
    """Base class of the networks that differ in the backbone, and share the layers before and after it."""

    prior = True
    settings: UNetSettings

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__(settings)
        self.add_backbone()
        block, in_head, head_channels = settings.stem**3, settings.head_kernel, settings.head_channels
        self.unfold = Conv3d(settings.widths[0], block * settings.upsampled, 1)
        self.detail = same_conv(1, settings.image_channels, in_head)
        self.mix = same_conv(settings.upsampled + settings.image_channels, head_channels, in_head)
        self.refine = nn.ModuleList(RefinementBlock(head_channels, in_head) for _ in range(settings.head_layers))
        self.head = nn.Linear(head_channels, settings.outputs)
        self.heads = nn.ModuleDict({task: nn.Linear(head_channels, n) for task, n in settings.tasks.items()})
        if not self.head.weight.is_meta:  # there, init would import the compiler of torch (about two seconds)
            nn.init.normal_(self.head.weight, std=1e-3)
            nn.init.zeros_(self.head.bias)
        if settings.earlier_channels:
            self.embedding = nn.Linear(settings.outputs, settings.earlier_channels, bias=False)
            if not self.embedding.weight.is_meta:
                nn.init.normal_(self.embedding.weight)  # vote fractions near 0 and 1 give channels of variance 1

    def add_backbone(self) -> None:
        """Add the layers of the backbone, which has ``input_channels`` inputs and ``settings.widths[0]`` outputs."""
        raise NotImplementedError

    @property
    def input_channels(self) -> int:
        """Number of channels of the input of the backbone, see `inputs`."""
        return self.settings.stem**3 + 3 + self.settings.earlier_channels

    @property
    def halo(self) -> int:
        """Voxels around a box that the decoder head needs: one for each of its 3 x 3 x 3 layers."""
        return 2 + 2 * self.settings.head_layers

    def inputs(self, image: Tensor, coordinates: Tensor, earlier: Tensor | None) -> Tensor:
        """Input of the backbone: the blocks of the image, coordinates and earlier result, one after the other."""
        self.require_earlier(earlier)
        parts = [space_to_depth(image, self.settings.stem), coordinates, *([] if earlier is None else [earlier])]
        return torch.cat(parts, dim=1).contiguous(memory_format=torch.channels_last_3d)

    def embed(self, channels: Tensor, fractions: Tensor) -> Tensor:
        """(1, earlier_channels, X, Y, Z) embedding of the result of an earlier assembly; see `Network.embed`."""
        if not self.settings.earlier_channels:
            return super().embed(channels, fractions)
        vectors = self.embedding.weight.T
        embedded = vectors.new_zeros((*channels.shape[:3], vectors.shape[1]))
        for channel, fraction in zip(channels.unbind(-1), fractions.to(vectors.dtype).unbind(-1), strict=True):
            embedded = embedded + functional.embedding(channel.long(), vectors) * fraction[..., None]
        return embedded.permute(3, 0, 1, 2)[None]

    def decoder_head(self, features: Tensor, image: Tensor) -> Tensor:
        """(N, head_channels, X, Y, Z) features from the features of the backbone and the image."""

        def head(features: Tensor, image: Tensor) -> Tensor:
            mixed = functional.leaky_relu(self.mix(self._joined(features, image)), 0.01, inplace=True)
            for block in self.refine:
                mixed = block(mixed)
            return mixed

        return run_level(self.memory, head, features, image)

    def inner_head(self, features: Tensor, image: Tensor) -> Tensor:
        """(N, head_channels, X - 2 halo, ...) features inside the halo; the large layers compute no others."""

        def head(features: Tensor, image: Tensor) -> Tensor:
            joined = inside(self._joined(features, image), 1)
            mixed = functional.leaky_relu(inner_conv(self.mix, joined), 0.01, inplace=True)
            block: RefinementBlock
            for block in self.refine:  # type: ignore[assignment]
                mixed = block.inner(mixed)
            return mixed

        return run_level(self.memory, head, features, image)

    def _joined(self, features: Tensor, image: Tensor) -> Tensor:
        """(N, C, X, Y, Z) features of the backbone at the voxels of the image, with those from the image itself."""
        fine = functional.leaky_relu(self.detail(image), 0.01, inplace=True)
        return concatenate_coarse_and_fine(self.unfold(features), fine, self.settings.stem)

    def logits(self, features: Tensor) -> Tensor:
        """(..., outputs) logits of (..., head_channels) features, channels last."""
        out: Tensor = self.head(features)
        return out

    def logits_of(self, features: Tensor, channels: Tensor, prior: Tensor | None = None) -> Tensor:
        """(N, K) logits of selected channels, from (N, head_channels) features; see `Network.logits_of`."""
        weight, bias = (part[channels].to(features.dtype) for part in (self.head.weight, self.head.bias))
        weight = weight.T.contiguous()
        if prior is None:
            return torch.addmm(bias, features, weight)
        return prior.add_(bias).addmm_(features, weight)

    def tasks(self, features: Tensor) -> dict[str, Tensor]:
        """(..., classes) logits of each auxiliary task, learned by hard parameter sharing (Caruana 1997)."""
        return {task: head(features) for task, head in self.heads.items()}
