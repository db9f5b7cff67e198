"""What scanners, people and pipelines do to a T1-weighted scan, imitated at three strengths on a scan with labels.

Every disturbance takes the skull-stripped `Volume`, its `LabelMap`, a strength and a random generator, and returns both
on one grid, so that the labels stay true. Intensities are relative to the 98th percentile of the brain.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from slant.grid import Grid
from slant.io.resources import load_protocol
from slant.resample import IDENTITY, pick_labels, resample
from slant.train.anatomy import widened_places
from slant.train.augment import pick_labels as pick_channels
from slant.train.augment import sample_image
from slant.train.data import LabelledScan
from slant.train.step import regions_of
from slant.volume import LabelMap, Volume

Pair = tuple[Volume, LabelMap]
Image = NDArray[np.float32]


def _changed(scan: Volume, data: Image) -> Volume:
    """The scan with other intensities inside its brain, 0 outside and nowhere else."""
    brain = scan.data > 0
    return Volume(np.where(brain, np.maximum(data, 1e-3), 0).astype(np.float32), scan.grid)


def _top(scan: Volume) -> float:
    return float(np.percentile(scan.data[scan.data > 0], 98))


def _smooth(shape: tuple[int, ...], sigma: float, random: Generator) -> Image:
    """Smooth field with standard deviation 1."""
    zoom = 4
    small = ndimage.gaussian_filter(random.standard_normal([n // zoom + 2 for n in shape]), sigma / zoom)
    field = ndimage.zoom(small / small.std(), zoom, order=1)
    x, y, z = shape
    return field[:x, :y, :z].astype(np.float32)


def noise(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> Pair:
    """Rician noise; strength is its standard deviation as a share of white matter."""
    sigma = strength * _top(scan)
    real = scan.data + sigma * random.standard_normal(scan.data.shape)
    return _changed(scan, np.hypot(real, sigma * random.standard_normal(scan.data.shape))), labels


def bias(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> Pair:
    """A smooth field from 1 - strength to 1 + strength."""
    field = _smooth(scan.data.shape, 40, random)
    return _changed(scan, scan.data * (1 + strength * field / np.abs(field).max())), labels


def ghosting(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> Pair:
    """Copies a third of the field of view away, that share as bright, as periodic motion makes."""
    axis = int(random.integers(3))
    ghost = np.roll(scan.data, scan.data.shape[axis] // 3, axis) + np.roll(scan.data, -scan.data.shape[axis] // 3, axis)
    return _changed(scan, (1 - strength) * scan.data + strength * ghost), labels


def blur(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> Pair:  # noqa: ARG001
    """A Gaussian of that standard deviation in mm."""
    return _changed(scan, ndimage.gaussian_filter(scan.data, [strength / mm for mm in scan.grid.voxel_size_mm])), labels


def contrast(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> Pair:  # noqa: ARG001
    """Intensities to the power of ``strength``: below 1 gray and white matter come nearer, above 1 they part."""
    top = _top(scan)
    return _changed(scan, top * (scan.data / top) ** strength), labels


def thick_slices(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> Pair:  # noqa: ARG001
    """Slices of that many mm along z, the mean of what they cover, each around a voxel whose labels it gets."""
    step = strength / scan.grid.voxel_size_mm[2]
    first = int(step / 2)
    count = int((scan.grid.shape[2] - 1 - first) / step) + 1
    matrix = scan.grid.ras_from_voxel @ np.diag([1, 1, step, 1.0])
    matrix[:3, 3] = (scan.grid.ras_from_voxel @ [0, 0, first, 1])[:3]
    grid = Grid((*scan.grid.shape[:2], count), matrix)
    reach = np.arange(-first - 1, first + 2)
    covered = np.clip((step + 1) / 2 - np.abs(reach), 0, 1) / step
    mean = Volume(ndimage.convolve1d(scan.data, covered, axis=2, mode="nearest"), scan.grid)
    moved, picked = resample(mean, grid, source_from_target=IDENTITY), pick_labels(labels, grid, IDENTITY)
    inside = pick_labels(LabelMap((scan.data > 0).astype(np.uint8), scan.grid), grid, IDENTITY)
    return Volume(np.where(inside.data, np.maximum(moved.data, 1e-3), 0).astype(np.float32), grid), picked


def fine_voxels(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> Pair:  # noqa: ARG001
    """Cubic voxels of that many mm, interpolated."""
    factor = [strength / mm for mm in scan.grid.voxel_size_mm]
    shape = tuple(int(n / f) for n, f in zip(scan.grid.shape, factor, strict=True))
    grid = Grid(shape, scan.grid.ras_from_voxel @ np.diag([*factor, 1.0]))  # type: ignore[arg-type]
    moved, picked = resample(scan, grid, source_from_target=IDENTITY), pick_labels(labels, grid, IDENTITY)
    inside = pick_labels(LabelMap((scan.data > 0).astype(np.uint8), scan.grid), grid, IDENTITY)
    return Volume(np.where(inside.data, np.maximum(moved.data, 1e-3), 0).astype(np.float32), grid), picked


def tight_mask(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> Pair:  # noqa: ARG001
    """That many voxels of the brain's rim set to 0."""
    brain = ndimage.binary_erosion(scan.data > 0, iterations=round(strength))
    return Volume(np.where(brain, scan.data, 0).astype(np.float32), scan.grid), labels


def loose_mask(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> Pair:
    """That many voxels of tissue around the brain, as bright as skin, fat or dura, in patches."""
    brain = scan.data > 0
    rim = ndimage.binary_dilation(brain, iterations=round(strength)) & ~brain
    tissue = _top(scan) * np.clip(0.5 + 0.3 * _smooth(brain.shape, 4, random), 0.05, 1.5)
    rim &= _smooth(brain.shape, 20, random) > -0.5
    return Volume(np.where(rim, tissue, scan.data).astype(np.float32), scan.grid), labels


def tilt(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> Pair:
    """The head turned by that many degrees about a random axis."""
    axis = random.standard_normal(3)
    a, b, c = axis / np.linalg.norm(axis) * np.deg2rad(strength)
    turn = np.eye(4)
    turn[:3, :3] = np.asarray(torch.matrix_exp(torch.tensor([[0, -c, b], [c, 0, -a], [-b, a, 0]])))
    middle = (scan.grid.ras_from_voxel @ [*(np.array(scan.grid.shape) / 2), 1])[:3]
    turn[:3, 3] = middle - turn[:3, :3] @ middle
    inside = pick_labels(LabelMap((scan.data > 0).astype(np.uint8), scan.grid), scan.grid, turn)
    moved = resample(scan, scan.grid, source_from_target=turn)
    data = np.where(inside.data, np.maximum(moved.data, 1e-3), 0).astype(np.float32)
    return Volume(data, scan.grid), pick_labels(labels, scan.grid, turn)


def lesions(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> Pair:
    """Spots of the white matter half way to black; strength is the share of white matter they cover."""
    white = np.isin(labels.data, [r.id for r in load_protocol().regions if r.tissue == "white"])
    field = _smooth(scan.data.shape, 4, random)
    level = np.quantile(field[white], 1 - strength)
    depth = ndimage.gaussian_filter((white & (field > level)).astype(np.float32), 0.7)
    return _changed(scan, scan.data * (1 - 0.45 * depth)), labels


def wide_ventricles(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> Pair:
    """Walls of ventricles that many mm, and of sulci a quarter of it, apart, by the deformation that training uses."""
    protocol = load_protocol()
    channels = torch.from_numpy(protocol.channels_from_ids(labels.data, unknown="background").copy())
    image = torch.from_numpy(scan.data.copy())
    labelled = LabelledScan("scan", image, channels, torch.zeros(0))
    axes = [torch.arange(n, dtype=torch.float32) for n in scan.grid.shape]
    still = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    fluid, generator = regions_of(protocol, ()).fluid, torch.Generator().manual_seed(int(random.integers(1 << 30)))
    places = widened_places(still, labelled, fluid, (strength, strength / 4), generator)
    moved = np.asarray(sample_image(image, places))
    ids = protocol.ids_from_channels(np.asarray(pick_channels(channels, places)))
    inside = np.asarray(pick_channels((image > 0).to(torch.uint8), places)) > 0
    data = np.where(inside, np.maximum(moved, 1e-3), 0).astype(np.float32)
    return Volume(data, scan.grid), LabelMap(ids.astype(np.uint8), scan.grid)


DISTURBANCES: dict[
    str, tuple[Callable[[Volume, LabelMap, float, Generator], Pair], tuple[float, float, float], str]
] = {
    "noise": (noise, (0.02, 0.05, 0.1), "of white matter"),
    "bias": (bias, (0.2, 0.4, 0.6), "at most"),
    "ghosting": (ghosting, (0.03, 0.07, 0.12), "of the image"),
    "blur": (blur, (0.5, 0.8, 1.2), "mm"),
    "low contrast": (contrast, (0.85, 0.7, 0.55), "exponent"),
    "high contrast": (contrast, (1.2, 1.4, 1.7), "exponent"),
    "thick slices": (thick_slices, (2.0, 3.0, 5.0), "mm"),
    "fine voxels": (fine_voxels, (0.9, 0.8, 0.7), "mm"),
    "tight mask": (tight_mask, (1.0, 2.0, 3.0), "voxels"),
    "loose mask": (loose_mask, (2.0, 4.0, 6.0), "voxels"),
    "tilt": (tilt, (5.0, 15.0, 30.0), "degrees"),
    "lesions": (lesions, (0.02, 0.05, 0.1), "of white matter"),
    "wide ventricles": (wide_ventricles, (3.0, 6.0, 9.0), "mm"),
}
"""Each with its strengths: weak, middle, strong."""
