"""Labelled scans carried into template space once, kept on disk for every later step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from slant.errors import InputError
from slant.nets.prior import SPACING, Prior, quantize

SMOOTH_MM = 3.0
"""Gaussian smoothing of the labels before their frequencies are counted."""


@dataclass(frozen=True, eq=False)
class LabelledScan:
    """One training scan in template space.

    Attributes
    ----------
    name : str
    image : (X, Y, Z) float32 tensor
        Network units: 0 outside the brain, about 1 on average inside.
    channels : (X, Y, Z) uint8 tensor
        True channel of each voxel.
    frequency : (X/4, Y/4, Z/4, C) float16 tensor
        Its labels as smoothed shares of 4 mm cells.
    """

    name: str
    image: Tensor
    channels: Tensor
    frequency: Tensor


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


def load_scans(folder: Path, names: list[str], channel_count: int) -> list[LabelledScan]:
    """The prepared scans of the given names, with their label frequencies.

    Raises
    ------
    InputError
        If a scan has not been prepared.
    """
    scans = []
    for name in names:
        path = folder / f"{name}.npz"
        if not path.is_file():
            raise InputError(f"no prepared scan {path}; run the preparation of `slant train` first")
        with np.load(path) as stored:
            image, channels = stored["image"].astype(np.float32), stored["channels"]
        frequency = _cached_frequency(path.with_suffix(".freq.npz"), channels, channel_count)
        scans.append(
            LabelledScan(name, torch.from_numpy(image), torch.from_numpy(channels), torch.from_numpy(frequency))
        )
    return scans


def _cached_frequency(path: Path, channels: NDArray[np.uint8], channel_count: int) -> NDArray[np.float16]:
    if path.is_file():
        with np.load(path) as stored:
            cached: NDArray[np.float16] = stored["frequency"]
        return cached
    made = label_frequency(channels, channel_count)
    partial = path.with_name(f"{path.stem}.part.npz")
    np.savez_compressed(partial, frequency=made)
    partial.replace(path)
    return made


def label_frequency(channels: NDArray[np.uint8], channel_count: int) -> NDArray[np.float16]:
    """(X/4, Y/4, Z/4, C) float16 share of each channel around the middle of each 4 mm cell, smoothed by 3 mm."""
    shape = channels.shape
    cells = tuple(-(-n // SPACING) for n in shape)
    out = np.zeros((*cells, channel_count), dtype=np.float16)
    pad = [(0, c * SPACING - n) for c, n in zip(cells, shape, strict=True)]
    padded = np.pad(channels, pad)
    halves = padded.reshape(cells[0] * 2, SPACING // 2, cells[1] * 2, SPACING // 2, cells[2] * 2, SPACING // 2)
    for channel in range(1, channel_count):
        share = (halves == channel).mean(axis=(1, 3, 5), dtype=np.float32)
        if not share.any():
            continue
        smooth = ndimage.gaussian_filter(share, SMOOTH_MM / 2, truncate=5.0)
        out[..., channel] = smooth.reshape(cells[0], 2, cells[1], 2, cells[2], 2).mean(axis=(1, 3, 5))
    out[..., 0] = np.clip(1 - out[..., 1:].sum(axis=-1, dtype=np.float32), 0, 1)
    return out


def build_prior(scans: list[LabelledScan]) -> Prior:
    """The label frequencies of all scans as the prior that ships with their networks."""
    total = sum(scan.frequency.float() for scan in scans) / len(scans)
    x, y, z = scans[0].channels.shape
    return Prior(quantize(np.asarray(total)), (x, y, z))
