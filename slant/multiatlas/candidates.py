"""Every atlas carried to a target's own grid through one chain of transforms; labels are resampled once.

Labels come from the atlas's own grid. The intensities that patches are compared by are those of template space, where
bias and contrast are already corrected, so that scans of different scanners compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.errors import ProtocolError
from slant.grid import Grid
from slant.io.read import Scan, read_labels, read_scan
from slant.io.resources import load_protocol
from slant.multiatlas.fusion import Candidates
from slant.multiatlas.library import Member
from slant.multiatlas.pairs import CoarseScan, Pair, affine_similarity, coarse_scan, registered
from slant.multiatlas.scans import TemplateScan, template_scan
from slant.multiatlas.settings import MultiAtlasSettings
from slant.resample import IDENTITY
from slant.volume import LabelMap
from slant.warp import Chain, cropped, interpolate_at, moved, pick_at

MARGIN = 2
"""Voxels around the target's brain that may be labelled too."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """An atlas that labels a target.

    Attributes
    ----------
    source : Source
    pair : Pair
    affine_similarity : float
    """

    source: Source
    pair: Pair
    affine_similarity: float


@dataclass(frozen=True)
class Source:
    """A scan and the hashes of its files, by which what is kept of it is found again.

    Attributes
    ----------
    member : Member
    sha256 : str
        Of the T1w file.
    dseg_sha256 : str
        Of the labels; empty without.
    """

    member: Member
    sha256: str
    dseg_sha256: str

    def prepared(self, work: Path) -> TemplateScan:
        """In template space, see `template_scan`."""
        return template_scan(self.member, self.sha256, work / "scans")


def choose(
    target: Source, atlases: Sequence[Source], settings: MultiAtlasSettings, work: Path, mutual: frozenset[str]
) -> tuple[Chosen, ...]:
    """The most similar atlases, the best first, registered; of equals the first by name.

    Parameters
    ----------
    target : Source
    atlases : sequence of Source
    settings : MultiAtlasSettings
        ``rank`` says whether similarity is measured before SyN or after.
    work : Path
        Where prepared scans and registrations are kept.
    mutual : frozenset of str
        Names of atlases that are targets too, so that the other direction is worth keeping.
    """
    here = coarse_scan(target.prepared(work), settings.resolution_mm)
    coarse = [_coarse_atlas(atlas, settings.resolution_mm, work) for atlas in atlases]
    similar = [affine_similarity(here, c, settings.syn) for c in coarse]
    order = sorted(range(len(atlases)), key=lambda i: (-similar[i], atlases[i].member.name))
    if settings.rank == "affine":
        order = order[: settings.best]
    found = []
    for i in order:
        both = atlases[i].member.name in mutual
        pair = registered(here, coarse[i], settings.syn, work / "pairs", both=both)
        found.append(Chosen(atlases[i], pair, similar[i]))
    found.sort(key=lambda chosen: (-chosen.pair.similarity, chosen.source.member.name))
    return tuple(found[: settings.best])


@lru_cache(maxsize=64)
def _coarse_atlas(atlas: Source, resolution_mm: float, work: Path) -> CoarseScan:
    """An atlas at the resolution of the registration, kept in memory for the next target."""
    return coarse_scan(atlas.prepared(work), resolution_mm)


def gather(
    target: Scan, prepared: TemplateScan, chosen: Sequence[Chosen], work: Path, unknown: str
) -> tuple[Candidates, tuple[slice, slice, slice]]:
    """What the chosen atlases say in a box around the target's brain, and the box.

    Raises
    ------
    ProtocolError
        If an atlas has ids outside the protocol and these are not to be background.
    """
    box = brain_box(prepared.brain)
    grid = cropped(target.volume.grid, box)
    template_from_target = np.asarray(np.linalg.inv(prepared.home_from_template), dtype=np.float64)
    near = ndimage.binary_dilation(prepared.brain.data[box], iterations=MARGIN)
    labels = np.zeros((len(chosen), *grid.shape), dtype=np.uint8)
    images = np.zeros((len(chosen), *grid.shape), dtype=np.float32)
    for i, atlas in enumerate(chosen):
        scan = read_scan(atlas.source.member.t1w)
        channels = atlas_channels(atlas.source.member, scan, unknown)
        there = atlas.source.prepared(work)
        image = there.image
        places = Chain(template_from_target, atlas.pair.warp, IDENTITY).voxels(grid, image.grid, near)
        images[i, near] = interpolate_at(image.data, places)
        voxel_from_voxel = scan.volume.grid.voxel_from_ras @ there.home_from_template @ image.grid.ras_from_voxel
        labels[i, near] = pick_at(channels, moved(voxel_from_voxel, places))
    intensities = np.zeros(grid.shape, dtype=np.float32)
    places = Chain(template_from_target, None, IDENTITY).voxels(grid, prepared.image.grid, near)
    intensities[near] = interpolate_at(prepared.image.data, places)
    return Candidates(labels, images, intensities), box


def atlas_channels(member: Member, scan: Scan, unknown: str) -> NDArray[np.uint8]:
    """(X, Y, Z) uint8 channels of an atlas's manual labels.

    Raises
    ------
    GeometryError
        If the labels are not on the scan's grid.
    ProtocolError
        If they hold ids outside the protocol and ``unknown`` is ``"error"``, or nothing but such ids.
    """
    if member.dseg is None:
        raise ProtocolError(f"{member.name} has no labels")
    protocol, labels = load_protocol(), read_labels(member.dseg, scan)
    try:
        channels = protocol.channels_from_ids(labels.data, unknown="background" if unknown == "background" else "error")
    except ProtocolError as error:
        raise ProtocolError(f"{member.dseg}: {error} (--unknown background)") from error
    if not channels.any():
        raise ProtocolError(f"{member.dseg}: found no region of protocol '{protocol.name}', only ids {labels.ids[:10]}")
    return channels


def brain_box(brain: LabelMap) -> tuple[slice, slice, slice]:
    """The box of voxels around a brain, with `MARGIN`, inside the grid."""
    voxels = np.argwhere(brain.data)
    first = np.maximum(voxels.min(axis=0) - MARGIN, 0)
    stop = np.minimum(voxels.max(axis=0) + 1 + MARGIN, brain.data.shape)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(first, stop, strict=True))
    return x, y, z


def whole(
    grid: Grid, box: tuple[slice, slice, slice], part: NDArray[np.generic], outside: float
) -> NDArray[np.generic]:
    """An array of the whole grid that holds a part in a box and a number elsewhere."""
    out = np.full(grid.shape, outside, dtype=part.dtype)
    out[box] = part
    return out
