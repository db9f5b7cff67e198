"""One training loop for the whole brain and for a tile.

A step is a function of the weights, the seed and its number: the scan, the warp, the contrast and the boxes are all
drawn from a generator seeded by both, so a run that stops and resumes ends with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from slant.errors import TrainingError
from slant.train import augment
from slant.train.atlas import Atlas
from slant.train.step import Lesson, step_loss

if TYPE_CHECKING:
    from torch import Tensor

    from slant.nets.prior import Prior
    from slant.train.checkpoint import State
    from slant.train.data import Groupwise, LabelledScan
    from slant.train.settings import StageSettings

WARM_UP = 20
"""Steps over which the learning rate rises."""


def train_stage(
    state: State,
    scans: tuple[list[LabelledScan], list[LabelledScan]],
    lesson: Lesson,
    after_step: Callable[[State], bool],
    anchor: tuple[float, dict[str, Tensor]] | None = None,
    given: tuple[Groupwise | None, Prior | None] = (None, None),
) -> State:
    """Train until ``stage.steps`` or until ``after_step`` returns False.

    Parameters
    ----------
    state : State
        Changed in place.
    scans : pair of list of LabelledScan
        Labelled by hand, and by machine.
    lesson : Lesson
    after_step : callable
    anchor : float and dict of Tensor, optional
        Share of the way to these weights that the network is pulled after each step.
    given : pair of Groupwise and Prior, each optional
        Groupwise template of the run; affine prior to take instead of that of the scans.

    Raises
    ------
    TrainingError
        If the loss is no number any more, or memory runs out; the last checkpoint stays good.
    """
    stage = lesson.stage
    device = next(state.net.parameters()).device
    # The affine prior is that of all scans: machine-made labels place a region as well as manual ones do.
    atlas = Atlas([*scans[0], *scans[1]], *given, device)
    with _memory_advice():
        while state.step < stage.steps:
            generator = torch.Generator().manual_seed(stage.seed * 1_000_003 + state.step)
            scan = _draw(scans, stage, generator)
            second = _draw(scans, stage, generator) if lesson.augmentation.mixup else None
            loss = step_loss(state.net, (scan, second), atlas, (lesson.drawn(generator), generator))
            _step(state, loss, stage)
            if anchor is not None:
                _pull(state, *anchor)
            _update_average(state, min(stage.average, (1 + state.step) / (10 + state.step)))
            if not after_step(state):
                break
    return state


def _draw(
    scans: tuple[list[LabelledScan], list[LabelledScan]], stage: StageSettings, generator: torch.Generator
) -> LabelledScan:
    manual, auxiliary = scans
    group = manual
    if auxiliary and stage.auxiliary > 0:
        group = auxiliary if augment.chance(generator) < stage.auxiliary else manual
    return group[int(torch.randint(len(group), (1,), generator=generator))]


def _step(state: State, loss: Tensor, stage: StageSettings) -> None:
    _require_finite("loss", loss, state)
    for group in state.optimizer.param_groups:
        group["lr"] = stage.learning_rate * schedule(state.step, stage)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    _require_finite("gradient", torch.nn.utils.clip_grad_norm_(state.net.parameters(), 1.0), state)
    state.optimizer.step()
    state.step += 1
    state.losses.append(round(float(loss.detach()), 5))


def _require_finite(what: str, value: Tensor, state: State) -> None:
    if not torch.isfinite(value):
        raise TrainingError(
            f"the {what} became {float(value.detach())} at step {state.step}; the last checkpoint is good: lower "
            "learning_rate and run again"
        )


def schedule(step: int, stage: StageSettings) -> float:
    """Share of the learning rate at a step: warm-up, plateau, linear decay to zero."""
    warm = min(1.0, (step + 1) / WARM_UP)
    left = (stage.steps - step) / max(1.0, stage.decay * stage.steps)
    return min(warm, left, 1.0)


@torch.no_grad()
def _pull(state: State, share: float, weights: dict[str, Tensor]) -> None:
    for name, now in state.net.named_parameters():
        now.lerp_(weights[name].to(now.device), share)


@torch.no_grad()
def _update_average(state: State, keep: float) -> None:
    for mean, now in zip(state.average.parameters(), state.net.parameters(), strict=True):
        mean.lerp_(now, 1 - keep)
    for kept, latest in zip(state.average.buffers(), state.net.buffers(), strict=True):
        kept.copy_(latest)


@contextmanager
def _memory_advice() -> Iterator[None]:
    """Say which settings need less, where torch only says that there is no memory left."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        short = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
            sign in text for sign in ("not enough memory", "out of memory", "can't allocate")
        )
        if not short:
            raise
        raise TrainingError(
            f"memory ran out ({text.splitlines()[0] if text else 'no details'}); the last checkpoint is good: set "
            "[memory] checkpoint = true, or on a GPU offload = true, or lower boxes or widths, then run again"
        ) from error
