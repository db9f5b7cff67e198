"""Phantoms to train on: three bright blocks in a box, written as if they had been prepared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from slant.io.resources import load_protocol
from slant.nets.network import Network, NetworkSettings
from slant.nets.registry import build_network
from slant.nets.unet import UNetSettings
from slant.tiles import TileLayout
from slant.train import data, log, loop, stages
from slant.train.atlas import Atlas
from slant.train.augment import AugmentSettings
from slant.train.checkpoint import Identity, State, averaged_weights, new_state
from slant.train.loop import train_stage
from slant.train.loss import IGNORED, LossSettings
from slant.train.settings import NetworkChoice, StageSettings, TileSettings, TrainSettings
from slant.train.step import Field, Lesson, regions_of, step_loss

SHAPE = (32, 40, 36)
SEEN = ((0, 0, 0), SHAPE)
LEFT, MIDDLE, RIGHT = 4, 7, 3
"""Channels of the blocks along x: left accumbens, brain stem, right accumbens."""

BLOCKS = {LEFT: (6, 1.0), MIDDLE: (13, 1.5), RIGHT: (20, 2.2)}
"""First voxel along x, and intensity, of the block of each channel."""

MIRROR_X = 31.0
OUTPUTS = len(load_protocol())
NETWORK = ("compact", UNetSettings(OUTPUTS, (4, 6, 8), detail=2, mixed=6))
STAGE = StageSettings(6, learning_rate=1e-2, boxes=8, average=0.5)
LAYOUT = TileLayout(SHAPE, (20, 24, 20), (2, 2, 2), "trim")
PAIR = TileLayout(SHAPE, (20, 40, 36), (2, 1, 1), "trim")
STILL = AugmentSettings(
    rotate_deg=0,
    scale=0,
    shift_mm=0,
    elastic_mm=0,
    ventricles_mm=0,
    sulci_mm=0,
    lesions=0,
    gamma=0,
    bias=0,
    contrast=0,
    noise=0,
    ghost=0,
    blur_mm=0,
    thick_mm=1,
    rough_mask=0,
)
"""No change but a little brightness."""

GENTLE = AugmentSettings(
    rotate_deg=1.0,
    scale=0.01,
    shift_mm=0.5,
    elastic_mm=0.5,
    ventricles_mm=0,
    sulci_mm=0,
    lesions=0,
    gamma=0.05,
    bias=0.03,
    contrast=0,
    noise=0.02,
    ghost=0,
    blur_mm=0.3,
    thick_mm=1.5,
    rough_mask=0.1,
)
"""Changes as small as the phantoms."""


def phantom_arrays(seed: int, move: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """(32, 40, 36) float32 image and uint8 channels; the blocks are moved up to so many voxels."""
    rng = np.random.default_rng(seed)
    channels = np.zeros(SHAPE, np.uint8)
    image = np.zeros(SHAPE, np.float32)
    image[4:28, 4:36, 4:32] = 0.5
    dx, dy, dz = rng.integers(-move, move + 1, 3)
    for channel, (x, value) in BLOCKS.items():
        box = (slice(x + dx, x + dx + 6), slice(12 + dy, 28 + dy), slice(10 + dz, 24 + dz))
        channels[box] = channel
        image[box] = value
    return image + rng.normal(0, 0.02, SHAPE).astype(np.float32) * (image > 0), channels


def scan_of(
    name: str, image: np.ndarray, channels: np.ndarray, covered: tuple[int, ...] | None = None
) -> data.LabelledScan:
    """A scan as it is loaded from the prepared files."""
    known = None
    if covered is not None:
        known = torch.zeros(OUTPUTS, dtype=torch.bool)
        known[list(covered)] = True
    near = data.nearest_labels(channels) if (channels == IGNORED).any() else None
    frequency = torch.from_numpy(data.label_frequency(channels, OUTPUTS))
    return data.LabelledScan(name, torch.from_numpy(image), torch.from_numpy(channels), frequency, near, known)


def phantom(seed: int, move: int = 2) -> data.LabelledScan:
    return scan_of(f"p{seed}", *phantom_arrays(seed, move))


def lesson_of(stage: StageSettings = STAGE, **changes: Any) -> Lesson:
    """What is learned of phantoms on their whole grid."""
    field = Field(*SEEN, SHAPE, np.arange(OUTPUTS), MIRROR_X)
    regions = regions_of(load_protocol(), ())
    return replace(Lesson(field, stage, AugmentSettings(), LossSettings(), regions, "float32"), **changes)


def trained(
    manual: list[data.LabelledScan],
    lesson: Lesson,
    *,
    stop_at: int | None = None,
    state: State | None = None,
    auxiliary: list[data.LabelledScan] | None = None,
) -> State:
    """Train the small compact network, or go on with a state."""
    state = state or new_state(NETWORK, lesson.stage, None)
    return train_stage(state, (manual, auxiliary or []), lesson, lambda now: now.step != stop_at)


class Intensities(Network):
    """No network: tells the blocks apart by their intensities, voxel by voxel."""

    stride, multiple, reach, prior = 1, 1, 0, False

    def __init__(self, values: dict[int, float] | None = None) -> None:
        super().__init__(NetworkSettings(OUTPUTS))
        self.values = values or {channel: value for channel, (_, value) in BLOCKS.items()}

    def trunk(self, image: Tensor, place: Tensor) -> Tensor:
        """The image itself."""
        del place
        return image

    def tail(self, features: Tensor, image: Tensor) -> Tensor:
        """The image still."""
        del image
        return features

    def logits(self, mixed: Tensor) -> Tensor:
        """High for the block whose intensity is nearest."""
        out = torch.full((len(mixed), OUTPUTS), -1e3)
        out[:, 0] = -80 * (mixed[:, 0].clamp(min=0.5) - 0.5) ** 2
        for channel, value in self.values.items():
            out[:, channel] = -80 * (mixed[:, 0] - value) ** 2
        return out


def loss_of(net: Network, scan: data.LabelledScan, lesson: Lesson, seed: int) -> float:
    """Loss of one step on a scan."""
    return float(loss_tensor(net, scan, lesson, seed).detach())


def loss_tensor(net: Network, scan: data.LabelledScan, lesson: Lesson, seed: int) -> Tensor:
    how = (lesson, torch.Generator().manual_seed(seed))
    return step_loss(net, (scan, None), Atlas([scan], None, None, torch.device("cpu")), how)


def identity_of(*people: str) -> Identity:
    kind, settings = NETWORK
    return Identity({"kind": kind, "settings": settings.as_dict()}, "braincolor", people or ("p0",))


def fresh_network(kind: str, settings: Any, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build_network(kind, settings)


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return same_tensors(a.state_dict(), b.state_dict())


def same_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def dice(found: np.ndarray, truth: np.ndarray) -> list[float]:
    """Of the three blocks."""
    return [float(2 * ((found == c) & (truth == c)).sum() / ((found == c).sum() + (truth == c).sum())) for c in BLOCKS]


# Folders, as `slant train` finds and makes them


def write_pairs(folder: Path, names: tuple[str, ...]) -> None:
    """Files of these names, empty: only the preparation reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for kind in ("T1w", "dseg"):
            (folder / f"{name}_{kind}.nii.gz").touch()


def write_prepared(images: Path, labels: Path, name: str, arrays: tuple[np.ndarray, np.ndarray]) -> None:
    """A scan as the preparation leaves it."""
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    image, channels = arrays
    np.savez(
        images / f"{name}.npz", image=image.astype(np.float16), home_from_template=np.eye(4), identity=np.array("x")
    )
    frequency = data.label_frequency(channels, OUTPUTS)
    np.savez(labels / f"{name}.labels.npz", channels=channels, frequency=frequency, identity=np.array("x"))


def toy_settings(folder: Path, people: int = 3, auxiliary: int = 0, **changes: Any) -> TrainSettings:
    """Settings of a run on phantoms p0, p1, ... and auxiliary ones a0, a1, ..., whose files are written."""
    stage = StageSettings(3, learning_rate=1e-2, boxes=4, average=0.5)
    plain = {
        "network": NetworkChoice(widths=(4, 6), detail=2, mixed=4),
        "data": folder / "data",
        "work": folder / "work",
        "folds": 2,
        "precision": "float32",
        "auxiliary": folder / "aux" if auxiliary else None,
    }
    tile = TileSettings(2, learning_rate=1e-2, boxes=4, average=0.5)
    settings = TrainSettings(
        "toy", changes.pop("layout", PAIR), changes.pop("whole", stage), changes.pop("tile", tile), **plain | changes
    )
    names = tuple(f"p{i}" for i in range(people))
    write_pairs(settings.data, names)
    for i, name in enumerate(names):
        write_prepared(settings.work / "prepared", settings.work / "prepared", name, phantom_arrays(i))
    if settings.auxiliary is not None:
        extra = tuple(f"a{i}" for i in range(auxiliary))
        write_pairs(settings.auxiliary, extra)
        for i, name in enumerate(extra):
            write_prepared(settings.work / "prepared", settings.run / "auxiliary", name, phantom_arrays(100 + i))
    return settings


def train_whole(settings: TrainSettings, name: str = "whole", until: float | None = None) -> bool:
    return stages.train_whole(settings, name, until, SEEN)


# Runs


@contextmanager
def phantom_field() -> Iterator[None]:
    """Compute on one thread, since sums over threads differ in their last bits, with the mirror of the phantoms."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with patch.object(stages, "_mirror_x", lambda: MIRROR_X):
        yield
    torch.set_num_threads(before)


def tile_weights(settings: TrainSettings) -> dict[str, dict[str, torch.Tensor]]:
    return {t.name: averaged_weights(settings.run / "toy" / f"{t.name}.pt") for t in settings.layout}


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """End the time that a call has after so many steps of training."""
    real, done = loop._update_average, []

    def count(*of: object) -> None:
        done.append(1)
        real(*of)

    monkeypatch.setattr(loop, "_update_average", count)
    monkeypatch.setattr(log.time, "monotonic", lambda: 1e9 if len(done) >= steps else 0.0)


def same_run(a: TrainSettings, b: TrainSettings) -> bool:
    """Whether two runs made the same weights, optimizer and tables."""
    found = [sorted(p.relative_to(s.run) for p in s.run.rglob("*.pt")) for s in (a, b)]
    assert found[0] == found[1]
    for name in found[0]:
        one, two = (torch.load(s.run / name, weights_only=True) for s in (a, b))
        if not same_tensors(one["average"], two["average"]):
            return False
        if "net" in one and not (same_tensors(one["net"], two["net"]) and one["losses"] == two["losses"]):
            return False
        if "net" in one:
            table = Path(name).with_suffix(".tsv")
            assert (a.run / table).read_bytes() == (b.run / table).read_bytes()
    return True


def close_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.allclose(a[key], b[key], atol=1e-6) for key in a)
