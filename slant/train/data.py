"""Labelled scans in template space, loaded from the files of the preparation, and the prior that they form."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from slant.errors import InputError
from slant.io.prepared import load_arrays
from slant.nets.prior import SPACING, Prior, quantize
from slant.sparse_votes import SparseVotes
from slant.train.loss import IGNORED
from slant.train.stage_settings import GroupwiseSettings
from slant.volume import Volume

SMOOTH_MM = 3.0
"""Standard deviation in mm of the Gaussian smoothing of the labels before their frequencies are counted."""

SMOOTHING_CELLS = 4
"""Number of cells of 4 mm to which the smoothing extends."""

NEAR = 4
"""Distance in voxels from a label within which a patch may be centered: half a patch."""


@dataclass(frozen=True, eq=False)
class LabelledScan:
    """One training scan in template space.

    Attributes
    ----------
    image : (X, Y, Z) float32 tensor
        Image in network units: 0 outside the brain, about 1 on average inside.
    channels : (X, Y, Z) uint8 tensor
        Reference channel of each voxel; `IGNORED` for voxels that nobody has labelled.
    frequency : (X/4, Y/4, Z/4, C) float16 tensor
        Smoothed fraction of each channel in each cell of 4 mm.
    near : (X, Y, Z) uint8 tensor, optional
        Channel of the nearest labelled voxel up to `NEAR` voxels away; None if all voxels are labelled.
    covered : (C,) bool tensor, optional
        Whether the labels cover each channel; None if they cover all regions.
    weights : (C,) float32 tensor, optional
        Weight of the voxels of each channel in the loss, from the expected Dice of automatic labels; None: all have 1.
    earlier : SparseVotes, optional
        Result of the earlier assembly, if the networks that are trained take one.
    earlier_tensors : tuple of 3 uint8 tensors, optional
        The channels, counts and totals of ``earlier``, see `slant.train.on_device.scan_on`.
    """

    name: str
    image: Tensor
    channels: Tensor
    frequency: Tensor
    near: Tensor | None = None
    covered: Tensor | None = None
    weights: Tensor | None = None
    earlier: SparseVotes | None = None
    earlier_tensors: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, eq=False)
class Groupwise:
    """The groupwise template of a run, with the displacement of every scan.

    Attributes
    ----------
    mean : Volume
        Mean image of 2 mm voxels.
    votes : (X/2, Y/2, Z/2, C) tensor
        Number of votes of the scans that make the template.
    displacements : dict of str to (3, X/2, Y/2, Z/2) float32 tensor
        For every scan, the displacement in template voxels from the scan to the groupwise template.
    own : dict of str to tuple of (X/2, Y/2, Z/2, 8) uint8 tensors
        For every scan, the votes of all scans of the same subject, which its prior leaves out.
    """

    mean: Volume
    votes: Tensor
    displacements: dict[str, Tensor]
    own: dict[str, tuple[Tensor, ...]]
    settings: GroupwiseSettings


def labelled_names(folder: Path) -> list[str]:
    """Sorted names of the scans of a folder, which contains ``NAME_T1w.nii.gz`` and ``NAME_dseg.nii.gz`` of each.

    Raises
    ------
    InputError
        If there are no scans, or a scan has no labels.
    """
    scans = sorted(path.name.removesuffix("_T1w.nii.gz") for path in folder.glob("*_T1w.nii.gz"))
    labels = {path.name.removesuffix("_dseg.nii.gz") for path in folder.glob("*_dseg.nii.gz")}  # broken links too
    unlabelled = [name for name in scans if name not in labels]
    if not scans or unlabelled:
        found = f"no labels for {', '.join(unlabelled)}" if unlabelled else "no *_T1w.nii.gz"
        raise InputError(f"{folder}: found {found}, expected pairs of NAME_T1w.nii.gz and NAME_dseg.nii.gz")
    return scans


def load_scans(
    images: Path, labels: Path, names: list[str], covered: Mapping[str, Tensor | None]
) -> list[LabelledScan]:
    """Load prepared scans with their label frequencies.

    Parameters
    ----------
    images, labels : Path
        Folders of prepared scans, see `slant.io.prepared.prepared_scan`, and of ``NAME.labels.npz``.
    covered : mapping of str to (C,) bool tensor
        Channels that the labels of a scan cover; None for all.

    Raises
    ------
    InputError
        If a scan has not been prepared.
    """
    scans = []
    for name in names:
        path, known = labels / f"{name}.labels.npz", ("channels", "frequency", "scan_sha256")
        stored = load_stored(path, "prepared scan", "prepare", known) | (load_arrays(path, ("weights",)) or {})
        image = load_stored(images / f"{stored['scan_sha256']}.npz", "prepared scan", "prepare", ("image",))["image"]
        channels, frequency = stored["channels"], torch.from_numpy(stored["frequency"])
        near = nearest_labels(channels) if (channels == IGNORED).any() else None
        tensors = torch.from_numpy(image.astype(np.float32)), torch.from_numpy(channels), frequency
        weights = torch.from_numpy(stored["weights"]) if "weights" in stored else None
        scans.append(LabelledScan(name, *tensors, near, covered.get(name), weights))
    return _balance_coverage(scans)


def expected_dice_file(folder: Path, name: str) -> Path:
    """Table with the expected Dice of the regions of an automatically labelled scan; it may be missing."""
    return folder / f"{name}_expected_dice.tsv"


def load_stored(path: Path, content: str, stage: str, names: Collection[str] | None = None) -> dict[str, Any]:
    """Load arrays, by default all, of a file that a stage has written; ``content`` is named in the error message.

    Raises
    ------
    InputError
        If the file does not exist, is damaged or lacks an array.
    """
    arrays = load_arrays(path, names)
    if arrays is None:
        problem = "is damaged or outdated" if path.exists() else "does not exist"
        raise InputError(f"{content} {path} {problem}; run the stage {stage} of `slant train` first")
    return arrays


def nearest_labels(channels: NDArray[np.uint8]) -> Tensor:
    """(X, Y, Z) uint8 channel of the nearest labelled voxel, `IGNORED` where it is more than `NEAR` voxels away."""
    distance, index = ndimage.distance_transform_edt(channels == IGNORED, return_indices=True)
    near: NDArray[np.uint8] = channels[tuple(index)]
    near[distance > NEAR] = IGNORED
    return torch.from_numpy(near)


def _balance_coverage(scans: list[LabelledScan]) -> list[LabelledScan]:
    """The scans with frequencies scaled as if all scans covered every region.

    The regions of a scan with partial labels get a higher weight. Its background does not count, unless no scan covers
    all regions.
    """
    if all(scan.covered is None for scan in scans):
        return scans
    count = scans[0].frequency.shape[-1]
    everything = torch.ones(count, dtype=torch.bool)
    masks = [everything if scan.covered is None else scan.covered for scan in scans]
    any_complete = any(scan.covered is None for scan in scans)
    covering_scans = torch.stack(masks).sum(dim=0)
    scale = len(scans) / covering_scans.clamp(min=1)
    if not any_complete:
        scale[0] = 1.0
    balanced = []
    for scan, mask in zip(scans, masks, strict=True):
        used = mask.clone()
        used[0] = not any_complete or scan.covered is None
        frequency = (scan.frequency.float() * (scale * used)).to(torch.float16)
        balanced.append(replace(scan, frequency=frequency))
    return balanced


def label_frequency(channels: NDArray[np.uint8], channel_count: int) -> NDArray[np.float16]:
    """(X/4, Y/4, Z/4, C) float16 fraction of each channel around the center of each 4 mm cell, smoothed by 3 mm.

    The fractions of a cell sum to less than 1 if some of its voxels are `IGNORED`.
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
        # The cells around the region to which the smoothing extends.
        first = [max(0, s.start // SPACING - SMOOTHING_CELLS) for s in box]
        last = [min(n, -(-s.stop // SPACING) + SMOOTHING_CELLS) for s, n in zip(box, cells, strict=True)]
        voxels = tuple(slice(a * SPACING, b * SPACING) for a, b in zip(first, last, strict=True))
        x, y, z = (b - a for a, b in zip(first, last, strict=True))
        halves = (padded[voxels] == channel).reshape(x * 2, 2, y * 2, 2, z * 2, 2)
        smooth = ndimage.gaussian_filter(halves.mean(axis=(1, 3, 5), dtype=np.float32), SMOOTH_MM / 2, truncate=5.0)
        mean = smooth.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))
        cell_box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        out[(*cell_box, 0 if channel == IGNORED else channel)] = mean
    ignored = out[..., 0].astype(np.float32)
    out[..., 0] = np.clip(1 - ignored - out[..., 1:].sum(axis=-1, dtype=np.float32), 0, 1)
    return out


def total_frequency(scans: list[LabelledScan], prior: Prior | None = None) -> Tensor:
    """(X/4, Y/4, Z/4, C) float32 sum of the label frequencies of all scans.

    A single scan only gives the set of its regions, with the same value everywhere. If there is a ``prior``, its
    frequencies are returned instead.
    """
    if prior is not None:
        return prior.log_frequency_at((slice(None),) * 3, np.arange(prior.steps.shape[-1])).exp()
    if len(scans) > 1:
        total = torch.zeros_like(scans[0].frequency, dtype=torch.float32)
        for scan in scans:
            total += scan.frequency
        return total
    frequency = scans[0].frequency.float()
    return (frequency.amax(dim=(0, 1, 2), keepdim=True) > 0).float().expand_as(frequency).contiguous()


def own_frequency(scan: LabelledScan, scans: list[LabelledScan], prior: Prior | None = None) -> Tensor | None:
    """The contribution of a scan to `total_frequency`, which is subtracted when the network is trained on that scan."""
    return scan.frequency if len(scans) > 1 and prior is None else None


def build_prior(scans: list[LabelledScan]) -> Prior:
    """The prior of a model, from the label frequencies of all its training scans."""
    total = total_frequency(scans)
    frequency = total / total.sum(dim=-1, keepdim=True).clamp(min=1e-3 * len(scans))
    x, y, z = scans[0].channels.shape
    return Prior(quantize(np.asarray(frequency)), (x, y, z))


@dataclass(frozen=True, eq=False)
class TrainingScans:
    """The scans of a run in template space.

    Attributes
    ----------
    manual, auxiliary, held_out : list of LabelledScan
        Training scans with manual labels, training scans with automatic labels, and scans for validation only.
    external_prior : Prior, optional
        Prior of another model, used instead of that of the scans.
    groupwise : Groupwise, optional
        Groupwise template, if the run uses the deformable atlas prior.
    """

    manual: list[LabelledScan]
    auxiliary: list[LabelledScan]
    held_out: list[LabelledScan]
    external_prior: Prior | None = None
    groupwise: Groupwise | None = None

    @property
    def training(self) -> list[LabelledScan]:
        """All training scans."""
        return [*self.manual, *self.auxiliary]

    @property
    def prior(self) -> Prior:
        """The external prior, or else the prior of all training scans."""
        return self.external_prior or build_prior(self.training)

    def prior_without(self, scan: LabelledScan) -> Prior:
        """The external prior, or else the prior of all training scans except one; of this one if it is the only one."""
        others = [other for other in self.training if other.name != scan.name]
        return self.external_prior or build_prior(others or self.training)
