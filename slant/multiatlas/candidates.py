"""Select atlases for a target, register them, and resample them to its grid by one composite transform.

Labels are sampled only once, on the atlas's own grid. The intensities for the comparison of patches come from the
preprocessed images in template space, where bias field and contrast are corrected, so that scanners compare.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.atlas_votes import MARGIN
from slant.config import SynSettings
from slant.displacement import CompositeTransform, DisplacementField, apply_affine, sample_linear, sample_nearest
from slant.errors import ProtocolError
from slant.grid import Grid
from slant.io.prepared import PreparedScan, digest, kept, prepared_scan
from slant.io.read import Scan, read_labels, read_scan
from slant.io.resources import load_protocol
from slant.joint_fusion import Candidates
from slant.multiatlas.atlases import AtlasScan
from slant.multiatlas.settings import MultiAtlasSettings
from slant.resample import IDENTITY, coarsened
from slant.syn import parameters, register_syn, similarity
from slant.volume import LabelMap, Volume


@dataclass(frozen=True, eq=False)
class PairRegistration:
    """Registration of a target and an atlas.

    Attributes
    ----------
    field : DisplacementField
        In template space, from the target to the atlas.
    similarity : float
        Mean local correlation in the target's brain after SyN, 0 to 1.
    runtime_s : float
        Processor time of the registration.
    """

    field: DisplacementField
    similarity: float
    runtime_s: float


@dataclass(frozen=True, eq=False)
class CoarseScan:
    """SHA-256 of a scan and its image in template space, smoothed and downsampled for the registration."""

    sha256: str
    image: Volume


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
    """A scan with the SHA-256 of its T1w file and of its labels (empty without labels), which identify kept files."""

    atlas_scan: AtlasScan
    sha256: str
    dseg_sha256: str

    def prepared(self, work_dir: Path) -> PreparedScan:
        """The scan in template space, see `slant.io.prepared.prepared_scan`."""
        return prepared_scan(self.atlas_scan.t1w, work_dir / "prepared", self.sha256)

    def coarse(self, resolution_mm: float, work_dir: Path) -> CoarseScan:
        """The scan in template space at the resolution of the registration."""
        prepared = self.prepared(work_dir)
        return CoarseScan(prepared.sha256, coarsened(prepared.image, resolution_mm))


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
    work_dir : Path
        Directory of preprocessed scans and registrations.
    mutual : frozenset of str
        Names of atlases that are targets, too, so that the registration in the other direction is kept.
    """
    fixed = target.coarse(settings.resolution_mm, work_dir)
    coarse = [_coarse_atlas(atlas, settings.resolution_mm, work_dir) for atlas in atlases]
    similarities = [similarity(fixed.image, atlas.image.data) for atlas in coarse]
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
    return atlas.coarse(resolution_mm, work_dir)


def registered(
    target: CoarseScan, atlas: CoarseScan, settings: SynSettings, folder: Path, *, both: bool = False
) -> PairRegistration:
    """Read the registration from the folder or, if it is not there, register the pair and write it.

    Parameters
    ----------
    both : bool, optional
        Whether to keep the other direction, too, for an atlas that is also a target.

    Raises
    ------
    OutputError
        If the registration cannot be written.
    """
    of_settings = digest(parameters(settings))

    def stored(fixed: CoarseScan, moving: CoarseScan, compute: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, Any]:
        path = folder / of_settings[:12] / fixed.sha256[:20] / f"{moving.sha256[:20]}.npz"
        return kept(path, digest(fixed.sha256, moving.sha256, of_settings), compute)

    def compute() -> dict[str, NDArray[Any]]:
        start = time.process_time()
        forward, inverse = register_syn(target.image, atlas.image, settings)
        runtime_s = {"runtime_s": np.array(time.process_time() - start)}
        if both:
            stored(atlas, target, lambda: _arrays(atlas.image, target.image, inverse) | runtime_s)
        return _arrays(target.image, atlas.image, forward) | runtime_s

    arrays = stored(target, atlas, compute)
    field = DisplacementField(arrays["displacement_mm"].astype(np.float32), target.image.grid)
    return PairRegistration(field, float(arrays["similarity"]), float(arrays["runtime_s"]))


def _arrays(fixed: Volume, moving: Volume, field: DisplacementField) -> dict[str, NDArray[Any]]:
    """Arrays to keep: the displacement field in half precision (exact to 0.01 mm), and its similarity in the brain."""
    stored = field.displacement_mm.astype(np.float16)
    rounded = DisplacementField(stored.astype(np.float32), field.grid)
    coordinates = CompositeTransform(IDENTITY, rounded, IDENTITY).voxels(fixed.grid, moving.grid)
    found = similarity(fixed, sample_linear(moving.data, coordinates))
    return {"displacement_mm": stored, "similarity": np.array(found)}


def gather(
    target: Scan, prepared: PreparedScan, chosen: Sequence[Chosen], work_dir: Path, unknown: str
) -> tuple[Candidates, tuple[slice, slice, slice]]:
    """Labels and images of the chosen atlases, resampled to a box around the target's brain, and the box.

    Parameters
    ----------
    prepared : PreparedScan
        The target in template space.
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
        template = moving.image.grid
        transform = CompositeTransform(template_from_target, atlas.pair.field, IDENTITY)
        coordinates = transform.voxels(grid, template, near)
        images[i, near] = sample_linear(moving.image.data, coordinates)
        voxel_from_voxel = scan.volume.grid.voxel_from_ras @ moving.native_from_template @ template.ras_from_voxel
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
