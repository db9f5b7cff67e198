"""Interface of all networks: backbone, decoder head with features at 1 mm, and logits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from slant.errors import SettingsError


@dataclass(frozen=True)
class NetworkSettings:
    """Settings that define a network of any kind.

    Attributes
    ----------
    outputs : int
        Number of output channels.
    """

    outputs: int

    def __post_init__(self) -> None:
        require_positive("outputs", self.outputs)

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values for a manifest."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class MemorySettings:
    """How a network stores the activations for its backward pass; the gradients are the same.

    Attributes
    ----------
    gradient_checkpointing : bool
        Store only the inputs of each level and recompute the rest: less memory, about a third more time (Chen et al.
        2016, arXiv 1604.06174).
    offload_activations : bool
        Store activations in host memory instead of GPU memory; without effect on a CPU.
    """

    gradient_checkpointing: bool = False
    offload_activations: bool = False


class Network(nn.Module):
    """Base class of all kinds of networks.

    ``backbone`` and ``decoder_head`` are separate, so that training can run the decoder head on a sample of small
    patches only.

    Attributes
    ----------
    stride : int
        Distance between features of the backbone, in voxels (1 mm).
    multiple : int
        Number of which the size of an image along each axis must be a multiple.
    prior : bool
        Whether log-frequencies of the regions (an atlas prior) are added to the logits.
    half_precision : bool
        Whether inference may run in half precision: float16 on a GPU, bfloat16 on a CPU.
    memory : MemorySettings
        How activations are stored for the backward pass; can be set at any time and does not change results.
    """

    stride: ClassVar[int]
    multiple: ClassVar[int]
    prior: ClassVar[bool]
    half_precision: ClassVar[bool] = True

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.memory = MemorySettings()

    @property
    def halo(self) -> int:
        """Voxels around a box that the decoder head needs for correct values inside the box; a multiple of `stride`."""
        raise NotImplementedError

    def backbone(self, image: Tensor, coordinates: Tensor) -> Tensor:
        """(N, C, X/stride, Y/stride, Z/stride) features of a (N, 1, X, Y, Z) image.

        ``coordinates`` are (N, 3, X/2, Y/2, Z/2) coordinate channels: template coordinates of the 2 mm voxels, scaled
        to -1..1.
        """
        raise NotImplementedError

    def decoder_head(self, features: Tensor, image: Tensor) -> Tensor:
        """(N, F, X, Y, Z) features at 1 mm from the features of the backbone and the image."""
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """(..., outputs) logits of (..., F) features of the decoder head, channels last."""
        raise NotImplementedError

    def logits_of(self, features: Tensor, channels: Tensor, prior: Tensor | None = None) -> Tensor:
        """(N, K) logits of selected channels, from (N, F) features of the decoder head.

        Parameters
        ----------
        features : (N, F) float tensor
        channels : (K,) int64 tensor on the same device
        prior : (N, K) float tensor, optional
            Log-frequencies of the prior, to which the logits are added in place.
        """
        raise NotImplementedError

    def tasks(self, features: Tensor) -> dict[str, Tensor]:
        """(..., classes) logits of the auxiliary tasks by name, from (..., F) features of the decoder head."""
        del features
        return {}


N = TypeVar("N", bound=Network)


def channels_last(network: N) -> N:
    """The same network with its weights in the memory format in which CPUs and GPUs convolve fastest."""
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]


def require_positive(name: str, *values: int) -> None:
    """Check that values are positive numbers of channels.

    Raises
    ------
    SettingsError
        If there are no values, or a value is below 1.
    """
    if not values or min(values) < 1:
        raise SettingsError(f"{name} of a network must be positive integers, found {list(values)}")


def run_level(memory: MemorySettings, level: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Compute ``level(*inputs)``; results and gradients do not depend on ``memory``.

    Parameters
    ----------
    level : callable
        Deterministic function that does not change its inputs.
    """
    if not torch.is_grad_enabled():
        return level(*inputs)
    with save_on_cpu(pin_memory=inputs[0].is_cuda) if memory.offload_activations else nullcontext():
        if memory.gradient_checkpointing:
            out: Tensor = checkpoint(level, *inputs, use_reentrant=False, preserve_rng_state=False)
            return out
        return level(*inputs)
