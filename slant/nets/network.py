"""Interface of all networks: backbone, decoder head with features at 1 mm, and logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from slant.errors import SettingsError
from slant.nets.layers import inside

UNCHANGED = "omitted from manifests if unchanged"


def later_setting(default: Any) -> Any:
    """A field of a settings class that older manifests lack; `NetworkSettings.as_dict` omits it if it has its default.

    The manifest of a network without it, and the identity of its model, thus stay the same.
    """
    return field(default=default, metadata={UNCHANGED: True})


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

    @property
    def stride(self) -> int:
        """Distance between features of the backbone, in voxels of the image."""
        raise NotImplementedError

    @property
    def multiple(self) -> int:
        """Number of which the size of an image along each axis must be a multiple; a multiple of `stride`."""
        raise NotImplementedError

    @property
    def earlier_channels(self) -> int:
        """Number of channels in which the network sees the result of an earlier assembly; 0 if it takes none."""
        return 0

    @property
    def slicewise(self) -> Mapping[str, NetworkSettings]:
        """Settings of the networks of kind ``slicewise`` whose weights this one takes over, by plane; usually none."""
        return {}

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values for a manifest, without a `later_setting` that has its default."""
        omitted = {f.name for f in fields(self) if f.metadata.get(UNCHANGED) and getattr(self, f.name) == f.default}
        values = {key: value for key, value in asdict(self).items() if key not in omitted}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


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
    prior : bool
        Whether log-frequencies of the regions (an atlas prior) are added to the logits.
    half_precision : bool
        Whether inference may run in half precision: float16 on a GPU, bfloat16 on a CPU.
    probabilistic : bool
        Whether the softmax of the logits follows the frequencies of the labels, so that a tile divides its ballots.
        Otherwise it has one, as in the original SLANT.
    frozen : tuple of str
        Prefixes of the names of tensors that training leaves as `take_over` has set them.
    memory : MemorySettings
        How activations are stored for the backward pass; can be set at any time and does not change results.
    """

    prior: ClassVar[bool]
    frozen: ClassVar[tuple[str, ...]] = ()
    half_precision: ClassVar[bool] = True
    probabilistic: ClassVar[bool] = True

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.memory = MemorySettings()

    @property
    def stride(self) -> int:
        """Distance between features of the backbone, in voxels of the image."""
        return self.settings.stride

    @property
    def multiple(self) -> int:
        """Number of which the size of an image along each axis must be a multiple."""
        return self.settings.multiple

    @property
    def halo(self) -> int:
        """Voxels around a box that the decoder head needs for correct values inside the box; a multiple of `stride`."""
        raise NotImplementedError

    def take_over(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Load the weights of trained 2D networks into this one.

        Parameters
        ----------
        weights : mapping of str to mapping of str to Tensor
            By plane, the weights of networks with the settings ``settings.slicewise``.

        Raises
        ------
        ValueError
            If this kind of network has no 2D parents.
        """
        del weights
        raise ValueError(f"this {type(self).__name__} takes over no weights of 2D networks")

    def backbone(self, image: Tensor, coordinates: Tensor, earlier: Tensor | None = None) -> Tensor:
        """(N, C, X/stride, Y/stride, Z/stride) features of a (N, 1, X, Y, Z) image.

        Parameters
        ----------
        image : (N, 1, X, Y, Z) float tensor
            Its sizes must be multiples of `multiple`.
        coordinates : (N, 3, X/stride, Y/stride, Z/stride) float tensor
            Coordinate channels: template coordinates of the features, scaled to -1..1.
        earlier : (N, E, X/stride, Y/stride, Z/stride) float tensor, optional
            Result of an earlier assembly at the features, from `embed`; needed if ``settings.earlier_channels`` is not
            0.

        Raises
        ------
        ValueError
            If ``earlier`` does not have ``settings.earlier_channels`` channels.
        """
        raise NotImplementedError

    def embed(self, channels: Tensor, fractions: Tensor) -> Tensor:
        """(1, E, X, Y, Z) embedding of the result of an earlier assembly: the mean of learned vectors of its channels.

        Parameters
        ----------
        channels : (X, Y, Z, K) integer tensor
            The most frequent channels of each voxel.
        fractions : (X, Y, Z, K) float tensor
            Their vote fractions; 0 if a voxel has fewer channels.

        Raises
        ------
        ValueError
            If the network takes no such result.
        """
        del channels, fractions
        raise ValueError(
            f"this {type(self).__name__} takes no result of an earlier assembly: its earlier_channels is 0"
        )

    def require_earlier(self, earlier: Tensor | None) -> None:
        """Raise the ValueError of `backbone` if ``earlier`` is not what this network takes."""
        found, expected = 0 if earlier is None else earlier.shape[1], self.settings.earlier_channels
        if found != expected:
            raise ValueError(
                f"the backbone of this {type(self).__name__} takes {expected} channels of an earlier result, found "
                f"{found}"
            )

    def decoder_head(self, features: Tensor, image: Tensor) -> Tensor:
        """(N, F, X, Y, Z) features at the voxels of the image, from the features of the backbone and the image."""
        raise NotImplementedError

    def inner_head(self, features: Tensor, image: Tensor) -> Tensor:
        """(N, F, X - 2 halo, Y - 2 halo, Z - 2 halo) features of the decoder head inside, for patches with their halo.

        Arguments as for `decoder_head`. Kinds of networks may compute less than all of its features.
        """
        return inside(self.decoder_head(features, image), self.halo)

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
