"""Simulated visits of a subject: other positions in the scanner, fresh noise, other bias fields, and known change.

Used by `benchmarks/longitudinal.py`. Each visit is interpolated once from the original scan, by cubic splines, so that
all visits are equally smooth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from slant.displacement import CompositeTransform, DisplacementField
from slant.grid import Grid, Matrix
from slant.resample import IDENTITY
from slant.volume import LabelMap, Volume

FIELD_MM = 4.0
"""Edge length of the voxels on which fields of change are made."""

SMOOTH_MM = 20.0
"""Standard deviation of the Gaussian that makes fields of change smooth."""


@dataclass(frozen=True)
class Conditions:
    """How much the visits differ.

    Attributes
    ----------
    rotation_deg, translation_mm : float
        Rotation about a random axis and translation in a random direction, each half of it to either side.
    noise : float
        Standard deviation of the Rician noise, as a fraction of the brightest tissue.
    bias : float
        Standard deviation of the logarithm of the bias field.
    gain : float
        Standard deviation of the logarithm of the brightness.
    """

    rotation_deg: float = 5.0
    translation_mm: float = 4.0
    noise: float = 0.02
    bias: float = 0.08
    gain: float = 0.1


@dataclass(frozen=True, eq=False)
class SimulatedVisit:
    """A visit with the affine (RAS mm) from its space to that of the original scan."""

    scan: Volume
    original_from_visit: Matrix


def visit(
    scan: Volume, random: np.random.Generator, conditions: Conditions, change: DisplacementField | None = None
) -> SimulatedVisit:
    """Simulate one visit.

    Parameters
    ----------
    scan : Volume
        Original scan; zeros are the background of a skull-stripped one if they are more than 30 % of the voxels.
    change : DisplacementField, optional
        Field from each point of the changed head to the point of the original one, in RAS mm.
    """
    center = np.eye(4)
    center[:3, 3] = scan.grid.center_ras_mm
    original_from_visit = center @ _motion(random, conditions) @ np.linalg.inv(center)
    coordinates = CompositeTransform(original_from_visit, change, IDENTITY).voxels(scan.grid, scan.grid)
    data = ndimage.map_coordinates(scan.data, coordinates, order=3, mode="grid-constant")
    ceiling = float(np.percentile(scan.data[scan.data > 0], 99))
    data = np.clip(data, 0, None) * np.exp(_smooth_noise(scan.grid, random, 40.0) * conditions.bias)
    sigma = conditions.noise * ceiling
    noisy = np.hypot(data + sigma * random.standard_normal(data.shape), sigma * random.standard_normal(data.shape))
    if (scan.data == 0).mean() > 0.3:  # skull-stripped
        brain = (scan.data > 0).astype(np.float32)
        noisy = np.where(ndimage.map_coordinates(brain, coordinates, order=1) > 0.5, noisy, 0)
    noisy *= np.exp(conditions.gain * random.standard_normal())
    return SimulatedVisit(Volume(noisy.astype(np.float32), scan.grid), original_from_visit)


def _motion(random: np.random.Generator, conditions: Conditions) -> Matrix:
    axis, direction = random.standard_normal((2, 3))
    motion = np.eye(4)
    angle = np.deg2rad(conditions.rotation_deg) / 2
    motion[:3, :3] = Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle).as_matrix()
    motion[:3, 3] = direction / np.linalg.norm(direction) * conditions.translation_mm / 2
    return motion


def _smooth_noise(grid: Grid, random: np.random.Generator, smooth_mm: float) -> NDArray[np.float64]:
    """Gaussian random field with a standard deviation of 1."""
    coarse = grid.with_voxels_mm(FIELD_MM)
    noise = ndimage.gaussian_filter(random.standard_normal(coarse.shape), smooth_mm / FIELD_MM, mode="reflect")
    values = Volume((noise / noise.std()).astype(np.float32), coarse)
    voxels = CompositeTransform(IDENTITY, None, IDENTITY).voxels(grid, coarse)
    return np.asarray(ndimage.map_coordinates(values.data, voxels, order=1, mode="nearest"), dtype=np.float64)


def change_field(grid: Grid, random: np.random.Generator, percent: float) -> DisplacementField:
    """A smooth random field whose Jacobian determinant has a standard deviation of some percent."""
    coarse = grid.with_voxels_mm(FIELD_MM)
    noise = random.standard_normal((3, *coarse.shape))
    field = np.stack([ndimage.gaussian_filter(part, SMOOTH_MM / FIELD_MM, mode="constant") for part in noise])
    field *= percent / 100 / (determinant(DisplacementField(field, coarse)).std())
    return DisplacementField(field.astype(np.float32), coarse)


def local_change(labels: LabelMap, percent: dict[int, float]) -> DisplacementField:
    """A smooth field that shrinks some regions by about some percent of their volumes, with an effect beyond them.

    Parameters
    ----------
    labels : LabelMap
        Regions of the original scan.
    percent : dict of int to float
        Percentage by which each region id shrinks.
    """
    coarse = labels.grid.with_voxels_mm(FIELD_MM)
    points = np.moveaxis(np.indices(coarse.shape), 0, -1).reshape(-1, 3)
    world = (points @ coarse.ras_from_voxel[:3, :3].T + coarse.ras_from_voxel[:3, 3]).reshape(*coarse.shape, 3)
    field = np.zeros((3, *coarse.shape))
    for region, shrinkage in percent.items():
        voxels = np.argwhere(labels.data == region)
        center = voxels.mean(axis=0) @ labels.grid.ras_from_voxel[:3, :3].T + labels.grid.ras_from_voxel[:3, 3]
        radius = (len(voxels) * labels.grid.voxel_volume_mm3) ** (1 / 3)
        offset = world - center
        falloff = np.exp(-0.5 * (offset**2).sum(axis=-1) / radius**2)
        field += shrinkage / 100 / 3 * np.moveaxis(offset * falloff[..., None], -1, 0)
    return DisplacementField(field.astype(np.float32), coarse)


def determinant(field: DisplacementField) -> NDArray[np.float64]:
    """Jacobian determinant of a field at the voxels of its grid."""
    inverse = np.linalg.inv(field.grid.ras_from_voxel[:3, :3])
    slopes = np.stack([np.stack(np.gradient(part)) for part in field.displacement_mm.astype(np.float64)])  # (3, 3, ...)
    jacobian = np.moveaxis(np.einsum("ca...,ab->cb...", slopes, inverse), (0, 1), (-2, -1)) + np.eye(3)
    return np.asarray(np.linalg.det(jacobian), dtype=np.float64)


def true_log_ratios(labels: LabelMap, change: DisplacementField, ids: list[int]) -> NDArray[np.float64]:
    """Logarithm of the changed volume over the original volume of each region of the original scan.

    The field leads from the changed head to the original one, so a piece of the original is 1 / determinant as large
    afterwards, with the determinant at the changed point.
    """
    inverse = DisplacementField(-change.displacement_mm, change.grid)  # the first step of a fixed-point iteration
    for _ in range(3):
        points = CompositeTransform(IDENTITY, inverse, IDENTITY).voxels(change.grid, change.grid)
        at = [-ndimage.map_coordinates(part, points, order=1, mode="nearest") for part in change.displacement_mm]
        inverse = DisplacementField(np.stack(at), change.grid)
    voxels = CompositeTransform(IDENTITY, inverse, IDENTITY).voxels(labels.grid, change.grid)
    shrunk = ndimage.map_coordinates(1 / determinant(change), voxels, order=1, mode="nearest")
    return np.log(ndimage.mean(shrunk, labels.data, ids))
