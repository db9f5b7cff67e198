"""Training loop of all stages, on the whole brain or on a tile.

A step is a function of the weights, the seed and the step number: a generator seeded by both numbers draws the scan,
the deformation, the contrast and the patches. A run that stops and resumes therefore ends with the same weights, on
CUDA up to rounding.

Everything of a step is computed on the device, and the CPU only runs ahead and queues work: on a GPU it looks at the
loss once in `CHECK_EVERY` steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from slant.errors import TrainingError
from slant.train import draws
from slant.train.atlas import Atlas, atlas_of
from slant.train.checkpoint import State
from slant.train.context import StageContext
from slant.train.data import LabelledScan
from slant.train.on_device import context_on, scan_on
from slant.train.stage_settings import StageSettings
from slant.train.step import step_loss

WARM_UP = 20
"""Number of steps over which the learning rate rises."""

CHECK_EVERY = 16
"""Number of steps after which the losses are read from a device other than the CPU, where every step reads its own."""


def train_stage(
    state: State, context: StageContext, after_steps: Callable[[State], bool], until: int | None = None
) -> State:
    """Train until ``stage.steps`` or until ``after_steps`` returns False.

    Parameters
    ----------
    after_steps : callable
        Called after every step, on a device other than the CPU after at most `CHECK_EVERY` steps; always after steps at
        which the network is validated, and after the last one.
    until : int, optional
        Number of steps at which training stops before ``stage.steps``.

    Raises
    ------
    TrainingError
        If the loss is not finite, or memory runs out; the last checkpoint is kept.
    """
    stage, device = context.stage, torch.device(context.device)
    last = stage.steps if until is None else until
    with _explained_memory_errors(), _tuned_convolutions(device):
        context = context_on(context, device)
        atlas = atlas_of(context.scans, device)
        unread: list[Tensor] = []
        while state.step < last:
            unread.append(_train_step(state, context, atlas))
            if not _due(state.step, device, stage, last):
                continue
            _read_losses(state, unread)
            if not after_steps(state):
                break
    return state


def _due(step: int, device: torch.device, stage: StageSettings, last: int) -> bool:
    """Whether the losses are read after this step."""
    validated = stage.validate_every and step % stage.validate_every == 0
    return device.type == "cpu" or step % CHECK_EVERY == 0 or step == last or bool(validated)


def _train_step(state: State, context: StageContext, atlas: Atlas) -> Tensor:
    """One step of the optimizer on ``stage.scans_per_step`` scans: (2,) loss and norm of the gradient, still unread."""
    stage, parts, mixed = context.stage, [], 2 if context.run.settings.augment.mixup_alpha else 1
    generator = torch.Generator().manual_seed(stage.seed * 1_000_003 + state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, stage)
    state.optimizer.zero_grad(set_to_none=True)
    for _ in range(stage.scans_per_step):
        scans = tuple(_draw_scan(context, generator) for _ in range(mixed))
        if context.views is not None:
            state.net.take_over(context.views.of(scans[0]))
        on_device = tuple(scan_on(scan, atlas.device) for scan in scans)
        loss = step_loss(state.net, on_device, atlas, context.drawn(generator), generator) / stage.scans_per_step
        loss.backward()  # type: ignore[no-untyped-call]
        parts.append(loss.detach())
    norm = torch.nn.utils.clip_grad_norm_(state.net.parameters(), 1.0)
    unread = torch.stack([torch.stack(parts).sum(), norm])
    if atlas.device.type == "cpu":  # where reading takes no time, nothing is changed by a step that failed
        _require_finite(unread.tolist(), state.step)
    state.optimizer.step()
    state.step += 1
    if context.shared_weights is not None:
        _move_towards(state, context.shared_weights, context.run.assembly.tile.soft_sharing)
    _update_average(state, min(stage.ema_decay, (1 + state.step) / (10 + state.step)))
    return unread


def _draw_scan(context: StageContext, generator: torch.Generator) -> LabelledScan:
    group, auxiliary = context.scans.manual, context.scans.auxiliary
    probability = context.stage.auxiliary_probability
    if auxiliary and probability > 0 and draws.uniform(generator) < probability:
        group = auxiliary
    return group[draws.integer(generator, len(group))]


def _read_losses(state: State, unread: list[Tensor]) -> None:
    """Move the losses of the last steps to the state; TrainingError if one, or a gradient, is not finite."""
    first = state.step - len(unread)
    for number, values in enumerate(torch.stack(unread).tolist()):
        _require_finite(values, first + number)
        state.losses.append(round(values[0], 5))
    unread.clear()


def _require_finite(values: list[float], step: int) -> None:
    """Check the loss and the norm of the gradient of a step."""
    for name, value in zip(("loss", "gradient"), values, strict=True):
        if not math.isfinite(value):
            raise TrainingError(
                f"non-finite {name} ({value}) at step {step}; resume from the last checkpoint with a lower "
                "learning_rate"
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
    pairs = zip(state.average.parameters(), state.net.parameters(), strict=True)
    trained = [pair for pair in pairs if pair[1].requires_grad]  # frozen ones may be those of a step, see FoldViews
    if trained:
        averages, current = zip(*trained, strict=True)
        get_ema_multi_avg_fn(decay)(averages, current, 0)  # type: ignore[no-untyped-call]
    for average_buffer, buffer in zip(state.average.buffers(), state.net.buffers(), strict=True):
        average_buffer.copy_(buffer)


def _tuned_convolutions(device: torch.device) -> AbstractContextManager[Any]:
    """On CUDA, the fastest algorithm of every convolution is searched for: steps have few different shapes."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True) if device.type == "cuda" else nullcontext()


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
