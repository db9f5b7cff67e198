"""One training loop for the whole brain and for a tile.

A step is a function of the weights, the seed and its number: the scan, the warp, the contrast and the boxes are all
drawn from a generator seeded by both, so a run that stops and resumes ends with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slant.errors import TrainingError
from slant.grid import Shape
from slant.nets.prior import FLOOR
from slant.nets.unet import CompactUNet, UNetSettings, channels_last, place_channels
from slant.train import augment, boxes
from slant.train.data import LabelledScan
from slant.train.loss import region_loss


@dataclass(frozen=True)
class StageSettings:
    """How one stage is trained.

    Attributes
    ----------
    steps : int
        Optimizer steps, one scan each.
    learning_rate : float
        Of AdamW, after a warm-up of 20 steps; falls linearly to zero over the last ``decay`` share.
    decay : float
    weight_decay : float
    boxes : int
        Boxes of 8 mm where the loss is computed.
    balanced : float
        Share of the boxes that gives every region the same chance.
    average : float
        Decay of the moving average of the weights, which is what a stage hands on.
    seed : int
    """

    steps: int
    learning_rate: float = 4e-3
    decay: float = 0.4
    weight_decay: float = 1e-3
    boxes: int = 192
    balanced: float = 0.33
    average: float = 0.995
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Field:
    """The part of the template a network sees, and the channels it tells apart there."""

    start: Shape
    shape: Shape
    template_shape: Shape
    channels: NDArray[np.int64]


@dataclass
class State:
    """What a checkpoint holds beside the settings."""

    net: CompactUNet
    average: CompactUNet
    optimizer: torch.optim.Optimizer
    step: int = 0
    losses: list[float] = field(default_factory=list)


def new_state(settings: UNetSettings, stage: StageSettings, weights: dict[str, Tensor] | None) -> State:
    """A fresh state; ``weights`` start it where another stage ended.

    Raises
    ------
    TrainingError
        If the weights do not fit the network.
    """
    torch.manual_seed(stage.seed)
    nets = [channels_last(CompactUNet(settings)) for _ in range(2)]
    if weights is not None:
        try:
            nets[0].load_state_dict(weights)
        except RuntimeError as error:
            raise TrainingError(
                f"the weights to start from belong to another network than widths = {list(settings.widths)} with "
                f"{settings.outputs} outputs; use a checkpoint of the same network ({error})"
            ) from error
    nets[1].load_state_dict(nets[0].state_dict())
    optimizer = torch.optim.AdamW(
        nets[0].parameters(), lr=stage.learning_rate, weight_decay=stage.weight_decay, betas=(0.9, 0.98)
    )
    return State(nets[0], nets[1], optimizer)


def save_checkpoint(path: Path, state: State) -> None:
    """Write the state whole or not at all."""
    partial = path.with_name(path.name + ".part")
    torch.save(
        {
            "net": state.net.state_dict(),
            "average": state.average.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "step": state.step,
            "losses": state.losses,
        },
        partial,
    )
    partial.replace(path)


def load_checkpoint(path: Path, state: State) -> None:
    """Continue where the checkpoint stopped."""
    stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    state.net.load_state_dict(stored["net"])
    state.average.load_state_dict(stored["average"])
    state.optimizer.load_state_dict(stored["optimizer"])
    state.step, state.losses = stored["step"], stored["losses"]


def mixed_precision() -> AbstractContextManager[Any]:
    """Autocast to bfloat16 where the hardware multiplies it fast, float32 elsewhere.

    On CPUs without the instructions for it, bfloat16 is far slower than float32. With AVX512-BF16 a step took half the
    time of float32 (an AMD EPYC, two cores), with AMX a fifth (an Intel Xeon, two cores).
    """
    if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported():
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


def train_stage(
    state: State,
    scans: list[LabelledScan],
    seen: Field,
    stage: StageSettings,
    augmentation: augment.AugmentSettings,
    after_step: Callable[[State], bool],
) -> State:
    """Train until ``stage.steps`` or until ``after_step`` returns False."""
    total = torch.stack([scan.frequency.float() for scan in scans]).sum(dim=0)
    place = place_channels(seen.template_shape, seen.start, seen.shape)
    while state.step < stage.steps:
        generator = torch.Generator().manual_seed(stage.seed * 1_000_003 + state.step)
        scan = scans[int(torch.randint(len(scans), (1,), generator=generator))]
        loss = _step_loss(state.net, scan, total, place, (seen, stage, augmentation, generator))
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {float(loss.detach())} at step {state.step}; the last checkpoint is good: lower "
                "learning_rate and run again"
            )
        for group in state.optimizer.param_groups:
            group["lr"] = stage.learning_rate * schedule(state.step, stage)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(state.net.parameters(), 1.0)
        state.optimizer.step()
        state.step += 1
        state.losses.append(round(float(loss.detach()), 5))
        _update_average(state, min(stage.average, (1 + state.step) / (10 + state.step)))
        if not after_step(state):
            break
    return state


def schedule(step: int, stage: StageSettings) -> float:
    """Share of the learning rate at a step: warm-up, plateau, linear decay to zero."""
    warm = min(1.0, (step + 1) / 20)
    left = (stage.steps - step) / max(1.0, stage.decay * stage.steps)
    return min(warm, left, 1.0)


@torch.no_grad()
def _update_average(state: State, keep: float) -> None:
    for mean, now in zip(state.average.parameters(), state.net.parameters(), strict=True):
        mean.lerp_(now, 1 - keep)


def _step_loss(
    net: CompactUNet,
    scan: LabelledScan,
    total: Tensor,
    place: Tensor,
    how: tuple[Field, StageSettings, augment.AugmentSettings, torch.Generator],
) -> Tensor:
    seen, stage, augmentation, generator = how
    places = augment.random_places((seen.start, seen.shape), seen.template_shape, augmentation, generator)
    image = augment.vary_intensity(augment.sample_image(scan.image, places), augmentation, generator)
    candidates = boxes.candidate_starts(seen.shape)
    middle = candidates + boxes.EDGE // 2
    x, y, z = middle[..., 0], middle[..., 1], middle[..., 2]
    center = augment.pick_labels(scan.channels, places[x, y, z])
    starts = boxes.draw_boxes(candidates, center, image[x, y, z] > 0, stage.boxes, stage.balanced, generator)
    drawn = boxes.Boxes(starts, seen.start, seen.shape)
    at = boxes.box_places(drawn)
    truth = augment.pick_labels(scan.channels, places[at[..., 0], at[..., 1], at[..., 2]]).flatten().long()
    with mixed_precision():
        features = net.trunk(image[None, None], place)
        near = boxes.gather(features, starts // 2 - boxes.MARGIN // 2, (boxes.EDGE + 2 * boxes.MARGIN) // 2)
        local = boxes.gather(image[None, None], starts - boxes.MARGIN, boxes.EDGE + 2 * boxes.MARGIN)
        mixed = net.tail(near, local)
        m = boxes.MARGIN
        mixed = mixed[:, :, m:-m, m:-m, m:-m].permute(0, 2, 3, 4, 1).reshape(-1, mixed.shape[1])
        logits = net.logits(mixed).float()
    prior = boxes.prior_logits(total, scan.frequency, drawn, FLOOR)
    logits, truth = _limit(logits + prior, truth, seen.channels)
    return region_loss(logits, truth)


def _limit(logits: Tensor, truth: Tensor, channels: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Only the channels told apart; voxels of another region are left out."""
    if len(channels) == logits.shape[1]:
        return logits, truth
    keep = torch.from_numpy(channels)
    compact = torch.full((logits.shape[1],), -1, dtype=torch.long)
    compact[keep] = torch.arange(len(keep))
    mapped = compact[truth]
    known = mapped >= 0
    return logits[known][:, keep], mapped[known]
