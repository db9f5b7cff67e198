"""Gradient checkpointing and activation offloading: training with less GPU memory and the same gradients.

With gradient checkpointing (Chen et al. 2016, arXiv 1604.06174), a level of a network stores only its inputs for the
backward pass and recomputes its activations. With offloading, stored activations are in host memory until the backward
pass needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class MemorySettings:
    """How a network stores the activations for its backward pass.

    Attributes
    ----------
    gradient_checkpointing : bool
        Store only the inputs of each level and recompute the rest: less memory, about a third more time.
    offload_activations : bool
        Store activations in host memory instead of GPU memory; without effect on a CPU.
    """

    gradient_checkpointing: bool = False
    offload_activations: bool = False


def run_level(memory: MemorySettings, level: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Compute ``level(*inputs)``; results and gradients do not depend on ``memory``.

    Parameters
    ----------
    level : callable
        Deterministic function that does not change its inputs.
    """
    if not torch.is_grad_enabled():
        return level(*inputs)
    with _offloaded(memory, inputs[0]):
        if memory.gradient_checkpointing:
            out: Tensor = checkpoint(level, *inputs, use_reentrant=False, preserve_rng_state=False)
            return out
        return level(*inputs)


def _offloaded(memory: MemorySettings, like: Tensor) -> AbstractContextManager[Any]:
    return save_on_cpu(pin_memory=like.is_cuda) if memory.offload_activations else nullcontext()
