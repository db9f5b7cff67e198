"""Votes of atlases: labelled scans that are registered to the scan to be segmented, together with the networks.

Networks and joint label fusion err in different places: networks know how a region looks on average, atlases where its
borders lie in brains that look like this one here. Half of the votes come from each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.config import SynSettings
from slant.displacement import CompositeTransform, DisplacementField, apply_affine, sample_linear, sample_nearest
from slant.errors import InputError
from slant.grid import Grid, Matrix
from slant.joint_fusion import Candidates, fuse_jointly
from slant.resample import IDENTITY, coarsened, resample
from slant.sparse_votes import KEPT, MOST_VOTES, SparseVotes
from slant.syn import register_syn, similarity
from slant.threads import SINGLE_THREAD, Threads
from slant.volume import Volume

MARGIN = 2
"""Voxels around the brain that may be labelled, too."""

MIN_ATLASES = 2
"""Joint label fusion compares at least this many."""

MOST_ATLASES = 15
"""At most this many vote, those most similar to the scan; more bring little and take longer."""

SYN = SynSettings()
"""Registration of an atlas to a scan."""

_REGISTERED = 0.8  # part of the work that is done when all atlases are registered


@dataclass(frozen=True, eq=False)
class Atlas:
    """A scan with manual labels, ready for registration.

    Attributes
    ----------
    name, subject : str
        An atlas is not used for scans of its own subject.
    sha256 : str
        SHA-256 of the file of the scan.
    intensities : (X, Y, Z) float16 array
        Image in template space, 0 outside the brain, about 1 on average inside; only the box of the brain.
    grid : Grid
        Grid of ``intensities``, a part of the template grid.
    channels : (U, V, W) uint8 array
        Manual labels, not resampled.
    voxel_from_template : (4, 4) float64 array
        Affine from RAS mm in template space to the voxels of ``channels``.
    """

    name: str
    subject: str
    sha256: str
    intensities: NDArray[np.float16]
    grid: Grid
    channels: NDArray[np.uint8]
    voxel_from_template: Matrix


@dataclass(frozen=True, eq=False)
class AtlasVotes:
    """Votes of atlases on the template grid, and the similarity (0 to 1) to the scan after registration by name."""

    votes: SparseVotes
    similarities: dict[str, float]


def votes_of_atlases(
    image: Volume, atlases: Sequence[Atlas], n_threads: int = 1, advance: Callable[[float], None] = lambda _: None
) -> AtlasVotes:
    """Register the `MOST_ATLASES` most similar atlases to a scan by SyN and fuse their labels jointly.

    Parameters
    ----------
    image : Volume
        The scan on the template grid, as the images of the atlases.
    n_threads : int, optional
        CPU threads, each for one registration; the votes do not depend on them.
    advance : callable, optional
        Called with the part of the work that is done, 0 to 1.

    Returns
    -------
    AtlasVotes
        Weights of the atlases in 255ths; 255 only where all atlases have one label.

    Raises
    ------
    InputError
        If there are fewer than `MIN_ATLASES` atlases.
    """
    if len(atlases) < MIN_ATLASES:
        raise InputError(f"found {len(atlases)} atlases, expected at least {MIN_ATLASES} for joint label fusion")
    near = ndimage.binary_dilation(image.data != 0, iterations=MARGIN)
    box = ndimage.find_objects(near.astype(np.uint8))[0]
    fixed = coarsened(image, SYN.resolution_mm)
    registered: list[_Registered] = []
    with SINGLE_THREAD, Threads(n_threads) as threads:
        nearest = _most_similar(fixed, image.grid, atlases, threads)
        for future in [threads.start(_registered, fixed, image.grid, atlas, near) for atlas in nearest]:
            registered.append(future.result())
            advance(_REGISTERED * len(registered) / len(nearest))
        registered.sort(key=lambda one: (-one.similarity, one.name))
        candidates = _candidates(image, registered, near, box)
        similarities = {one.name: round(one.similarity, 4) for one in registered}
        registered.clear()  # the memory is needed
        fused = fuse_jointly(candidates, threads=threads)
    channels, counts = (np.zeros((*image.grid.shape, KEPT), np.uint8) for _ in range(2))
    counts[..., 0] = MOST_VOTES
    counts[box] = np.floor(np.minimum(fused.fractions, 1) * MOST_VOTES)
    channels[box] = np.where(counts[box] > 0, fused.channels, np.uint8(0))
    advance(1.0)
    votes = SparseVotes(channels, counts, np.full(image.grid.shape, MOST_VOTES, np.uint8))
    return AtlasVotes(votes, similarities)


@dataclass(frozen=True, eq=False)
class _Registered:
    """Image and channels (N,) of an atlas at the N voxels near the brain, and its similarity in the brain, 0 to 1."""

    name: str
    image: NDArray[np.float32]
    channels: NDArray[np.uint8]
    similarity: float


def _most_similar(fixed: Volume, grid: Grid, atlases: Sequence[Atlas], threads: Threads) -> list[Atlas]:
    """The atlases with the highest similarity to a scan before the registration, in order of their names."""
    if len(atlases) > MOST_ATLASES:
        started = [threads.start(similarity, fixed, _coarse(atlas, grid).data) for atlas in atlases]
        similarities = {atlas.name: future.result() for atlas, future in zip(atlases, started, strict=True)}
        atlases = sorted(atlases, key=lambda atlas: (-similarities[atlas.name], atlas.name))[:MOST_ATLASES]
    return sorted(atlases, key=lambda atlas: atlas.name)


def _coarse(atlas: Atlas, grid: Grid) -> Volume:
    """Image of an atlas at the resolution of the registration, on the whole template grid."""
    image = Volume(atlas.intensities.astype(np.float32), atlas.grid)
    return coarsened(resample(image, grid), SYN.resolution_mm)


def _registered(fixed: Volume, grid: Grid, atlas: Atlas, near: NDArray[np.bool_]) -> _Registered:
    moving = _coarse(atlas, grid)
    field, _ = register_syn(fixed, moving, SYN, n_threads=1)
    reached = similarity(fixed, sample_linear(moving.data, _through(field).voxels(fixed.grid, moving.grid)))
    coordinates = _through(field).voxels(grid, atlas.grid, near)
    voxel_from_voxel = atlas.voxel_from_template @ atlas.grid.ras_from_voxel
    labels = sample_nearest(atlas.channels, apply_affine(voxel_from_voxel, coordinates))
    intensities = sample_linear(atlas.intensities.astype(np.float32), coordinates)
    return _Registered(atlas.name, intensities, labels, reached)


def _through(field: DisplacementField) -> CompositeTransform:
    return CompositeTransform(IDENTITY, field, IDENTITY)


def _candidates(
    image: Volume, registered: Sequence[_Registered], near: NDArray[np.bool_], box: tuple[slice, ...]
) -> Candidates:
    inside = near[box]
    labels = np.zeros((len(registered), *inside.shape), dtype=np.uint8)
    images = np.zeros((len(registered), *inside.shape), dtype=np.float32)
    for own_labels, own_image, atlas in zip(labels, images, registered, strict=True):
        own_labels[inside], own_image[inside] = atlas.channels, atlas.image
    return Candidates(labels, images, np.where(inside, image.data[box], np.float32(0)))
