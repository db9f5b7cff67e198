"""What stays the same in a run, in a stage and in its steps: frozen values, each built once and handed down."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from slant.grid import Shape
from slant.io.resources import load_protocol
from slant.io.templates import load_template
from slant.nets.device import choose_device
from slant.nets.predict import Mirroring
from slant.tiles import TileLayout
from slant.train.network import network_of
from slant.train.regions import regions_of

if TYPE_CHECKING:
    from torch import Tensor

    from slant.labels import LabelProtocol
    from slant.nets.prior import Prior
    from slant.tiles import Tile
    from slant.train.network import NetworkSpec
    from slant.train.prepare import TrainingScans
    from slant.train.regions import Regions
    from slant.train.settings import StageSettings, TrainSettings

WHOLE_START: Shape = (4, 12, 0)
WHOLE_SHAPE: Shape = (160, 192, 156)
"""First voxel and size of the box of the whole-brain stages; it contains all training brains, not the empty border."""


@dataclass(frozen=True, eq=False)
class RunContext:
    """What is the same in all stages of a run.

    Attributes
    ----------
    network : NetworkSpec
        Network of every stage and tile.
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
class Field:
    """The part of the template that a network sees, and the channels that it distinguishes there.

    Attributes
    ----------
    start, shape : tuple of 3 int
        First voxel (negative outside the template) and size of the box, in template voxels.
    template_shape : tuple of 3 int
        Size of the template in voxels.
    channels : (K,) int64 array
        Channels that the network distinguishes.
    """

    start: Shape
    shape: Shape
    template_shape: Shape
    channels: NDArray[np.int64]

    def enlarged(self, multiple: int) -> Field:
        """The field enlarged on both sides so that its size is a multiple of the given number."""
        x, y, z = (s - (-n % multiple) // 2 for s, n in zip(self.start, self.shape, strict=True))
        return replace(self, start=(x, y, z), shape=multiple_of(self.shape, multiple))


def multiple_of(shape: Shape, multiple: int) -> Shape:
    """The shape enlarged to multiples of the given number."""
    x, y, z = (n + -n % multiple for n in shape)
    return x, y, z


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
    layout = settings.layout if stage.crop else whole_layout(settings.layout)
    return StageContext(
        run,
        scans,
        stage,
        field.enlarged(network.multiple),
        layout,
        tile=None if stage.crop else layout.tiles[0],
        prior=scans.prior if network.prior else None,
        device=run.devices[0],
    )


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
