"""Inference of an assembly: runs a network for each tile and returns only the winning channels.

On a CPU each tile is computed by one thread, and several tiles run in parallel. The result does not depend on the
number of threads, and the peak memory depends on the number of threads, not on the number of tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Lock
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slant.grid import scaled_shape
from slant.nets.earlier import votes_in_box
from slant.nets.inputs import InputScaling
from slant.nets.mirroring import Mirroring, TileInput
from slant.nets.most_likely import Box, cast_ballots
from slant.nets.network import Network, channels_last
from slant.nets.prior import Prior
from slant.nets.unet import box_coordinate_channels
from slant.sparse_votes import SparseVotes
from slant.threads import SINGLE_THREAD
from slant.tiles import Tile, TileLayout
from slant.vote import ballot_maps

SLAB = 32
"""Number of planes of a tile for which the layers at 1 mm are computed at once."""

FOREGROUND_MARGIN = 8
"""Voxels (1 mm) around the box of the non-zero voxels of a tile; everything beyond is background."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """Everything that is common to the inference of all tiles of an assembly on one scan.

    Attributes
    ----------
    layout : TileLayout
        Tiles on the grid of the assembly.
    prior : Prior, optional
        Prior on the grid of the assembly, if the networks take one.
    network : callable
        Function that returns the network of a tile by name, in float32 on the CPU.
    scaling : InputScaling
        Scaling of the inputs, of which the rescaling of tiles and the axes are used here.
    displacement : (3, X/2, Y/2, Z/2) float32 array, optional
        Displacement of the scan to the groupwise template, in template voxels; the coordinate channels are then those
        of the groupwise template.
    mirroring : Mirroring, optional
        If given, some or all tiles label the mirror image of the scan with the network of their mirrored tiles, so that
        the votes of neighbouring tiles are less correlated.
    dtype : torch.dtype
        Data type of the layers of networks for which half precision suffices; see `slant.nets.device.inference_dtype`.
    resolution_mm : int
        Edge length of the voxels of the assembly, in template voxels (1 mm).
    earlier : SparseVotes, optional
        Result of the earlier assembly, if the networks take one.
    ballots : int
        Number of ballots of each tile and view for each voxel, see `slant.nets.most_likely.cast_ballots`.
    """

    layout: TileLayout
    prior: Prior | None
    network: Callable[[str], Network]
    scaling: InputScaling = field(default_factory=InputScaling)
    displacement: NDArray[np.float32] | None = None
    mirroring: Mirroring | None = None
    dtype: torch.dtype = torch.float32
    resolution_mm: int = 1
    earlier: SparseVotes | None = None
    ballots: int = 1
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)
    _ready: WeakSet[Network] = field(default_factory=WeakSet, init=False, repr=False)

    @property
    def views(self) -> int:
        """Number of times that each tile votes: 2 if all tiles label both the scan and its mirror image, else 1."""
        return 2 if self.mirroring is not None and self.mirroring.mirror == "both" else 1

    def ready(self, name: str, device: torch.device) -> Network:
        """The network of a tile by name, on the device, in the right memory format and data type.

        Each is moved once: tiles may share it, and its weights must not move while another thread computes with them.
        """
        network = self.network(name)
        if self.dtype != torch.float32 and network.half_precision:
            network = deepcopy(network).to(self.dtype)
        with self._lock:
            if network not in self._ready:
                self._ready.add(channels_last(network.eval().to(device)))
        return network


def tile_votes(
    predictor: Predictor, image: NDArray[np.float32], device: torch.device, threads: int
) -> Iterator[tuple[Tile, NDArray[np.uint8]]]:
    """Yield each tile with its ballots, (M, X, Y, Z) uint8 maps in its core and 0 elsewhere, in no fixed order.

    The maps are those of `tile_ballots`.

    Parameters
    ----------
    image : (X, Y, Z) float32 array
        Scan on the grid of the assembly, in network units.
    threads : int
        Number of tiles computed in parallel on a CPU.
    """
    if device.type != "cpu":
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            for tile in predictor.layout:
                yield tile, tile_ballots(predictor, tile, image, device, tile.core_within)
        return
    with SINGLE_THREAD, ThreadPoolExecutor(threads) as pool:
        waiting = list(predictor.layout)
        running: dict[Future[NDArray[np.uint8]], Tile] = {}
        while waiting or running:
            while waiting and len(running) < threads:
                tile = waiting.pop(0)
                running[pool.submit(tile_ballots, predictor, tile, image, device, tile.core_within)] = tile
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()


def label_tile(
    predictor: Predictor, tile: Tile, image: NDArray[np.float32], device: torch.device, region: Box | None = None
) -> NDArray[np.uint8]:
    """Most likely channel of each voxel of one tile, (X, Y, Z) uint8; arguments as for `tile_ballots`."""
    return np.asarray(tile_ballots(predictor, tile, image, device, region)[0], dtype=np.uint8)


@torch.inference_mode()
def tile_ballots(
    predictor: Predictor, tile: Tile, image: NDArray[np.float32], device: torch.device, region: Box | None = None
) -> NDArray[np.uint8]:
    """Ballots of each voxel of one tile, (M, X, Y, Z) uint8: the `slant.vote.ballot_maps` of each `Predictor.views`.

    A single ballot is for the most likely channel; several are divided between two channels. A tile without a mirrored
    tile casts its ballots as often as the others, so that all tiles have the same weight. The layers at 1 mm, which
    take most of the time, run only where they are needed.

    Parameters
    ----------
    image : (X, Y, Z) float32 array
        Scan on the grid of the assembly, in network units.
    region : 3 slices, optional
        Part of the tile to label (default: all). The rest is 0, as is everything more than `FOREGROUND_MARGIN` voxels
        outside the box of the non-zero voxels.
    """
    region = region or tuple(slice(0, n) for n in predictor.layout.size)
    own = TileInput(tile, image, predictor.prior, predictor.displacement, predictor.earlier)
    mirroring, layout = predictor.mirroring, predictor.layout
    inputs = (own,) if mirroring is None else mirroring.inputs(own, layout, predictor.resolution_mm)
    ballots = [_labelled(predictor, one, device, region) for one in inputs]
    return np.concatenate(ballots * (predictor.views // len(ballots)))


def _labelled(predictor: Predictor, tile_input: TileInput, device: torch.device, region: Box) -> NDArray[np.uint8]:
    """Ballots (M, X, Y, Z) for a region of a tile of the scan; the mirror image is labelled in the mirrored region."""
    size, mirrored = predictor.layout.size, tile_input.partners is not None
    if mirrored:
        region = (slice(size[0] - region[0].stop, size[0] - region[0].start), *region[1:])
    labels, tile = np.zeros((ballot_maps(predictor.ballots), *size), np.uint8), tile_input.tile
    boxes = [box for slab in _slabs(tile, region) if (box := _foreground_box(tile_input.image[tile.box], slab))]
    if boxes:
        network = predictor.ready(tile.name, device)
        image, backbone = _backbone(predictor, network, tile_input, device)
        for box in boxes:
            features = _head(predictor, network, backbone, image, box)
            of_grid = tuple(slice(s.start + a, s.stop + a) for s, a in zip(box, tile.start, strict=True))
            others = tile_input.prior, tile_input.partners, predictor.ballots
            labels[:, *box] = cast_ballots(network, features, of_grid, *others)
    return labels[:, ::-1] if mirrored else labels


def _slabs(tile: Tile, region: Box) -> Iterator[Box]:
    """The region in slabs along x, whose borders are at the same voxels of the template in all tiles."""
    first, stop = region[0].start, region[0].stop
    borders = range((tile.start[0] + first) // SLAB * SLAB + SLAB - tile.start[0], stop, SLAB)
    for low, high in pairwise([first, *borders, stop]):
        yield (slice(low, high), *region[1:])


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


def _backbone(
    predictor: Predictor, network: Network, tile_input: TileInput, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The image of a tile and its features of the backbone, with the axes in the order of the network."""
    tile, scaling, r = tile_input.tile, predictor.scaling, predictor.resolution_mm
    padded = np.pad(
        scaling.of_tile(tile_input.image[tile.box]), [(0, -n % network.multiple) for n in predictor.layout.size]
    )
    order = [2 + axis for axis in scaling.order]
    displacement = None if tile_input.displacement is None else torch.from_numpy(tile_input.displacement)
    shape, start, size = (scaled_shape(n, r) for n in (predictor.layout.shape, tile.start, padded.shape))
    coordinates = box_coordinate_channels(shape, start, size, displacement, network.stride * r)
    dtype, embedded = next(network.parameters()).dtype, None

    def ordered(x: Tensor) -> Tensor:
        return x.permute(0, 1, *order).to(device, dtype)

    if tile_input.earlier is not None:
        channels, fractions = votes_in_box(tile_input.earlier, start, size, network.stride * r)
        embedded = ordered(network.embed(channels.to(device), fractions.to(device, dtype)))
    image = ordered(torch.from_numpy(padded)[None, None]).contiguous()
    with _autocast(network, device):
        return image, network.backbone(image, ordered(coordinates), embedded)


def _head(predictor: Predictor, network: Network, backbone: Tensor, image: Tensor, box: Box) -> Tensor:
    """(X, Y, Z, F) float32 features of a box of one tile, axes x, y, z."""
    scaling, stride, halo = predictor.scaling, network.stride, network.halo
    sizes = [image.shape[2 + scaling.order.index(axis)] for axis in range(3)]
    with_halo = [  # in features: the input of the decoder head
        slice(max(0, (span.start - halo) // stride), min(size // stride, -(-(span.stop + halo) // stride)))
        for span, size in zip(box, sizes, strict=True)
    ]
    coarse = (slice(None), slice(None), *(with_halo[axis] for axis in scaling.order))
    fine = (*coarse[:2], *(slice(s.start * stride, s.stop * stride) for s in coarse[2:]))
    with _autocast(network, image.device):
        features = network.decoder_head(backbone[coarse], image[fine])
    back = [1 + scaling.order.index(axis) for axis in range(3)]
    inner = tuple(
        slice(span.start - outer.start * stride, span.stop - outer.start * stride)
        for span, outer in zip(box, with_halo, strict=True)
    )
    return features[0].permute(*back, 0)[inner].float()


def _autocast(network: Network, device: torch.device) -> torch.autocast:
    return torch.autocast("cuda", torch.float16, enabled=device.type == "cuda" and network.half_precision)
