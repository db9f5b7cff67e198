"""The network that a run trains: what its settings choose, and the kind with all its settings."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from slant.errors import SettingsError
from slant.labels import LabelProtocol
from slant.nets.network import Network, NetworkSettings
from slant.nets.registry import KINDS, build_network, settings_of

TASKS = ("tissue", "lobe", "brain")
"""Tasks that a network can learn in addition to the regions."""


@dataclass(frozen=True)
class NetworkChoice:
    """The network to train; fields that are None take the defaults of the kind.

    Attributes
    ----------
    kind : str
        Name from `slant.nets.registry.KINDS`.
    widths : tuple of int, optional
        Numbers of channels of the levels.
    image_channels, upsampled_channels, head_channels : int, optional
        Numbers of channels at the voxels of the image, see `slant.nets.voxel_head.UNetSettings`.
    tasks : tuple of str
        Tasks learned in addition to the regions (hard sharing, Caruana 1997): any of tissue, lobe, brain.
    head_layers : int, optional
        Number of residual blocks at the voxels of the image before the logits.
    stem : int, optional
        Edge in voxels of the blocks of the image that become channels of the first level: 2, or 1 for none.
    earlier_channels : int, optional
        Number of channels of the embedding of an earlier assembly's result.
    encoder : str, optional
        Depth of the encoder, for example resnet18, see `slant.nets.unet.ResidualSettings`.
    plane : {"sagittal", "coronal", "axial"}, optional
        Plane of the slices, see `slant.nets.planes.SlicewiseSettings`.
    slice_radius : int, optional
        Number of neighbours on each side that a slice of ``orthogonal`` sees as channels.
    slice_widths : tuple of int, optional
        Numbers of channels of the levels of the 2D networks of ``adapted`` and ``fusion``.
    score_channels : int, optional
        Number of channels into which ``fusion`` embeds the scores of a view.
    """

    kind: str = "compact"
    widths: tuple[int, ...] | None = None
    image_channels: int | None = None
    head_channels: int | None = None
    tasks: tuple[str, ...] = ()
    upsampled_channels: int | None = None
    head_layers: int | None = None
    stem: int | None = None
    earlier_channels: int | None = None
    encoder: str | None = None
    plane: str | None = None
    slice_radius: int | None = None
    slice_widths: tuple[int, ...] | None = None
    score_channels: int | None = None

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in TASKS:
                near = difflib.get_close_matches(task, TASKS, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise SettingsError(f"[network] unknown task {task!r}{hint}; known tasks: {', '.join(TASKS)}")
        if len(set(self.tasks)) < len(self.tasks):
            raise SettingsError(f"[network] tasks must be different, found {', '.join(self.tasks)}")


@dataclass(frozen=True)
class NetworkSpec:
    """A kind of network, a name from `slant.nets.registry.KINDS`, with all its settings."""

    kind: str
    settings: NetworkSettings

    @property
    def type(self) -> type[Network]:
        """Class of the networks of this kind."""
        return KINDS[self.kind].network

    @property
    def plain(self) -> dict[str, Any]:
        """``kind`` and ``settings`` as plain values, for checkpoints and manifests."""
        return {"kind": self.kind, "settings": self.settings.as_dict()}

    def build(self) -> Network:
        """A network with random weights from the generator of torch."""
        return build_network(self.kind, self.settings)


def task_classes(protocol: LabelProtocol, tasks: tuple[str, ...]) -> dict[str, Tensor]:
    """(C,) int64 class of each channel in each of the tasks, which are names from `TASKS`."""
    values: dict[str, list[str]] = {
        "tissue": [region.tissue for region in protocol.regions],
        "lobe": [region.lobe for region in protocol.regions],
        "brain": [str(region.id != 0) for region in protocol.regions],
    }
    classes = {}
    for task in tasks:
        order = sorted(set(values[task]))
        classes[task] = torch.tensor([order.index(value) for value in values[task]])
    return classes


def network_of(choice: NetworkChoice, protocol: LabelProtocol) -> NetworkSpec:
    """The chosen network, with an output for each region of a protocol.

    Raises
    ------
    SettingsError
        If the kind does not have these settings.
    """
    values = {k: v for k, v in asdict(choice).items() if v is not None and k not in ("kind", "tasks")}
    values["outputs"] = len(protocol)
    if choice.tasks:
        values["tasks"] = {task: int(labels.max()) + 1 for task, labels in task_classes(protocol, choice.tasks).items()}
    return NetworkSpec(choice.kind, settings_of(choice.kind, values, "[network]"))
