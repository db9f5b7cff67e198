"""What every kind of network is: a trunk over the image, a tail to 1 mm features, and logits made of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from slant.errors import SettingsError
from slant.nets.memory import MemorySettings


@dataclass(frozen=True)
class NetworkSettings:
    """What defines a network of any kind.

    Attributes
    ----------
    outputs : int
        Number of channels of the last layer.
    """

    outputs: int

    def __post_init__(self) -> None:
        require_positive("outputs", self.outputs)

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values for a manifest."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


class Network(nn.Module):
    """Base of all kinds.

    ``trunk`` and ``tail`` are apart so that training may run the tail on a sample of small boxes only.

    Attributes
    ----------
    settings : NetworkSettings
    stride : int
        Voxels (1 mm) from one feature of the trunk to the next.
    multiple : int
        The sizes of an image must be multiples of it.
    reach : int
        Voxels around a box that the tail needs to be right inside it; a multiple of ``stride``.
    prior : bool
        Whether log-frequencies of the regions are added to the logits.
    half_precision : bool
        Whether a GPU may compute it in half precision when it labels.
    memory : MemorySettings
        How it keeps what the backward pass needs; may be set at any time, changes no result.
    """

    stride: ClassVar[int]
    multiple: ClassVar[int]
    reach: ClassVar[int]
    prior: ClassVar[bool]
    half_precision: ClassVar[bool] = True

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.memory = MemorySettings()

    def trunk(self, image: Tensor, place: Tensor) -> Tensor:
        """(N, C, X/stride, Y/stride, Z/stride) features of a (N, 1, X, Y, Z) image.

        ``place`` is (N, 3, X/2, Y/2, Z/2): template coordinates of the 2 mm voxels, scaled to -1..1.
        """
        raise NotImplementedError

    def tail(self, features: Tensor, image: Tensor) -> Tensor:
        """(N, mixed, X, Y, Z) features at 1 mm from the trunk's and the image's."""
        raise NotImplementedError

    def logits(self, mixed: Tensor) -> Tensor:
        """(..., outputs) logits of (..., mixed) features, channels last."""
        raise NotImplementedError

    def logits_of(self, mixed: Tensor, channels: Tensor, onto: Tensor | None = None) -> Tensor:
        """(N, K) logits of some channels only, of (N, mixed) features.

        Parameters
        ----------
        mixed : (N, mixed) float tensor
        channels : (K,) int64 tensor on the same device
        onto : (N, K) float tensor, optional
            What the logits are added to, in place.
        """
        raise NotImplementedError

    def tasks(self, mixed: Tensor) -> dict[str, Tensor]:
        """(..., classes) logits of the tasks learned beside the regions, by their names."""
        del mixed
        return {}


N = TypeVar("N", bound=Network)


def channels_last(network: N) -> N:
    """The same network with its weights laid out as CPUs and GPUs convolve fastest."""
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]


def require_positive(name: str, *values: int) -> None:
    """Refuse what is not a number of channels.

    Raises
    ------
    SettingsError
        If there is none, or one below 1.
    """
    if not values or min(values) < 1:
        raise SettingsError(f"{name} of a network must be whole numbers from 1 on, found {list(values)}")
