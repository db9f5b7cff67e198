"""Select atlases for a target and resample them to its grid by one composite transform.

Labels are sampled only once, on the atlas's own grid. The intensities for the comparison of patches come from the
preprocessed images in template space, where bias field and contrast are corrected, so that scanners compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.displacement import CompositeTransform, apply_affine, sample_linear, sample_nearest
from slant.errors import ProtocolError
from slant.grid import Grid
from slant.io.prepared import PreparedScan, prepared_scan
from slant.io.read import Scan, read_labels, read_scan
from slant.io.resources import load_protocol
from slant.multiatlas.atlases import AtlasScan
from slant.multiatlas.label_fusion import Candidates
from slant.multiatlas.pairwise import CoarseScan, PairRegistration, affine_similarity, coarse_scan, registered
from slant.multiatlas.settings import MultiAtlasSettings
from slant.resample import IDENTITY
from slant.volume import LabelMap

MARGIN = 2
"""Voxels around the target's brain that may be labelled, too."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """An atlas that was selected for a target.

    Attributes
    ----------
    affine_similarity : float
        Mean local correlation in the target's brain before SyN.
    """

    source: LabelSource
    pair: PairRegistration
    affine_similarity: float


@dataclass(frozen=True)
class LabelSource:
    """A scan and the hashes of its files, which identify the files kept for it.

    Attributes
    ----------
    sha256 : str
        SHA-256 of the T1w file.
    dseg_sha256 : str
        SHA-256 of the labels; empty without labels.
    """

    atlas_scan: AtlasScan
    sha256: str
    dseg_sha256: str

    def prepared(self, work_dir: Path) -> PreparedScan:
        """The scan in template space, see `slant.io.prepared.prepared_scan`."""
        return prepared_scan(self.atlas_scan.t1w, work_dir / "prepared", self.sha256)


def choose(
    target: LabelSource,
    atlases: Sequence[LabelSource],
    settings: MultiAtlasSettings,
    work_dir: Path,
    mutual: frozenset[str],
) -> tuple[Chosen, ...]:
    """Select and register the most similar atlases, the most similar first; ties are in order of names.

    Parameters
    ----------
    settings : MultiAtlasSettings
        ``rank`` says whether atlases are ranked before or after SyN.
    work_dir : Path
        Directory of preprocessed scans and registrations.
    mutual : frozenset of str
        Names of atlases that are targets, too, so that the registration in the other direction is kept.
    """
    fixed = coarse_scan(target.prepared(work_dir), settings.resolution_mm)
    coarse = [_coarse_atlas(atlas, settings.resolution_mm, work_dir) for atlas in atlases]
    similarities = [affine_similarity(fixed, atlas) for atlas in coarse]
    order = sorted(range(len(atlases)), key=lambda i: (-similarities[i], atlases[i].atlas_scan.name))
    if settings.rank == "affine":
        order = order[: settings.n_atlases]
    registered_atlases = []
    for i in order:
        both = atlases[i].atlas_scan.name in mutual
        pair = registered(fixed, coarse[i], settings.syn, work_dir / "pairs", both=both)
        registered_atlases.append(Chosen(atlases[i], pair, similarities[i]))
    registered_atlases.sort(key=lambda chosen: (-chosen.pair.similarity, chosen.source.atlas_scan.name))
    return tuple(registered_atlases[: settings.n_atlases])


@lru_cache(maxsize=64)
def _coarse_atlas(atlas: LabelSource, resolution_mm: float, work_dir: Path) -> CoarseScan:
    """An atlas at the resolution of the registration, kept in memory for the next target."""
    return coarse_scan(atlas.prepared(work_dir), resolution_mm)


def gather(
    target: Scan, prepared: PreparedScan, chosen: Sequence[Chosen], work_dir: Path, unknown: str
) -> tuple[Candidates, tuple[slice, slice, slice]]:
    """Labels and images of the chosen atlases, resampled to a box around the target's brain, and the box.

    Parameters
    ----------
    prepared : PreparedScan
        The target in template space.
    work_dir : Path
        Directory of preprocessed scans and registrations.
    unknown : {"error", "background"}
        How to treat label ids outside the protocol.

    Raises
    ------
    ProtocolError
        If an atlas has ids outside the protocol and ``unknown`` is ``"error"``.
    """
    box = brain_box(prepared.brain)
    grid = target.volume.grid.cropped(box)
    template_from_target = np.asarray(np.linalg.inv(prepared.native_from_template), dtype=np.float64)
    near = ndimage.binary_dilation(prepared.brain.data[box], iterations=MARGIN)
    labels = np.zeros((len(chosen), *grid.shape), dtype=np.uint8)
    images = np.zeros((len(chosen), *grid.shape), dtype=np.float32)
    for i, atlas in enumerate(chosen):
        scan = read_scan(atlas.source.atlas_scan.t1w)
        channels = atlas_channels(atlas.source.atlas_scan, scan, unknown)
        moving = atlas.source.prepared(work_dir)
        image = moving.image
        transform = CompositeTransform(template_from_target, atlas.pair.field, IDENTITY)
        coordinates = transform.voxels(grid, image.grid, near)
        images[i, near] = sample_linear(image.data, coordinates)
        voxel_from_voxel = scan.volume.grid.voxel_from_ras @ moving.native_from_template @ image.grid.ras_from_voxel
        labels[i, near] = sample_nearest(channels, apply_affine(voxel_from_voxel, coordinates))
    intensities = np.zeros(grid.shape, dtype=np.float32)
    coordinates = CompositeTransform(template_from_target, None, IDENTITY).voxels(grid, prepared.image.grid, near)
    intensities[near] = sample_linear(prepared.image.data, coordinates)
    return Candidates(labels, images, intensities), box


def atlas_channels(atlas_scan: AtlasScan, scan: Scan, unknown: str) -> NDArray[np.uint8]:
    """(X, Y, Z) uint8 channels of an atlas's manual labels.

    Raises
    ------
    GeometryError
        If the labels are not on the scan's grid.
    ProtocolError
        If they have ids outside the protocol and ``unknown`` is ``"error"``, or only such ids.
    """
    if atlas_scan.dseg is None:
        raise ProtocolError(f"{atlas_scan.name} has no labels")
    protocol, labels = load_protocol(), read_labels(atlas_scan.dseg, scan)
    try:
        channels = protocol.channels_from_ids(labels.data, unknown="background" if unknown == "background" else "error")
    except ProtocolError as error:
        raise ProtocolError(f"{atlas_scan.dseg}: {error} (to ignore them: --unknown-ids background)") from error
    if not channels.any():
        raise ProtocolError(
            f"{atlas_scan.dseg}: found no region of protocol '{protocol.name}', only the ids {labels.ids[:10]}"
        )
    return channels


def brain_box(brain: LabelMap) -> tuple[slice, slice, slice]:
    """Bounding box of a brain with a border of `MARGIN` voxels, inside the grid."""
    voxels = np.argwhere(brain.data)
    first = np.maximum(voxels.min(axis=0) - MARGIN, 0)
    stop = np.minimum(voxels.max(axis=0) + 1 + MARGIN, brain.data.shape)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(first, stop, strict=True))
    return x, y, z


def on_whole_grid(
    grid: Grid, box: tuple[slice, slice, slice], part: NDArray[np.generic], outside: float
) -> NDArray[np.generic]:
    """Array on the whole grid with ``part`` in the box and the value ``outside`` elsewhere."""
    out = np.full(grid.shape, outside, dtype=part.dtype)
    out[box] = part
    return out
