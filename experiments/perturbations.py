"""Perturbations that imitate scanners, subjects and pipelines, at three strengths, for T1-weighted scans with labels.

Used by ablation.py and by benchmarks/quality.py. Each perturbation takes a skull-stripped `Volume`, its `LabelMap`, a
strength and a random generator, and returns scan and labels on one grid, so that the labels stay true. Intensities are
relative to the 98th percentile of the brain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from slant.grid import Grid, Matrix
from slant.io.resources import load_protocol
from slant.resample import IDENTITY, pick_labels, resample
from slant.train.anatomical import Widening, dilate_csf
from slant.train.augment import pick_labels as pick_channels
from slant.train.augment import sample_image
from slant.train.context import regions_of
from slant.train.data import LabelledScan
from slant.volume import LabelMap, Volume

Image = NDArray[np.float32]
LabelledVolume = tuple[Volume, LabelMap]


def with_data(scan: Volume, data: Image) -> Volume:
    """The scan with other intensities, above 0 inside its brain and 0 outside."""
    return Volume(np.where(scan.data > 0, np.maximum(data, 1e-3), 0).astype(np.float32), scan.grid)


def brain_intensity(scan: Volume) -> float:
    """98th percentile of the intensities of the brain."""
    return float(np.percentile(scan.data[scan.data > 0], 98))


def smooth_field(shape: tuple[int, ...], sigma: float, random: Generator) -> Image:
    """(X, Y, Z) float32 smooth random field with a standard deviation of 1."""
    zoom = 4
    small = ndimage.gaussian_filter(random.standard_normal([n // zoom + 2 for n in shape]), sigma / zoom)
    field = ndimage.zoom(small / small.std(), zoom, order=1)
    x, y, z = shape
    return field[:x, :y, :z].astype(np.float32)


def resampled(
    image: Volume, scan: Volume, labels: LabelMap, grid: Grid, source_from_target: Matrix = IDENTITY
) -> LabelledVolume:
    """Image and labels on another grid, with the brain where that of the scan is."""
    brain = LabelMap((scan.data > 0).astype(np.uint8), scan.grid)
    inside = pick_labels(brain, grid, source_from_target)
    data = resample(image, grid, source_from_target=source_from_target).data
    data = np.where(inside.data, np.maximum(data, 1e-3), 0).astype(np.float32)
    return Volume(data, grid), pick_labels(labels, grid, source_from_target)


def noise(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> LabelledVolume:
    """Rician noise; ``strength`` is its standard deviation as a fraction of white matter."""
    sigma = strength * brain_intensity(scan)
    real = scan.data + sigma * random.standard_normal(scan.data.shape)
    return with_data(scan, np.hypot(real, sigma * random.standard_normal(scan.data.shape))), labels


def bias_field(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> LabelledVolume:
    """A smooth bias field from 1 - strength to 1 + strength."""
    field = smooth_field(scan.data.shape, 40, random)
    return with_data(scan, scan.data * (1 + strength * field / np.abs(field).max())), labels


def ghosting(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> LabelledVolume:
    """Copies a third of the field of view away with that fraction of the intensity, as from periodic motion."""
    axis = int(random.integers(3))
    ghost = np.roll(scan.data, scan.data.shape[axis] // 3, axis) + np.roll(scan.data, -scan.data.shape[axis] // 3, axis)
    return with_data(scan, (1 - strength) * scan.data + strength * ghost), labels


def blur(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> LabelledVolume:  # noqa: ARG001
    """A Gaussian blur with that standard deviation in mm."""
    sigma = [strength / mm for mm in scan.grid.voxel_size_mm]
    return with_data(scan, ndimage.gaussian_filter(scan.data, sigma)), labels


def contrast(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> LabelledVolume:  # noqa: ARG001
    """Intensities to the power of ``strength``: less contrast of gray and white matter below 1, more above 1."""
    top = brain_intensity(scan)
    return with_data(scan, top * (scan.data / top) ** strength), labels


def thick_slices(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> LabelledVolume:  # noqa: ARG001
    """Slices of that many mm along z: the mean of the voxels that they cover, with the labels of the central voxel."""
    step = strength / scan.grid.voxel_size_mm[2]
    first = int(step / 2)
    count = int((scan.grid.shape[2] - 1 - first) / step) + 1
    matrix = scan.grid.ras_from_voxel @ np.diag([1, 1, step, 1.0])
    matrix[:3, 3] = (scan.grid.ras_from_voxel @ [0, 0, first, 1])[:3]
    offsets = np.arange(-first - 1, first + 2)
    weights = np.clip((step + 1) / 2 - np.abs(offsets), 0, 1) / step
    mean = Volume(ndimage.convolve1d(scan.data, weights, axis=2, mode="nearest"), scan.grid)
    return resampled(mean, scan, labels, Grid((*scan.grid.shape[:2], count), matrix))


def small_voxels(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> LabelledVolume:  # noqa: ARG001
    """Isotropic voxels of that many mm, interpolated."""
    factor = [strength / mm for mm in scan.grid.voxel_size_mm]
    shape = tuple(int(n / f) for n, f in zip(scan.grid.shape, factor, strict=True))
    grid = Grid(shape, scan.grid.ras_from_voxel @ np.diag([*factor, 1.0]))  # type: ignore[arg-type]
    return resampled(scan, scan, labels, grid)


def tight_mask(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> LabelledVolume:  # noqa: ARG001
    """That many voxels at the border of the brain set to 0."""
    brain = ndimage.binary_erosion(scan.data > 0, iterations=round(strength))
    return Volume(np.where(brain, scan.data, 0).astype(np.float32), scan.grid), labels


def loose_mask(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> LabelledVolume:
    """That many voxels of tissue around the brain, as bright as skin, fat or dura, in patches."""
    brain = scan.data > 0
    border = ndimage.binary_dilation(brain, iterations=round(strength)) & ~brain
    tissue = brain_intensity(scan) * np.clip(0.5 + 0.3 * smooth_field(brain.shape, 4, random), 0.05, 1.5)
    border &= smooth_field(brain.shape, 20, random) > -0.5
    return Volume(np.where(border, tissue, scan.data).astype(np.float32), scan.grid), labels


def rotation(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> LabelledVolume:
    """The head rotated by that many degrees about a random axis."""
    axis = random.standard_normal(3)
    a, b, c = axis / np.linalg.norm(axis) * np.deg2rad(strength)
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(torch.matrix_exp(torch.tensor([[0, -c, b], [c, 0, -a], [-b, a, 0]])))
    center = (scan.grid.ras_from_voxel @ [*(np.array(scan.grid.shape) / 2), 1])[:3]
    matrix[:3, 3] = center - matrix[:3, :3] @ center
    return resampled(scan, scan, labels, scan.grid, matrix)


def lesions(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> LabelledVolume:
    """Spots of white matter with about half of the intensity; ``strength`` is the fraction of white matter covered."""
    white = np.isin(labels.data, [r.id for r in load_protocol().regions if r.tissue == "white"])
    field = smooth_field(scan.data.shape, 4, random)
    threshold = np.quantile(field[white], 1 - strength)
    depth = ndimage.gaussian_filter((white & (field > threshold)).astype(np.float32), 0.7)
    return with_data(scan, scan.data * (1 - 0.45 * depth)), labels


def wide_ventricles(scan: Volume, labels: LabelMap, strength: float, random: Generator) -> LabelledVolume:
    """Ventricles wider by that many mm and sulci by a quarter of it, with the deformation that training uses."""
    protocol = load_protocol()
    channels = torch.from_numpy(protocol.channels_from_ids(labels.data, unknown="background").copy())
    image = torch.from_numpy(scan.data.copy())
    labelled = LabelledScan("scan", image, channels, torch.zeros(0))
    axes = [torch.arange(n, dtype=torch.float32) for n in scan.grid.shape]
    identity = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    csf, generator = regions_of(protocol).csf, torch.Generator().manual_seed(int(random.integers(1 << 30)))
    coordinates = dilate_csf(identity, labelled, csf, Widening(strength, strength / 4), generator)
    warped = np.asarray(sample_image(image, coordinates))
    ids = protocol.ids_from_channels(np.asarray(pick_channels(channels, coordinates)))
    inside = np.asarray(pick_channels((image > 0).to(torch.uint8), coordinates)) > 0
    data = np.where(inside, np.maximum(warped, 1e-3), 0).astype(np.float32)
    return Volume(data, scan.grid), LabelMap(ids.astype(np.uint8), scan.grid)


@dataclass(frozen=True)
class Perturbation:
    """A perturbation with its strengths.

    Attributes
    ----------
    apply : callable
        Scan and labels from scan, labels, strength and generator.
    strengths : tuple of 3 float
        Weak, medium, strong.
    unit : str
        What the strengths are measured in.
    seed_name : str
        Part of the seed of the generator. The published figures depend on it, so it must not change.
    """

    apply: Callable[[Volume, LabelMap, float, Generator], LabelledVolume]
    strengths: tuple[float, float, float]
    unit: str
    seed_name: str


PERTURBATIONS = {
    "noise": Perturbation(noise, (0.02, 0.05, 0.1), "of white matter", "noise"),
    "bias field": Perturbation(bias_field, (0.2, 0.4, 0.6), "at most", "bias"),
    "ghosting": Perturbation(ghosting, (0.03, 0.07, 0.12), "of the image", "ghosting"),
    "blur": Perturbation(blur, (0.5, 0.8, 1.2), "mm", "blur"),
    "low contrast": Perturbation(contrast, (0.85, 0.7, 0.55), "exponent", "low contrast"),
    "high contrast": Perturbation(contrast, (1.2, 1.4, 1.7), "exponent", "high contrast"),
    "thick slices": Perturbation(thick_slices, (2.0, 3.0, 5.0), "mm", "thick slices"),
    "small voxels": Perturbation(small_voxels, (0.9, 0.8, 0.7), "mm", "fine voxels"),
    "tight mask": Perturbation(tight_mask, (1.0, 2.0, 3.0), "voxels", "tight mask"),
    "loose mask": Perturbation(loose_mask, (2.0, 4.0, 6.0), "voxels", "loose mask"),
    "rotation": Perturbation(rotation, (5.0, 15.0, 30.0), "degrees", "tilt"),
    "lesions": Perturbation(lesions, (0.02, 0.05, 0.1), "of white matter", "lesions"),
    "wide ventricles": Perturbation(wide_ventricles, (3.0, 6.0, 9.0), "mm", "wide ventricles"),
}
