"""Phantoms for the tests of training: three bright blocks in a box, written like prepared scans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slant.grid import Shape
from slant.io.resources import load_protocol
from slant.nets.network import Network, NetworkSettings
from slant.nets.registry import settings_of
from slant.nets.voxel_head import UNetSettings
from slant.tiles import TileLayout
from slant.train import data
from slant.train.assembly_settings import AssemblySettings
from slant.train.atlas import Atlas, atlas_of
from slant.train.augment import AugmentSettings, Field
from slant.train.checkpoint import Identity, State, new_state
from slant.train.context import StageContext, run_context
from slant.train.data import TrainingScans
from slant.train.loop import train_stage
from slant.train.loss import IGNORED
from slant.train.network import NetworkChoice, NetworkSpec
from slant.train.settings import TrainSettings
from slant.train.stage_settings import StageSettings, TileSettings
from slant.train.step import step_loss

SHAPE = (32, 40, 36)
LEFT, MIDDLE, RIGHT = 4, 7, 3
"""Channels of the blocks along x: left accumbens, brain stem, right accumbens."""

BLOCKS = {LEFT: (6, 1.0), MIDDLE: (13, 1.5), RIGHT: (20, 2.2)}
"""First voxel along x, and intensity, of the block of each channel."""

MIRROR_X = 31.0
OUTPUTS = len(load_protocol())
NETWORK = NetworkSpec("compact", UNetSettings(OUTPUTS, (4, 6, 8), image_channels=2, head_channels=6))
STAGE = StageSettings(6, learning_rate=1e-2, patches=8, ema_decay=0.5)
LAYOUT = TileLayout(SHAPE, (20, 24, 20), (2, 2, 2), "core")
PAIR = TileLayout(SHAPE, (20, 40, 36), (2, 1, 1), "core")
STILL = AugmentSettings(
    rotation_deg=0,
    scaling=0,
    translation_mm=0,
    elastic_mm=0,
    ventricle_dilation_mm=0,
    sulcal_widening_mm=0,
    lesion_probability=0,
    gamma=0,
    bias_field=0,
    contrast=0,
    noise=0,
    ghosting=0,
    blur_mm=0,
    slice_thickness_mm=1,
    mask_perturbation=0,
)
"""No augmentation except a small change of brightness."""

GENTLE = AugmentSettings(
    rotation_deg=1.0,
    scaling=0.01,
    translation_mm=0.5,
    elastic_mm=0.5,
    ventricle_dilation_mm=0,
    sulcal_widening_mm=0,
    lesion_probability=0,
    gamma=0.05,
    bias_field=0.03,
    contrast=0,
    noise=0.02,
    ghosting=0,
    blur_mm=0.3,
    slice_thickness_mm=1.5,
    mask_perturbation=0.1,
)
"""Weak augmentation, suited to the small phantoms."""


def phantom_arrays(seed: int, max_shift: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """(32, 40, 36) float32 image and uint8 channels; the blocks are shifted by up to ``max_shift`` voxels."""
    rng = np.random.default_rng(seed)
    channels = np.zeros(SHAPE, np.uint8)
    image = np.zeros(SHAPE, np.float32)
    image[4:28, 4:36, 4:32] = 0.5
    dx, dy, dz = rng.integers(-max_shift, max_shift + 1, 3)
    for channel, (x, value) in BLOCKS.items():
        box = (slice(x + dx, x + dx + 6), slice(12 + dy, 28 + dy), slice(10 + dz, 24 + dz))
        channels[box] = channel
        image[box] = value
    return image + rng.normal(0, 0.02, SHAPE).astype(np.float32) * (image > 0), channels


def scan_of(
    name: str, image: np.ndarray, channels: np.ndarray, covered: tuple[int, ...] | None = None
) -> data.LabelledScan:
    """A scan as loaded from prepared files; ``covered`` are the channels that partial labels cover."""
    covered_mask = None
    if covered is not None:
        covered_mask = torch.zeros(OUTPUTS, dtype=torch.bool)
        covered_mask[list(covered)] = True
    near = data.nearest_labels(channels) if (channels == IGNORED).any() else None
    frequency = torch.from_numpy(data.label_frequency(channels, OUTPUTS))
    return data.LabelledScan(name, torch.from_numpy(image), torch.from_numpy(channels), frequency, near, covered_mask)


def phantom(seed: int, max_shift: int = 2) -> data.LabelledScan:
    return scan_of(f"p{seed}", *phantom_arrays(seed, max_shift))


def field_of(start: Shape = (0, 0, 0), shape: Shape = SHAPE, template_shape: Shape = SHAPE) -> Field:
    """A field of view in which all channels are distinguished; by default the whole grid of the phantoms."""
    return Field(start, shape, template_shape, np.arange(OUTPUTS))


def scans_of(*manual: data.LabelledScan, auxiliary: tuple[data.LabelledScan, ...] = (), **others: Any) -> TrainingScans:
    """Training scans, none held out."""
    return TrainingScans(list(manual), list(auxiliary), [], **others)


def context_of(
    stage: StageSettings = STAGE, scans: TrainingScans | None = None, seen: Field | None = None, **settings: Any
) -> StageContext:
    """The context of a stage that sees the whole grid of the phantoms, of a run with these settings."""
    plain = {"augment": AugmentSettings(), "precision": "float32"}
    run = run_context(TrainSettings("toy", PAIR, STAGE, TileSettings(1), **plain | settings))
    run = replace(run, mirror_x=MIRROR_X)
    return StageContext(run, scans or scans_of(), stage, seen or field_of(), PAIR)


def atlas_on_cpu(*scans: data.LabelledScan, **others: Any) -> Atlas:
    """The prior of these scans."""
    return atlas_of(scans_of(*scans, **others), torch.device("cpu"))


def trained(
    manual: list[data.LabelledScan],
    context: StageContext,
    *,
    stop_at: int | None = None,
    state: State | None = None,
    auxiliary: list[data.LabelledScan] | None = None,
) -> State:
    """Train the small compact network, or continue with a given state."""
    state = state or new_state(NETWORK, context.stage, None)
    context = replace(context, scans=scans_of(*manual, auxiliary=tuple(auxiliary or ())))
    return train_stage(state, context, lambda current: current.step != stop_at)


class Intensities(Network):
    """Classifies each voxel by its intensity, without trained weights."""

    stride, multiple, prior = 1, 1, False
    halo = 0

    def __init__(self, values: dict[int, float] | None = None) -> None:
        super().__init__(NetworkSettings(OUTPUTS))
        self.values = values or {channel: value for channel, (_, value) in BLOCKS.items()}

    def backbone(self, image: Tensor, coordinates: Tensor, earlier: Tensor | None = None) -> Tensor:
        """The unchanged image."""
        del coordinates, earlier
        return image

    def decoder_head(self, features: Tensor, image: Tensor) -> Tensor:
        """The unchanged features."""
        del image
        return features

    def logits(self, features: Tensor) -> Tensor:
        """Logits that are highest for the block with the nearest intensity."""
        out = torch.full((len(features), OUTPUTS), -1e3)
        out[:, 0] = -80 * (features[:, 0].clamp(min=0.5) - 0.5) ** 2
        for channel, value in self.values.items():
            out[:, channel] = -80 * (features[:, 0] - value) ** 2
        return out


def loss_of(net: Network, scan: data.LabelledScan, context: StageContext, seed: int) -> float:
    """Loss of one step on a scan."""
    return float(loss_tensor(net, scan, context, seed).detach())


def loss_tensor(net: Network, scan: data.LabelledScan, context: StageContext, seed: int) -> Tensor:
    return step_loss(net, (scan,), atlas_on_cpu(scan), context, torch.Generator().manual_seed(seed))


def network_of_kind(kind: str) -> NetworkSpec:
    """A network of another kind with the widths of `NETWORK`."""
    return NetworkSpec(kind, settings_of(kind, NETWORK.settings.as_dict()))


def identity_of(*subjects: str) -> Identity:
    return Identity(NETWORK.plain, "braincolor", subjects or ("p0",))


def fresh_network(network: NetworkSpec, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return network.build()


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return same_tensors(a.state_dict(), b.state_dict())


def same_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def dice(predicted: np.ndarray, reference: np.ndarray) -> list[float]:
    """Dice of the three blocks."""
    return [
        float(2 * ((predicted == c) & (reference == c)).sum() / ((predicted == c).sum() + (reference == c).sum()))
        for c in BLOCKS
    ]


# Folders in the form that `slant train` reads and writes


def write_pairs(folder: Path, names: tuple[str, ...]) -> None:
    """Write empty files with these names; only the preparation reads their content."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for kind in ("T1w", "dseg"):
            (folder / f"{name}_{kind}.nii.gz").touch()


def write_prepared(images: Path, labels: Path, name: str, arrays: tuple[np.ndarray, np.ndarray]) -> None:
    """Write a scan as the preparation does, with the name of the scan in place of its SHA-256."""
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    image, channels = arrays
    np.savez(images / f"{name}.npz", image=image.astype(np.float16))
    known = {"scan_sha256": np.array(name), "identity": np.array(f"labels of {name}")}
    frequency = data.label_frequency(channels, OUTPUTS)
    np.savez(labels / f"{name}.labels.npz", channels=channels, frequency=frequency, **known)


def toy_settings(folder: Path, subjects: int = 3, auxiliary: int = 0, **changes: Any) -> TrainSettings:
    """Settings of a run on phantoms p0, p1, ... and auxiliary phantoms a0, a1, ...; writes their files."""
    stage = StageSettings(3, learning_rate=1e-2, patches=4, ema_decay=0.5)
    plain = {
        "network": NetworkChoice(widths=(4, 6), image_channels=2, head_channels=4),
        "data": folder / "data",
        "work_dir": folder / "work",
        "folds": 2,
        "precision": "float32",
        "auxiliary_dir": folder / "aux" if auxiliary else None,
    }
    tile = TileSettings(2, learning_rate=1e-2, patches=4, ema_decay=0.5)
    settings = TrainSettings(
        "toy", changes.pop("layout", PAIR), changes.pop("whole", stage), changes.pop("tile", tile), **plain | changes
    )
    names = tuple(f"p{i}" for i in range(subjects))
    write_pairs(settings.data, names)
    for i, name in enumerate(names):
        write_prepared(settings.work_dir / "prepared", settings.work_dir / "prepared", name, phantom_arrays(i))
    if settings.auxiliary_dir is not None:
        extra = tuple(f"a{i}" for i in range(auxiliary))
        write_pairs(settings.auxiliary_dir, extra)
        for i, name in enumerate(extra):
            write_prepared(settings.work_dir / "prepared", settings.run / "auxiliary", name, phantom_arrays(100 + i))
    return settings


FINE = TileLayout(SHAPE, (20, 40, 36), (2, 1, 1))
COARSE = TileLayout((16, 20, 18), (16, 16, 18), (1, 2, 1))
SMALL = NetworkChoice(widths=(4, 6), image_channels=2, head_channels=4)
CROPS = StageSettings(3, learning_rate=1e-2, patches=4, ema_decay=0.5, crop=True)
COPIES = TileSettings(2, learning_rate=1e-2, patches=4, ema_decay=0.5)
FIRST = AssemblySettings("first", COARSE, CROPS, COPIES, network=replace(SMALL, stem=1), resolution_mm=2)
SECOND = AssemblySettings("second", FINE, CROPS, COPIES, network=replace(SMALL, earlier_channels=2), earlier="first")


def cascade_settings(folder: Path, *assemblies: AssemblySettings, **changes: Any) -> TrainSettings:
    """Settings of a run that trains a cascade, by default `FIRST` at 2 mm and `SECOND` at 1 mm, on phantoms."""
    settings = toy_settings(folder, **changes)
    one = {"layout": None, "whole": None, "tile": None, "network": NetworkChoice()}
    return replace(settings, **one, assemblies=assemblies or (FIRST, SECOND))
