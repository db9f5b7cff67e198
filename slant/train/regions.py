"""Properties of the regions of a protocol that loss and augmentation use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from slant.labels import LabelProtocol


@dataclass(frozen=True, eq=False)
class Regions:
    """Properties of the channels of a protocol.

    Attributes
    ----------
    mirrored : (C,) uint8 tensor
        Channel of the region on the other side, for each channel.
    tasks : dict of str to (C,) int64 tensor
        Class of each channel in each additional task.
    csf, white_matter : (C,) bool tensor
        Whether each channel is CSF, and whether it is white matter, for the anatomical augmentation.
    """

    mirrored: Tensor
    tasks: dict[str, Tensor]
    csf: Tensor
    white_matter: Tensor


def regions_of(protocol: LabelProtocol, tasks: tuple[str, ...] = ()) -> Regions:
    """The properties of the regions of a protocol.

    Parameters
    ----------
    tasks : tuple of str
        Additional tasks, see `task_classes`.
    """
    tissues = [region.tissue for region in protocol.regions]
    return Regions(
        torch.from_numpy(protocol.mirrored_channels.copy()),
        task_classes(protocol, tasks),
        torch.tensor([tissue == "csf" for tissue in tissues]),
        torch.tensor([tissue == "white" for tissue in tissues]),
    )


def task_classes(protocol: LabelProtocol, tasks: tuple[str, ...]) -> dict[str, Tensor]:
    """Class of each channel in the tasks that are learned in addition to the regions.

    Parameters
    ----------
    tasks : tuple of str
        Any of ``tissue``, ``lobe`` and ``brain``.

    Returns
    -------
    dict of str to (C,) int64 tensor
    """
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
