"""Running a network for each tile and keeping only its votes.

On a CPU each tile is computed by one thread, several tiles side by side: the result does not depend on the number of
threads, and the peak memory depends on the threads at work, not on the number of tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slant.errors import DeviceError
from slant.nets.prior import SPACING, Prior, interpolation_matrix
from slant.nets.unet import CompactUNet, channels_last, place_channels
from slant.tiles import Tile, TileLayout

SLAB = 8
"""Planes of a tile whose logits are held at once."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """What every tile of a model shares when it is run.

    Attributes
    ----------
    layout : TileLayout
    prior : Prior
    network : callable
        Gives the network of a tile's name, in float32 on the CPU.
    """

    layout: TileLayout
    prior: Prior
    network: Callable[[str], CompactUNet]


def choose_device(name: str) -> torch.device:
    """The device of that name; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises
    ------
    DeviceError
        If it is not known or not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {name!r} was asked for, but {torch.cuda.device_count()} CUDA devices are visible; "
            "use --device cpu, or install a CUDA build of torch and a driver"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' was asked for, but it is not available here; use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"device {name!r} is not supported; use auto, cpu, cuda, cuda:N or mps")
    return device


@contextmanager
def _one_thread_each() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tile_votes(
    predictor: Predictor, image: NDArray[np.float32], device: torch.device, threads: int
) -> Iterator[tuple[Tile, NDArray[np.uint8]]]:
    """Each tile with its (X, Y, Z) uint8 winning channels, in no fixed order.

    Parameters
    ----------
    predictor : Predictor
    image : (X, Y, Z) float32 array
        The scan in template space, in network units.
    device : torch.device
    threads : int
        Tiles computed side by side on a CPU.
    """
    if device.type != "cpu":
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            for tile in predictor.layout:
                yield tile, _label_tile(predictor, tile, image, device)
        return
    with _one_thread_each(), ThreadPoolExecutor(threads) as pool:
        waiting = list(predictor.layout)
        running: dict[Future[NDArray[np.uint8]], Tile] = {}
        while waiting or running:
            while waiting and len(running) < threads:
                tile = waiting.pop(0)
                running[pool.submit(_label_tile, predictor, tile, image, device)] = tile
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()


@torch.inference_mode()
def _label_tile(
    predictor: Predictor, tile: Tile, image: NDArray[np.float32], device: torch.device
) -> NDArray[np.uint8]:
    """(X, Y, Z) uint8 most likely channel of each voxel of one tile."""
    layout, size = predictor.layout, predictor.layout.size
    padded = np.ascontiguousarray(image[tile.box])
    pad = [(0, n % 2) for n in size]
    crop = torch.from_numpy(np.pad(padded, pad))[None, None].to(device)
    even = (crop.shape[2], crop.shape[3], crop.shape[4])
    place = place_channels(layout.shape, tile.start, even).to(device)
    network = channels_last(predictor.network(tile.name).eval().to(device))
    with torch.autocast("cuda", torch.float16, enabled=device.type == "cuda"):
        mixed = network.tail(network.trunk(crop, place), crop)[0].permute(1, 2, 3, 0)
    channels = predictor.prior.possible(tile.start, tile.stop)
    labels = _winners(network, mixed.float(), TilePrior(predictor.prior, tile, channels, device))
    return labels[: size[0], : size[1], : size[2]]


class TilePrior:
    """The prior of one tile's channels, interpolated to 1 mm one slab at a time."""

    def __init__(self, prior: Prior, tile: Tile, channels: NDArray[np.int64], device: torch.device) -> None:
        self.channels = channels
        spans, matrices = [], []
        for start, stop, cells in zip(tile.start, tile.stop, prior.steps.shape[:3], strict=True):
            first = max(0, min((start - 2) // SPACING, cells - 1))
            last = min(cells, (stop + 1) // SPACING + 2)
            size = stop - start + (stop - start) % 2
            spans.append(slice(first, last))
            matrices.append(interpolation_matrix(start - first * SPACING, size, last - first).to(device))
        coarse = prior.log_frequency_at(tuple(spans), channels).to(device)
        self.x, y, z = matrices
        self.planes = torch.einsum("ijkc,zk->ijzc", coarse, z)
        self.planes = torch.einsum("ijzc,yj->iyzc", self.planes, y).contiguous()

    def slab(self, start: int, stop: int) -> Tensor:
        """(stop - start, Y, Z, C) float32 log-frequencies of some planes of the tile."""
        flat = self.x[start:stop] @ self.planes.flatten(1)
        return flat.reshape(-1, *self.planes.shape[1:])


def _winners(network: CompactUNet, mixed: Tensor, prior: TilePrior) -> NDArray[np.uint8]:
    keep = torch.from_numpy(prior.channels).to(mixed.device)
    weight, bias = network.head.weight[keep].T.contiguous(), network.head.bias[keep]
    lookup = keep.to(torch.uint8)
    out = []
    for start in range(0, len(mixed), SLAB):
        logits = prior.slab(start, min(start + SLAB, len(mixed))).flatten(0, 2).add_(bias)
        logits.addmm_(mixed[start : start + SLAB].flatten(0, 2), weight)
        out.append(lookup[logits.argmax(dim=1)].reshape(-1, *mixed.shape[1:3]))
    labels: NDArray[np.uint8] = torch.cat(out).cpu().numpy()
    return labels
