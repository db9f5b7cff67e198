"""What stays the same in a run, in a stage and in its steps: frozen values, each built once and handed down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slant.grid import Shape, scaled_shape
from slant.io.resources import load_protocol
from slant.io.templates import load_template
from slant.labels import LabelProtocol
from slant.nets.device import choose_device
from slant.nets.earlier import prior_at
from slant.nets.mirroring import Mirroring
from slant.nets.prior import Prior
from slant.tiles import Tile, TileLayout
from slant.train import draws
from slant.train.assembly_settings import AssemblySettings, assemblies_of
from slant.train.augment import Field, multiple_of
from slant.train.data import LabelledScan, TrainingScans
from slant.train.network import NetworkSpec, network_of, task_classes
from slant.train.settings import TrainSettings
from slant.train.stage_settings import StageSettings

WHOLE_START: Shape = (4, 12, 0)
WHOLE_SHAPE: Shape = (160, 192, 156)
"""First voxel and size of the box of the whole-brain stages; it contains all training brains, not the empty border."""


PlaneWeights = Mapping[str, Mapping[str, Tensor]]
"""Weights of 2D networks by plane, see `slant.nets.network.Network.take_over`."""


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
    """What is the same in all stages of the training of one assembly.

    Attributes
    ----------
    assembly : AssemblySettings
        The assembly that is trained, one of ``settings.cascade``.
    mirror_x : float
        A left-right flip maps the voxel coordinate x of the template to ``mirror_x - x``.
    devices : tuple of str
        Torch names of the training devices.
    deadline : float, optional
        Value of `time.monotonic` at which training stops.
    """

    settings: TrainSettings
    assembly: AssemblySettings
    protocol: LabelProtocol
    network: NetworkSpec
    regions: Regions
    mirror_x: float
    devices: tuple[str, ...]
    deadline: float | None = None

    @property
    def mirroring(self) -> Mirroring | None:
        """Parameters with which tiles label the mirror image; None if no tile does so."""
        mirror = self.assembly.mirror
        return None if mirror is None else Mirroring(self.protocol.mirrored_channels, self.mirror_x, mirror)

    @property
    def folder(self) -> Path:
        """Folder for the checkpoints of the assembly."""
        return self.settings.run / self.assembly.name if self.assembly.name else self.settings.run

    def checkpoint(self, stage: str) -> Path:
        """File of the checkpoint of a whole-brain stage, ``pretrain`` or ``whole``."""
        return self.folder / f"{stage}.pt"

    def tile_checkpoint(self, tile: str) -> Path:
        """File of the checkpoint of a tile."""
        return self.folder / self.settings.name / f"{tile}.pt"

    def out_of_fold(self, folds: int, fold: int, stage: str = "") -> Path:
        """File of the checkpoint of a network that is trained without a fold of the training subjects.

        Parameters
        ----------
        stage : str
            Stage that trains it, for example ``slices-axial``; by default ``whole``.
        """
        return self.folder / f"out-of-fold{folds}" / (f"{stage}-{fold}.pt" if stage else f"{fold}.pt")

    def at(self, name: str) -> RunContext:
        """The context of the assembly of this name in the same run."""
        assembly = next(assembly for assembly in self.settings.cascade if assembly.name == name)
        network = network_of(assembly.network, self.protocol)
        regions = regions_of(self.protocol, assembly.network.tasks)
        return replace(self, assembly=assembly, network=network, regions=regions)


def run_context(settings: TrainSettings, deadline: float | None = None) -> RunContext:
    """The context of a run with these settings, for the first assembly.

    Raises
    ------
    ProtocolError, SettingsError, DeviceError
        If the protocol, the network or a device does not exist.
    """
    protocol = load_protocol(settings.protocol)
    assemblies_of(settings.cascade, protocol)
    assembly = settings.cascade[0]
    return RunContext(
        settings,
        assembly,
        protocol,
        network_of(assembly.network, protocol),
        regions_of(protocol, assembly.network.tasks),
        load_template().mirror_x,
        tuple(str(choose_device(name)) for name in settings.devices),
        deadline,
    )


@dataclass(frozen=True, eq=False)
class FoldViews:
    """2D networks that a network takes over before a step, so that they have not seen the labels of the scan.

    This is the cross-cross-augmentation of Xia et al. 2018: what follows the 2D networks learns from scores like those
    of new scans.

    Attributes
    ----------
    trained_on_all : PlaneWeights
        For auxiliary scans: the networks that are trained on all scans of the stage ``slices``.
    unseen : dict of str to PlaneWeights
        For each manual scan, by its name: the networks that are trained without its fold.
    """

    trained_on_all: PlaneWeights
    unseen: dict[str, PlaneWeights]

    def of(self, scan: LabelledScan) -> PlaneWeights:
        """The networks for a step on a scan."""
        return self.unseen.get(scan.name, self.trained_on_all)


@dataclass(frozen=True, eq=False)
class StageContext:
    """What is the same in all steps of a stage that trains one network.

    Attributes
    ----------
    seen : Field
        Field of view of every step, in template voxels; with ``stage.crop``, crops are drawn from the template instead.
    layout : TileLayout
        Tiles in which the network is validated, on the grid of the assembly.
    tile : Tile, optional
        The tile of the layout that the network labels; None if it labels all of them.
    prior : Prior, optional
        Affine prior of the run on the grid of the assembly, if the network takes one.
    device : str
        Torch name of the device.
    shared_weights : dict of Tensor, optional
        Soft sharing (Duong et al. 2015): weights towards which the network of a tile is moved after every step, by the
        fraction ``tile.soft_sharing`` of the distance.
    views : FoldViews, optional
        2D networks that the network takes over before every step; None if it keeps the same ones.
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
    views: FoldViews | None = None

    @property
    def feature_mm(self) -> int:
        """Distance between features of the backbone in template voxels."""
        return self.run.network.settings.stride * self.run.assembly.resolution_mm

    def drawn(self, generator: torch.Generator) -> StageContext:
        """The context of one step: with ``stage.crop``, it sees a crop of the size of a tile, drawn anywhere."""
        if not self.stage.crop:
            return self
        r, layout = self.run.assembly.resolution_mm, self.run.assembly.layout
        size = multiple_of(layout.size, self.run.network.settings.multiple)
        positions = [whole - n + 1 for whole, n in zip(layout.shape, size, strict=True)]
        x, y, z = (draws.integer(generator, n) for n in positions)
        return replace(self, seen=replace(self.seen, start=scaled_shape((x, y, z), r), shape=scaled_shape(size, r)))


def whole_context(run: RunContext, scans: TrainingScans, stage: StageSettings) -> StageContext:
    """The context of a whole-brain stage, on the first device of the run."""
    assembly, r = run.assembly, run.assembly.resolution_mm
    field = Field(WHOLE_START, WHOLE_SHAPE, scaled_shape(assembly.layout.shape, r), np.arange(len(run.protocol)))
    seen = field.enlarged(run.network.settings.multiple * r)
    layout = assembly.layout if stage.crop else whole_layout(assembly.layout)
    tile = None if stage.crop else layout.tiles[0]
    return StageContext(run, scans, stage, seen, layout, tile, _prior_of(run, scans), run.devices[0])


def tile_context(run: RunContext, scans: TrainingScans, tile: Tile) -> StageContext:
    """The context of the fine-tuning of one tile, on the regions that occur there and the first device of the run."""
    layout, r, prior = run.assembly.layout, run.assembly.resolution_mm, _prior_of(run, scans)
    channels = np.arange(len(run.protocol)) if prior is None else prior.possible(tile.start, tile.stop)
    field = Field(scaled_shape(tile.start, r), scaled_shape(layout.size, r), scaled_shape(layout.shape, r), channels)
    seen = field.enlarged(run.network.settings.multiple * r)
    return StageContext(run, scans, run.assembly.tile, seen, layout, tile, prior, run.devices[0])


def _prior_of(run: RunContext, scans: TrainingScans) -> Prior | None:
    """Affine prior of a run on the grid of the assembly, if its networks take one."""
    return prior_at(scans.prior, run.assembly.resolution_mm) if run.network.type.prior else None


def whole_layout(layout: TileLayout) -> TileLayout:
    """A layout on the same grid with one tile, which covers all of it."""
    return TileLayout(layout.shape, layout.shape, (1, 1, 1))
