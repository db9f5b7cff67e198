"""Labelled scans carried into template space once, kept on disk for every later step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from slant.errors import InputError
from slant.nets.prior import SPACING, Prior, quantize
from slant.train.loss import IGNORED

if TYPE_CHECKING:
    from slant.train.settings import GroupwiseSettings
    from slant.volume import Volume

SMOOTH_MM = 3.0
"""Gaussian smoothing of the labels before their frequencies are counted."""

REACH = 4
"""Cells of 4 mm within which that smoothing is felt."""

NEAR = 4
"""Voxels within which a place counts as labelled when boxes are drawn: half a box."""


@dataclass(frozen=True, eq=False)
class LabelledScan:
    """One training scan in template space.

    Attributes
    ----------
    name : str
    image : (X, Y, Z) float32 tensor
        Network units: 0 outside the brain, about 1 on average inside.
    channels : (X, Y, Z) uint8 tensor
        True channel of each voxel; `IGNORED` where nobody has labelled.
    frequency : (X/4, Y/4, Z/4, C) float16 tensor
        Its labels as smoothed shares of 4 mm cells.
    near : (X, Y, Z) uint8 tensor, optional
        Channel of the nearest labelled voxel up to `NEAR` away, where not all voxels are labelled.
    covered : (C,) bool tensor, optional
        Channels that the labels tell apart, where they leave regions out.
    """

    name: str
    image: Tensor
    channels: Tensor
    frequency: Tensor
    near: Tensor | None = None
    covered: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Groupwise:
    """The groupwise template of a run as training sees it.

    Attributes
    ----------
    mean : Volume
        Mean image, 2 mm.
    votes : (X/2, Y/2, Z/2, C) tensor
        Votes of all scans that make the template.
    displacements : dict of str to (3, X/2, Y/2, Z/2) float32 tensor
        Of every scan: template voxels from a place in it to that in the groupwise template.
    own : dict of str to tuple of (X/2, Y/2, Z/2, 8) uint8 tensors
        Of every scan: what the scans of the same subject voted, to be taken out again.
    settings : GroupwiseSettings
    """

    mean: Volume
    votes: Tensor
    displacements: dict[str, Tensor]
    own: dict[str, tuple[Tensor, ...]]
    settings: GroupwiseSettings


def labelled_names(folder: Path) -> list[str]:
    """Sorted names of the scans of a folder that have both ``NAME_T1w.nii.gz`` and ``NAME_dseg.nii.gz``.

    Raises
    ------
    InputError
        If there are none, or a scan has no labels.
    """
    scans = sorted(path.name.removesuffix("_T1w.nii.gz") for path in folder.glob("*_T1w.nii.gz"))
    lacking = [name for name in scans if not (folder / f"{name}_dseg.nii.gz").is_file()]
    if not scans or lacking:
        found = f"no labels for {', '.join(lacking)}" if lacking else "no *_T1w.nii.gz"
        raise InputError(f"{folder}: found {found}; wanted pairs NAME_T1w.nii.gz and NAME_dseg.nii.gz")
    return scans


def load_scans(
    images: Path, labels: Path, names: list[str], covered: Mapping[str, Tensor | None]
) -> list[LabelledScan]:
    """The prepared scans of the given names, with their label frequencies.

    Parameters
    ----------
    images, labels : Path
        Folders of ``NAME.npz`` and ``NAME.labels.npz``.
    names : list of str
    covered : mapping of str to (C,) bool tensor
        The channels that the labels of a scan tell apart; None for all.

    Raises
    ------
    InputError
        If a scan has not been prepared.
    """
    scans = []
    for name in names:
        files = images / f"{name}.npz", labels / f"{name}.labels.npz"
        for path in files:
            if not path.is_file():
                raise InputError(f"no prepared scan {path}; run the preparation of `slant train` first")
        with np.load(files[0]) as stored:
            image = torch.from_numpy(stored["image"].astype(np.float32))
        with np.load(files[1]) as stored:
            channels, frequency = stored["channels"], torch.from_numpy(stored["frequency"])
        near = nearest_labels(channels) if (channels == IGNORED).any() else None
        scans.append(LabelledScan(name, image, torch.from_numpy(channels), frequency, near, covered.get(name)))
    return _evened(scans)


def nearest_labels(channels: NDArray[np.uint8]) -> Tensor:
    """(X, Y, Z) uint8 channel of the nearest labelled voxel, `IGNORED` where it is more than `NEAR` voxels away."""
    away, index = ndimage.distance_transform_edt(channels == IGNORED, return_indices=True)
    near: NDArray[np.uint8] = channels[tuple(index)]
    near[away > NEAR] = IGNORED
    return torch.from_numpy(near)


def _evened(scans: list[LabelledScan]) -> list[LabelledScan]:
    """The scans with frequencies as if every region were covered equally often.

    Where labels leave regions out, those that they have count for more, and their background for nothing unless no
    scan has all regions.
    """
    if all(scan.covered is None for scan in scans):
        return scans
    count = scans[0].frequency.shape[-1]
    everything = torch.ones(count, dtype=torch.bool)
    masks = [everything if scan.covered is None else scan.covered for scan in scans]
    whole = any(scan.covered is None for scan in scans)
    covering = torch.stack(masks).sum(dim=0)
    scale = len(scans) / covering.clamp(min=1)
    if not whole:
        scale[0] = 1.0
    even = []
    for scan, mask in zip(scans, masks, strict=True):
        used = mask.clone()
        used[0] = not whole or scan.covered is None
        frequency = (scan.frequency.float() * (scale * used)).to(torch.float16)
        even.append(replace(scan, frequency=frequency))
    return even


def label_frequency(channels: NDArray[np.uint8], channel_count: int) -> NDArray[np.float16]:
    """(X/4, Y/4, Z/4, C) float16 share of each channel around the middle of each 4 mm cell, smoothed by 3 mm.

    Where voxels are `IGNORED` the shares of a cell sum to less than 1.
    """
    shape = channels.shape
    cells = tuple(-(-n // SPACING) for n in shape)
    out = np.zeros((*cells, channel_count), dtype=np.float16)
    padded = np.pad(channels, [(0, c * SPACING - n) for c, n in zip(cells, shape, strict=True)])
    boxes = ndimage.find_objects(padded)
    for channel in [*range(1, channel_count), IGNORED]:
        box = boxes[channel - 1] if channel <= len(boxes) else None
        if box is None:
            continue
        # Cells as far around the region as its smoothed share reaches.
        first = [max(0, s.start // SPACING - REACH) for s in box]
        last = [min(n, -(-s.stop // SPACING) + REACH) for s, n in zip(box, cells, strict=True)]
        here = tuple(slice(a * SPACING, b * SPACING) for a, b in zip(first, last, strict=True))
        x, y, z = (b - a for a, b in zip(first, last, strict=True))
        halves = (padded[here] == channel).reshape(x * 2, 2, y * 2, 2, z * 2, 2)
        smooth = ndimage.gaussian_filter(halves.mean(axis=(1, 3, 5), dtype=np.float32), SMOOTH_MM / 2, truncate=5.0)
        mean = smooth.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))
        into = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        out[(*into, 0 if channel == IGNORED else channel)] = mean
    unlabelled = out[..., 0].astype(np.float32)
    out[..., 0] = np.clip(1 - unlabelled - out[..., 1:].sum(axis=-1, dtype=np.float32), 0, 1)
    return out


def total_frequency(scans: list[LabelledScan], prior: Prior | None = None) -> Tensor:
    """(X/4, Y/4, Z/4, C) float32 sum over scans; one alone tells only which regions there are, not where.

    A ``prior`` that is given takes their place.
    """
    if prior is not None:
        return prior.log_frequency_at((slice(None),) * 3, np.arange(prior.steps.shape[-1])).exp()
    if len(scans) > 1:
        total = torch.zeros(scans[0].frequency.shape)
        for scan in scans:
            total += scan.frequency
        return total
    frequency = scans[0].frequency.float()
    return (frequency.amax(dim=(0, 1, 2), keepdim=True) > 0).float().expand_as(frequency).contiguous()


def own_frequency(scan: LabelledScan, scans: list[LabelledScan], prior: Prior | None = None) -> Tensor | None:
    """What a scan added to the `total_frequency`, to be taken out again when it is trained on."""
    return scan.frequency if len(scans) > 1 and prior is None else None


def build_prior(scans: list[LabelledScan]) -> Prior:
    """The label frequencies of all scans as the prior that ships with their networks."""
    total = total_frequency(scans)
    shares = total / total.sum(dim=-1, keepdim=True).clamp(min=1e-3 * len(scans))
    x, y, z = scans[0].channels.shape
    return Prior(quantize(np.asarray(shares)), (x, y, z))


def stored_identity(path: Path) -> str:
    """What a prepared file was made of; empty if it is absent or from another version."""
    if not path.is_file():
        return ""
    with np.load(path) as stored:
        return str(stored["identity"]) if "identity" in stored else ""


def save_arrays(path: Path, **arrays: Any) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(f"{path.stem}.part.npz")
    try:
        np.savez_compressed(partial, **arrays)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
