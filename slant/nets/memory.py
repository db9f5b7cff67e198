"""Two ways to train with less memory and the same gradients: compute again, or keep elsewhere.

With checkpoints (Chen et al. 2016, arXiv 1604.06174) a level of a network keeps only its inputs for the backward pass
and computes the rest again; with offloading, what is kept lies in host memory until the backward pass asks for it.
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
    """How a network keeps what its backward pass needs.

    Attributes
    ----------
    checkpoint : bool
        Keep the inputs of each level only and compute the rest again: less memory, about a third more time.
    offload : bool
        Keep it in host memory instead of a GPU's; nothing is gained on a CPU.
    """

    checkpoint: bool = False
    offload: bool = False


def run_level(memory: MemorySettings, level: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``level(*inputs)``, whose results and gradients do not depend on ``memory``.

    Parameters
    ----------
    memory : MemorySettings
    level : callable
        Draws nothing at random and leaves its inputs as they are.
    *inputs : Tensor
    """
    if not torch.is_grad_enabled():
        return level(*inputs)
    with _offloaded(memory, inputs[0]):
        if memory.checkpoint:
            out: Tensor = checkpoint(level, *inputs, use_reentrant=False, preserve_rng_state=False)
            return out
        return level(*inputs)


def _offloaded(memory: MemorySettings, like: Tensor) -> AbstractContextManager[Any]:
    return save_on_cpu(pin_memory=like.is_cuda) if memory.offload else nullcontext()
