"""Training loop of all stages, on the whole brain or on a tile.

A step is a function of the weights, the seed and the step number: a generator seeded by both numbers draws the scan,
the deformation, the contrast and the patches. A run that stops and resumes therefore ends with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from slant.errors import TrainingError
from slant.train import augment
from slant.train.atlas import atlas_of
from slant.train.checkpoint import State
from slant.train.context import StageContext
from slant.train.data import LabelledScan
from slant.train.stage_settings import StageSettings
from slant.train.step import step_loss

WARM_UP = 20
"""Number of steps over which the learning rate rises."""


def train_stage(state: State, context: StageContext, after_step: Callable[[State], bool]) -> State:
    """Train until ``stage.steps`` or until ``after_step`` returns False.

    Raises
    ------
    TrainingError
        If the loss is not finite, or memory runs out; the last checkpoint is kept.
    """
    stage, scan_count = context.stage, 2 if context.run.settings.augment.mixup_alpha else 1
    atlas = atlas_of(context.scans, torch.device(context.device))
    with _explained_memory_errors():
        while state.step < stage.steps:
            generator = torch.Generator().manual_seed(stage.seed * 1_000_003 + state.step)
            scans = tuple(_draw_scan(context, generator) for _ in range(scan_count))
            if context.views is not None:
                state.net.take_over(context.views.of(scans[0]))
            _optimizer_step(state, step_loss(state.net, scans, atlas, context.drawn(generator), generator), stage)
            if context.shared_weights is not None:
                _move_towards(state, context.shared_weights, context.run.assembly.tile.soft_sharing)
            _update_average(state, min(stage.ema_decay, (1 + state.step) / (10 + state.step)))
            if not after_step(state):
                break
    return state


def _draw_scan(context: StageContext, generator: torch.Generator) -> LabelledScan:
    group, auxiliary = context.scans.manual, context.scans.auxiliary
    probability = context.stage.auxiliary_probability
    if auxiliary and probability > 0 and augment.uniform(generator) < probability:
        group = auxiliary
    return group[int(torch.randint(len(group), (1,), generator=generator))]


def _optimizer_step(state: State, loss: Tensor, stage: StageSettings) -> None:
    _require_finite("loss", loss, state)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, stage)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    _require_finite("gradient", torch.nn.utils.clip_grad_norm_(state.net.parameters(), 1.0), state)
    state.optimizer.step()
    state.step += 1
    state.losses.append(round(float(loss.detach()), 5))


def _require_finite(name: str, value: Tensor, state: State) -> None:
    if not torch.isfinite(value):
        raise TrainingError(
            f"non-finite {name} ({float(value.detach())}) at step {state.step}; resume from the last checkpoint with a "
            "lower learning_rate"
        )


def learning_rate(step: int, stage: StageSettings) -> float:
    """Learning rate at a step: warm-up, plateau, linear decay to zero."""
    warm_up = min(1.0, (step + 1) / WARM_UP)
    decay = (stage.steps - step) / max(1.0, stage.lr_decay_fraction * stage.steps)
    return stage.learning_rate * min(warm_up, decay, 1.0)


@torch.no_grad()
def _move_towards(state: State, weights: dict[str, Tensor], fraction: float) -> None:
    for name, parameter in state.net.named_parameters():
        if parameter.requires_grad:
            parameter.lerp_(weights[name].to(parameter.device), fraction)


@torch.no_grad()
def _update_average(state: State, decay: float) -> None:
    for average, current in zip(state.average.parameters(), state.net.parameters(), strict=True):
        if current.requires_grad:  # the average keeps frozen weights, also where those of a step differ, see FoldViews
            average.lerp_(current, 1 - decay)
    for average_buffer, buffer in zip(state.average.buffers(), state.net.buffers(), strict=True):
        average_buffer.copy_(buffer)


@contextmanager
def _explained_memory_errors() -> Iterator[None]:
    """Turn out-of-memory errors of torch into a `TrainingError` that names the settings which need less memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
            phrase in text for phrase in ("not enough memory", "out of memory", "can't allocate")
        )
        if not out_of_memory:
            raise
        raise TrainingError(
            f"out of memory ({text.splitlines()[0] if text else 'no details'}); the last checkpoint is kept: set "
            "[memory] gradient_checkpointing = true, or on a GPU offload_activations = true, or reduce patches or "
            "widths, then run the same command again"
        ) from error
