"""Inference: runs a network for each tile and returns only the winning channels.

On a CPU each tile is computed by one thread, and several tiles run in parallel. The result does not depend on the
number of threads, and the peak memory depends on the number of threads, not on the number of tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Lock
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slant.nets.inputs import InputScaling
from slant.nets.network import Network, channels_last
from slant.nets.prior import Prior, TilePrior
from slant.nets.unet import box_coordinate_channels
from slant.threads import SINGLE_THREAD
from slant.tiles import Tile, TileLayout

SLAB = 8
"""Number of planes of a tile whose logits are in memory at once."""

FOREGROUND_MARGIN = 8
"""Voxels (1 mm) around the box of the non-zero voxels of a tile; everything beyond is background."""

Box = tuple[slice, ...]
Channels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Mirroring:
    """Parameters for labelling the mirror image of a scan, with networks trained with left-right flips.

    Attributes
    ----------
    partners : (C,) uint8 array
        Channel of the left-right partner of each channel.
    mirror_x : float
        Points with template voxel coordinates x and ``mirror_x - x`` are mirrored.
    """

    partners: NDArray[np.uint8]
    mirror_x: float


@dataclass(frozen=True, eq=False)
class Predictor:
    """Everything that is common to the inference of all tiles on one scan.

    Attributes
    ----------
    network : callable
        Function that returns the network of a tile by name, in float32 on the CPU.
    scaling : InputScaling
        Scaling of the inputs, of which the rescaling of tiles and the axes are used here.
    displacement : (3, X/2, Y/2, Z/2) float32 array, optional
        Displacement of the scan to the groupwise template, in template voxels; the coordinate channels are then those
        of the groupwise template.
    mirroring : Mirroring, optional
        If given, every second tile labels the mirror image of the scan with the network of its mirrored tile, so that
        the votes of neighbouring tiles are less correlated.
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
        """The network of a tile by name, on the device and in the right memory format.

        Each network is moved once: tiles may share a network, and its weights must not move while another thread
        computes with them.
        """
        network = self.network(name)
        with self._lock:
            if network not in self._ready:
                self._ready.add(channels_last(network.eval().to(device)))
        return network


def tile_votes(
    predictor: Predictor, image: NDArray[np.float32], device: torch.device, threads: int
) -> Iterator[tuple[Tile, NDArray[np.uint8]]]:
    """Yield each tile with its winning channels, (X, Y, Z) uint8 in its core and 0 elsewhere, in no fixed order.

    Parameters
    ----------
    image : (X, Y, Z) float32 array
        Scan in template space, in network units.
    threads : int
        Number of tiles computed in parallel on a CPU.
    """
    if device.type != "cpu":
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            for tile in predictor.layout:
                yield tile, label_tile(predictor, tile, image, device, tile.core_within)
        return
    with SINGLE_THREAD, ThreadPoolExecutor(threads) as pool:
        waiting = list(predictor.layout)
        running: dict[Future[NDArray[np.uint8]], Tile] = {}
        while waiting or running:
            while waiting and len(running) < threads:
                tile = waiting.pop(0)
                running[pool.submit(label_tile, predictor, tile, image, device, tile.core_within)] = tile
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()


@torch.inference_mode()
def label_tile(
    predictor: Predictor, tile: Tile, image: NDArray[np.float32], device: torch.device, region: Box | None = None
) -> NDArray[np.uint8]:
    """Most likely channel of each voxel of one tile, (X, Y, Z) uint8.

    The layers at 1 mm, which take most of the time, run only where they are needed.

    Parameters
    ----------
    image : (X, Y, Z) float32 array
        Scan in template space, in network units.
    region : 3 slices, optional
        Part of the tile to label (default: all). The rest is 0, as is everything more than `FOREGROUND_MARGIN` voxels
        outside the box of the non-zero voxels.
    """
    region = region or tuple(slice(0, n) for n in predictor.layout.size)
    mirroring, partner = predictor.mirroring, mirror_tile(predictor, tile)
    if mirroring is None or partner is None:
        tile_input = _TileInput(tile, image, predictor.prior, predictor.displacement)
        return _labelled(predictor, tile_input, device, region)
    size = predictor.layout.size[0]
    flipped = (slice(size - region[0].stop, size - region[0].start), *region[1:])
    tile_input = _mirrored(predictor, mirroring, partner, image)
    return np.ascontiguousarray(_labelled(predictor, tile_input, device, flipped)[::-1])


@dataclass(frozen=True, eq=False)
class _TileInput:
    """Input of one tile: the scan or its mirror image, with the prior and the displacement of the same."""

    tile: Tile
    image: NDArray[np.float32]
    prior: Prior | None
    displacement: NDArray[np.float32] | None
    partners: NDArray[np.uint8] | None = None


def mirror_tile(predictor: Predictor, tile: Tile) -> Tile | None:
    """The mirrored tile, if this tile labels the mirror image of the scan; otherwise None."""
    if predictor.mirroring is None or sum(map(int, tile.name.split("_"))) % 2 == 0:
        return None
    if predictor.prior is not None and predictor.layout.shape[0] % predictor.prior.spacing:
        return None  # mirrored cells of the prior would not coincide with cells
    first = predictor.layout.shape[0] - tile.stop[0]
    start = (first, *tile.start[1:])
    return next((other for other in predictor.layout if other.start == start), None)


def _mirrored(predictor: Predictor, mirroring: Mirroring, partner: Tile, image: NDArray[np.float32]) -> _TileInput:
    """The mirror image as input of the mirrored tile; its displacement leads to mirrored coordinates."""
    prior, displacement = predictor.prior, predictor.displacement
    if prior is not None:
        prior = Prior(prior.steps[::-1], prior.shape, prior.spacing)
    if displacement is not None:
        displacement = np.ascontiguousarray(displacement[:, ::-1])
        displacement[0] = np.float32(mirroring.mirror_x - (predictor.layout.shape[0] - 1)) - displacement[0]
    return _TileInput(partner, image[::-1], prior, displacement, mirroring.partners)


def _labelled(predictor: Predictor, tile_input: _TileInput, device: torch.device, region: Box) -> NDArray[np.uint8]:
    labels, tile = np.zeros(predictor.layout.size, np.uint8), tile_input.tile
    box = _foreground_box(tile_input.image[tile.box], region)
    if box is None:
        return labels
    network = predictor.ready(tile.name, device)
    features = _features(predictor, network, tile_input, box, device)
    if tile_input.prior is None:
        channels, prior = np.arange(network.settings.outputs), None
    else:
        channels = tile_input.prior.possible(tile.start, tile.stop)
        spans = [slice(a + span.start, a + span.stop) for a, span in zip(tile.start, box, strict=True)]
        prior = tile_input.prior.of_box(spans, channels, device)
    outputs = channels if tile_input.partners is None else tile_input.partners[channels].astype(np.int64)
    labels[box] = _winners(network, features, channels, outputs, prior)
    return labels


def _foreground_box(image: NDArray[np.float32], region: Box) -> Box | None:
    """The part of a region near the non-zero voxels of a tile's image; None if it is empty."""
    spans = []
    for axis, span in enumerate(region):
        occupied = np.flatnonzero(image.any(axis=tuple({0, 1, 2} - {axis})))
        if not len(occupied):
            return None
        first = max(span.start, int(occupied[0]) - FOREGROUND_MARGIN)
        stop = min(span.stop, int(occupied[-1]) + FOREGROUND_MARGIN + 1)
        if first >= stop:
            return None
        spans.append(slice(first, stop))
    return tuple(spans)


def _features(predictor: Predictor, network: Network, tile_input: _TileInput, box: Box, device: torch.device) -> Tensor:
    """(X, Y, Z, F) float32 features of a box of one tile, axes x, y, z."""
    tile, scaling = tile_input.tile, predictor.scaling
    padded = np.pad(
        scaling.of_tile(tile_input.image[tile.box]), [(0, -n % network.multiple) for n in predictor.layout.size]
    )
    order = [2 + axis for axis in scaling.order]
    size = (padded.shape[0], padded.shape[1], padded.shape[2])
    displacement = None if tile_input.displacement is None else torch.from_numpy(tile_input.displacement)
    coordinates = box_coordinate_channels(predictor.layout.shape, tile.start, size, displacement)
    crop = torch.from_numpy(padded)[None, None].permute(0, 1, *order).contiguous().to(device)
    stride, halo = network.stride, network.halo
    with_halo = [  # in features: the input of the decoder head
        slice(max(0, (span.start - halo) // stride), min(size // stride, -(-(span.stop + halo) // stride)))
        for span, size in zip(box, padded.shape, strict=True)
    ]
    coarse = (slice(None), slice(None), *(with_halo[axis] for axis in scaling.order))
    fine = (*coarse[:2], *(slice(s.start * stride, s.stop * stride) for s in coarse[2:]))
    with torch.autocast("cuda", torch.float16, enabled=device.type == "cuda" and network.half_precision):
        coarse_features = network.backbone(crop, coordinates.permute(0, 1, *order).to(device))
        features = network.decoder_head(coarse_features[coarse], crop[fine])
    back = [1 + scaling.order.index(axis) for axis in range(3)]
    inner = tuple(
        slice(span.start - outer.start * stride, span.stop - outer.start * stride)
        for span, outer in zip(box, with_halo, strict=True)
    )
    return features[0].permute(*back, 0)[inner].float()


def _winners(
    network: Network, features: Tensor, channels: Channels, outputs: Channels, prior: TilePrior | None
) -> NDArray[np.uint8]:
    """The channel whose output of the network is the largest at each voxel, among the possible channels."""
    possible = torch.from_numpy(outputs).to(features.device)
    lookup = torch.from_numpy(channels).to(features.device, torch.uint8)
    out = []
    for start in range(0, len(features), SLAB):
        slab_prior = None if prior is None else prior.slab(start, min(start + SLAB, len(features))).flatten(0, 2)
        logits = network.logits_of(features[start : start + SLAB].flatten(0, 2), possible, slab_prior)
        out.append(lookup[logits.argmax(dim=1)].reshape(-1, *features.shape[1:3]))
    labels: NDArray[np.uint8] = torch.cat(out).cpu().numpy()
    return labels
