"""Running a network for each tile and keeping only its votes.

On a CPU each tile is computed by one thread, several tiles side by side: the result does not depend on the number of
threads, and the peak memory depends on the threads at work, not on the number of tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slant.errors import DeviceError
from slant.nets.inputs import InputScaling
from slant.nets.network import Network, channels_last
from slant.nets.prior import Prior, log_frequency, neighbours
from slant.nets.unet import place_channels
from slant.tiles import Tile, TileLayout

SLAB = 8
"""Planes of a tile whose logits are held at once."""

AROUND = 8
"""Voxels (1 mm) around all that is not 0 in a tile beyond which everything is background."""

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Mirroring:
    """What it takes to label the mirror image of a scan, for networks trained with left and right exchanged.

    Attributes
    ----------
    partners : (C,) uint8 array
        Channel of each channel's left-right partner.
    mirror_x : float
        Template voxels x and ``mirror_x - x`` are left-right partners.
    """

    partners: NDArray[np.uint8]
    mirror_x: float


@dataclass(frozen=True, eq=False)
class Predictor:
    """What every tile of a model shares when it is run.

    Attributes
    ----------
    layout : TileLayout
    prior : Prior or None
        For networks that take one.
    network : callable
        Gives the network of a tile's name, in float32 on the CPU.
    scaling : InputScaling
        Its range and axes of a tile.
    displacement : (3, X/2, Y/2, Z/2) float32 array, optional
        Of the scan that is labelled: template voxels to the groupwise template, whose coordinates the networks see.
    mirroring : Mirroring, optional
        If given, every second tile labels the mirror image of the scan, with the network of its mirror tile, so that
        the votes of neighbouring tiles are less alike.
    """

    layout: TileLayout
    prior: Prior | None
    network: Callable[[str], Network]
    scaling: InputScaling = field(default_factory=InputScaling)
    displacement: NDArray[np.float32] | None = None
    mirroring: Mirroring | None = None
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)
    _ready: WeakSet[Network] = field(default_factory=WeakSet, init=False, repr=False)

    def ready(self, name: str, device: torch.device) -> Network:
        """The network of a tile's name, on the device and laid out for it.

        Each is moved once: tiles may share one, and weights must not move while another thread convolves with them.
        """
        network = self.network(name)
        with self._lock:
            if network not in self._ready:
                self._ready.add(channels_last(network.eval().to(device)))
        return network


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
    """Each tile with its (X, Y, Z) uint8 winning channels where it is trusted, 0 elsewhere, in no fixed order.

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
                yield tile, label_tile(predictor, tile, image, device, tile.trusted_within)
        return
    with _one_thread_each(), ThreadPoolExecutor(threads) as pool:
        waiting = list(predictor.layout)
        running: dict[Future[NDArray[np.uint8]], Tile] = {}
        while waiting or running:
            while waiting and len(running) < threads:
                tile = waiting.pop(0)
                running[pool.submit(label_tile, predictor, tile, image, device, tile.trusted_within)] = tile
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()


@torch.inference_mode()
def label_tile(
    predictor: Predictor, tile: Tile, image: NDArray[np.float32], device: torch.device, wanted: Box | None = None
) -> NDArray[np.uint8]:
    """(X, Y, Z) uint8 most likely channel of each voxel of one tile.

    The layers at 1 mm, which take most of the time, run only where they are needed.

    Parameters
    ----------
    predictor : Predictor
    tile : Tile
        Of its layout.
    image : (X, Y, Z) float32 array
        The scan in template space, in network units.
    device : torch.device
    wanted : 3 slices, optional
        Part of the tile that is asked for; the rest is 0, as is what lies `AROUND` voxels from all that is not 0.
    """
    wanted = wanted or tile_box(predictor.layout)
    how, partner = predictor.mirroring, mirror_tile(predictor, tile)
    if how is None or partner is None:
        return _labelled(predictor, _Look(tile, image, predictor.prior, predictor.displacement), device, wanted)
    size = predictor.layout.size[0]
    flipped = (slice(size - wanted[0].stop, size - wanted[0].start), *wanted[1:])
    look = _mirrored(predictor, how, partner, image)
    return np.ascontiguousarray(_labelled(predictor, look, device, flipped)[::-1])


@dataclass(frozen=True, eq=False)
class _Look:
    """What one tile sees: the scan or its mirror image, with the prior and displacement of the same."""

    tile: Tile
    image: NDArray[np.float32]
    prior: Prior | None
    displacement: NDArray[np.float32] | None
    partners: NDArray[np.uint8] | None = None


def mirror_tile(predictor: Predictor, tile: Tile) -> Tile | None:
    """The tile on the other side, if this one is to label the mirror image of the scan; else None."""
    if predictor.mirroring is None or sum(map(int, tile.name.split("_"))) % 2 == 0:
        return None
    if predictor.prior is not None and predictor.layout.shape[0] % predictor.prior.spacing:
        return None  # the mirrored cells would lie elsewhere
    first = predictor.layout.shape[0] - tile.stop[0]
    start = (first, *tile.start[1:])
    return next((other for other in predictor.layout if other.start == start), None)


def _mirrored(predictor: Predictor, how: Mirroring, partner: Tile, image: NDArray[np.float32]) -> _Look:
    """The mirror image; the displacement then leads to mirrored coordinates."""
    prior, moved = predictor.prior, predictor.displacement
    if prior is not None:
        prior = Prior(prior.steps[::-1], prior.shape, prior.spacing)
    if moved is not None:
        moved = np.ascontiguousarray(moved[:, ::-1])
        moved[0] = np.float32(how.mirror_x - (predictor.layout.shape[0] - 1)) - moved[0]
    return _Look(partner, image[::-1], prior, moved, how.partners)


def _labelled(predictor: Predictor, look: _Look, device: torch.device, wanted: Box) -> NDArray[np.uint8]:
    labels, tile = np.zeros(predictor.layout.size, np.uint8), look.tile
    box = _needed(look.image[tile.box], wanted)
    if box is None:
        return labels
    network = predictor.ready(tile.name, device)
    mixed = _features(predictor, network, (look, box), device)
    if look.prior is None:
        channels, prior = np.arange(network.settings.outputs), None
    else:
        channels = look.prior.possible(tile.start, tile.stop)
        prior = TilePrior(look.prior, _part(tile, box), channels, device)
    outputs = channels if look.partners is None else look.partners[channels].astype(np.int64)
    labels[box] = _winners(network, mixed, (torch.from_numpy(outputs).to(device), channels), prior)
    return labels


def tile_box(layout: TileLayout) -> Box:
    """Slices of all of a tile."""
    x, y, z = (slice(0, n) for n in layout.size)
    return x, y, z


def _needed(part: NDArray[np.float32], wanted: Box) -> Box | None:
    """The box of what is wanted that is near anything; None if nothing is."""
    spans = []
    for axis, span in enumerate(wanted):
        there = np.flatnonzero(part.any(axis=tuple({0, 1, 2} - {axis})))
        if not len(there):
            return None
        first, last = max(span.start, int(there[0]) - AROUND), min(span.stop, int(there[-1]) + AROUND + 1)
        if first >= last:
            return None
        spans.append(slice(first, last))
    x, y, z = spans
    return x, y, z


def _part(tile: Tile, box: Box) -> Tile:
    """A box of a tile as a tile of its own."""
    x, y, z = (a + span.start for a, span in zip(tile.start, box, strict=True))
    start, stop = (
        (x, y, z),
        (x + box[0].stop - box[0].start, y + box[1].stop - box[1].start, z + box[2].stop - box[2].start),
    )
    return Tile(tile.name, start, stop, start, stop)


def _features(predictor: Predictor, network: Network, where: tuple[_Look, Box], device: torch.device) -> Tensor:
    """(X, Y, Z, mixed) float32 features of a box of one tile, axes x, y, z."""
    look, box = where
    tile, scaling = look.tile, predictor.scaling
    part = np.pad(scaling.of_tile(look.image[tile.box]), [(0, -n % network.multiple) for n in predictor.layout.size])
    order = [2 + axis for axis in scaling.order]
    size = (part.shape[0], part.shape[1], part.shape[2])
    displacement = None if look.displacement is None else torch.from_numpy(look.displacement)
    place = place_channels(predictor.layout.shape, tile.start, size, displacement)
    crop = torch.from_numpy(part)[None, None].permute(0, 1, *order).contiguous().to(device)
    stride, reach = network.stride, network.reach
    around = [  # in features: what the tail must see
        slice(max(0, (span.start - reach) // stride), min(size // stride, -(-(span.stop + reach) // stride)))
        for span, size in zip(box, part.shape, strict=True)
    ]
    coarse = (slice(None), slice(None), *(around[axis] for axis in scaling.order))
    fine = (*coarse[:2], *(slice(s.start * stride, s.stop * stride) for s in coarse[2:]))
    with torch.autocast("cuda", torch.float16, enabled=device.type == "cuda" and network.half_precision):
        features = network.trunk(crop, place.permute(0, 1, *order).to(device))
        mixed = network.tail(features[coarse], crop[fine])
    back = [1 + scaling.order.index(axis) for axis in range(3)]
    inner = tuple(
        slice(span.start - seen.start * stride, span.stop - seen.start * stride)
        for span, seen in zip(box, around, strict=True)
    )
    return mixed[0].permute(*back, 0)[inner].float()


class TilePrior:
    """The prior of one tile's channels, interpolated to 1 mm one slab at a time."""

    def __init__(self, prior: Prior, tile: Tile, channels: NDArray[np.int64], device: torch.device) -> None:
        self.channels = channels
        spans, self._beside, spacing = [], [], prior.spacing
        for start, stop, cells in zip(tile.start, tile.stop, prior.steps.shape[:3], strict=True):
            first = max(0, min((start - spacing // 2) // spacing, cells - 1))
            last = min(cells, (stop + 1) // spacing + 2)
            spans.append(slice(first, last))
            beside = neighbours(start - first * spacing, stop - start, last - first, spacing)
            self._beside.append(tuple(part.to(device) for part in beside))
        x, y, z = spans
        self._steps = torch.from_numpy(np.ascontiguousarray(prior.steps[x, y, z][..., channels])).to(device)

    def slab(self, start: int, stop: int) -> Tensor:
        """(stop - start, Y, Z, C) float32 log-frequencies of some planes of the tile."""
        low, high, weight = (part[start:stop] for part in self._beside[0])
        first = int(low[0])
        planes: Tensor = log_frequency(self._steps[first : int(high[-1]) + 1])
        for axis, (a, b, share) in enumerate([(low - first, high - first, weight), *self._beside[1:]]):
            share = share.reshape(-1, *[1] * (planes.ndim - 1 - axis))  # noqa: PLW2901
            planes = torch.lerp(planes.index_select(axis, a), planes.index_select(axis, b), share)
        return planes


def _winners(
    network: Network, mixed: Tensor, channels: tuple[Tensor, NDArray[np.int64]], prior: TilePrior | None
) -> NDArray[np.uint8]:
    """The channels with the largest logits, of the outputs of the network that are told apart."""
    outputs, lookup = channels[0], torch.from_numpy(channels[1]).to(mixed.device, torch.uint8)
    out = []
    for start in range(0, len(mixed), SLAB):
        onto = None if prior is None else prior.slab(start, min(start + SLAB, len(mixed))).flatten(0, 2)
        logits = network.logits_of(mixed[start : start + SLAB].flatten(0, 2), outputs, onto)
        out.append(lookup[logits.argmax(dim=1)].reshape(-1, *mixed.shape[1:3]))
    labels: NDArray[np.uint8] = torch.cat(out).cpu().numpy()
    return labels
