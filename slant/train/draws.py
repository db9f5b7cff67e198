"""Random numbers of a training step. Nearly all are drawn on the CPU, so that they are the same on every device.

A generator seeded by the number of the step draws them in a fixed order.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def uniform(generator: Generator) -> float:
    """One uniform random number between 0 and 1."""
    return float(torch.rand(1, generator=generator))


def integer(generator: Generator, stop: int) -> int:
    """One uniform random integer from 0 to ``stop - 1``."""
    return int(torch.randint(stop, (1,), generator=generator))


def normal(generator: Generator, *shape: int) -> Tensor:
    """Standard normal numbers of the given shape, on the CPU."""
    return torch.randn(*shape, generator=generator)


def normals(generator: Generator, count: int) -> list[float]:
    """A few standard normal numbers."""
    return torch.randn(count, generator=generator).tolist()


def exponential(generator: Generator, count: int) -> Tensor:
    """(count,) exponentially distributed numbers of mean 1, on the CPU."""
    return torch.empty(count).exponential_(generator=generator)


def noise(generator: Generator, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Standard normal numbers for every voxel of an image, drawn on its device.

    The device has a generator of its own, seeded by the next number of the generator of the CPU. So these numbers
    differ between kinds of devices, and all others of a step are the same.
    """
    own = Generator(device).manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
    return torch.randn(shape, generator=own, device=device)
