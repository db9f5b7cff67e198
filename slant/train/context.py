"""What stays the same in a run, in a stage and in its steps: frozen values, each built once and handed down."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slant.grid import Shape
from slant.io.resources import load_protocol
from slant.io.templates import load_template
from slant.labels import LabelProtocol
from slant.nets.device import choose_device
from slant.nets.predict import Mirroring
from slant.nets.prior import Prior
from slant.tiles import Tile, TileLayout
from slant.train.augment import Field, multiple_of
from slant.train.data import TrainingScans
from slant.train.network import NetworkSpec, network_of, task_classes
from slant.train.settings import StageSettings, TrainSettings

WHOLE_START: Shape = (4, 12, 0)
WHOLE_SHAPE: Shape = (160, 192, 156)
"""First voxel and size of the box of the whole-brain stages; it contains all training brains, not the empty border."""


@dataclass(frozen=True, eq=False)
class Regions:
    """Properties of the channels of a protocol that loss and augmentation use.

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
    """The properties of the regions of a protocol, with additional tasks, see `slant.train.network.task_classes`."""
    tissues = [region.tissue for region in protocol.regions]
    return Regions(
        torch.from_numpy(protocol.mirrored_channels.copy()),
        task_classes(protocol, tasks),
        torch.tensor([tissue == "csf" for tissue in tissues]),
        torch.tensor([tissue == "white" for tissue in tissues]),
    )


@dataclass(frozen=True, eq=False)
class RunContext:
    """What is the same in all stages of a run.

    Attributes
    ----------
    mirror_x : float
        A left-right flip maps the voxel coordinate x of the template to ``mirror_x - x``.
    devices : tuple of str
        Torch names of the training devices.
    deadline : float, optional
        Value of `time.monotonic` at which training stops.
    """

    settings: TrainSettings
    protocol: LabelProtocol
    network: NetworkSpec
    regions: Regions
    mirror_x: float
    devices: tuple[str, ...]
    deadline: float | None = None

    @property
    def mirroring(self) -> Mirroring | None:
        """Parameters with which every second tile labels the mirror image; None if the run does not do so."""
        return Mirroring(self.protocol.mirrored_channels, self.mirror_x) if self.settings.mirror else None

    def checkpoint(self, stage: str) -> Path:
        """File of the checkpoint of a whole-brain stage, ``pretrain`` or ``whole``."""
        return self.settings.run / f"{stage}.pt"

    def tile_checkpoint(self, tile: str) -> Path:
        """File of the checkpoint of a tile."""
        return self.settings.run / self.settings.name / f"{tile}.pt"


def run_context(settings: TrainSettings, deadline: float | None = None) -> RunContext:
    """The context of a run with these settings.

    Raises
    ------
    ProtocolError, SettingsError, DeviceError
        If the protocol, the network or a device does not exist.
    """
    protocol = load_protocol(settings.protocol)
    return RunContext(
        settings,
        protocol,
        network_of(settings.network, protocol),
        regions_of(protocol, settings.network.tasks),
        load_template().mirror_x,
        tuple(str(choose_device(name)) for name in settings.devices),
        deadline,
    )


@dataclass(frozen=True, eq=False)
class StageContext:
    """What is the same in all steps of a stage that trains one network.

    Attributes
    ----------
    seen : Field
        Field of view of every step; with ``stage.crop``, crops are drawn from the template instead.
    layout : TileLayout
        Tiles in which the network is validated.
    tile : Tile, optional
        The tile of the layout that the network labels; None if it labels all of them.
    prior : Prior, optional
        Affine prior of the run, if the network takes one.
    device : str
        Torch name of the device.
    shared_weights : dict of Tensor, optional
        Soft sharing (Duong et al. 2015): weights towards which the network of a tile is moved after every step, by the
        fraction ``tile.soft_sharing`` of the distance.
    """

    run: RunContext
    scans: TrainingScans
    stage: StageSettings
    seen: Field
    layout: TileLayout
    tile: Tile | None = None
    prior: Prior | None = None
    device: str = "cpu"
    shared_weights: dict[str, Tensor] | None = None

    def drawn(self, generator: torch.Generator) -> StageContext:
        """The context of one step: with ``stage.crop``, it sees a crop of the size of a tile, drawn anywhere."""
        if not self.stage.crop:
            return self
        shape = multiple_of(self.run.settings.layout.size, self.run.network.type.multiple)
        positions = [whole - size + 1 for whole, size in zip(self.seen.template_shape, shape, strict=True)]
        x, y, z = (int(torch.randint(n, (1,), generator=generator)) for n in positions)
        return replace(self, seen=replace(self.seen, start=(x, y, z), shape=shape))


def whole_context(run: RunContext, scans: TrainingScans, stage: StageSettings) -> StageContext:
    """The context of a whole-brain stage, on the first device of the run."""
    settings, network = run.settings, run.network.type
    field = Field(WHOLE_START, WHOLE_SHAPE, settings.layout.shape, np.arange(len(run.protocol)))
    seen, prior = field.enlarged(network.multiple), scans.prior if network.prior else None
    layout = settings.layout if stage.crop else whole_layout(settings.layout)
    tile = None if stage.crop else layout.tiles[0]
    return StageContext(run, scans, stage, seen, layout, tile, prior, run.devices[0])


def tile_context(run: RunContext, scans: TrainingScans, tile: Tile) -> StageContext:
    """The context of the fine-tuning of one tile, on the regions that occur there and the first device of the run."""
    settings, network = run.settings, run.network.type
    prior = scans.prior if network.prior else None
    channels = np.arange(len(run.protocol)) if prior is None else prior.possible(tile.start, tile.stop)
    field = Field(tile.start, settings.layout.size, settings.layout.shape, channels)
    seen = field.enlarged(network.multiple)
    return StageContext(run, scans, settings.tile, seen, settings.layout, tile, prior, run.devices[0])


def whole_layout(layout: TileLayout) -> TileLayout:
    """A layout on the same grid with one tile, which covers all of it."""
    return TileLayout(layout.shape, layout.shape, (1, 1, 1))
