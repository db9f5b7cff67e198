"""Visits of a subject with a small brain, and a small model: everything together takes less than a second.

The brain is an ellipsoid with known brightness at every point, so that each visit is made on its own grid without
interpolation. The prior of the model divides it into patches, between which its random networks decide.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from toy import toy_folder, toy_model

from slant.grid import Grid, Matrix, axis_aligned_grid, transform_points
from slant.nets.assembly import Assembly, manifest_entries
from slant.nets.groupwise import GroupwiseTemplate
from slant.nets.model import Model
from slant.nets.prior import SPACING, Prior
from slant.nets.unet import CompactUNet
from slant.nets.voxel_head import UNetSettings
from slant.nets.weights import read_model, write_model
from slant.sparse_votes import KEPT, SparseVotes, most_frequent
from slant.template import Template
from slant.tiles import TileLayout
from slant.volume import LabelMap, Volume
from slant.within_subject.visit import AlignedVisit

GRID = axis_aligned_grid((60, 72, 56), 1.0, (-29.5, -35.5, -27.5))
RADII_MM = np.array([22.0, 28.0, 20.0])
SETTINGS = UNetSettings(133, (4, 6), image_channels=2, head_channels=4)
LAYOUT = TileLayout(GRID.shape, (36, 40, 32), (2, 2, 2))


def centers(grid: Grid, space_from_ras: Matrix | None = None) -> np.ndarray:
    """(X, Y, Z, 3) points of the voxels of a grid, in RAS mm or in another space."""
    points = transform_points(grid.ras_from_voxel, np.indices(grid.shape).reshape(3, -1).T)
    return (points if space_from_ras is None else transform_points(space_from_ras, points)).reshape(*grid.shape, 3)


def in_brain(points: np.ndarray) -> np.ndarray:
    return ((points / RADII_MM) ** 2).sum(axis=-1) < 1


def brightness(points: np.ndarray, subject: int = 0) -> np.ndarray:
    """Intensity at (..., 3) points in template space: waves of 9 to 25 mm; 0 outside the brain."""
    random = np.random.default_rng(subject)
    total = np.zeros(points.shape[:-1])
    for length_mm in np.linspace(9, 25, 16):
        direction = random.standard_normal(3)
        total += np.sin(points @ (2 * np.pi / length_mm * direction / np.linalg.norm(direction)) + random.uniform(0, 6))
    return np.where(in_brain(points), np.clip(100 + 10 * total, 20, 200), 0)


def rigid(degrees: tuple[float, float, float], shift_mm: tuple[float, float, float]) -> Matrix:
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    motion[:3, 3] = shift_mm
    return motion


# The visits

MOTIONS = (rigid((4, -3, 5), (2, -1, 3)), rigid((-6, 2, 1), (-3, 0, 1)), rigid((1, 5, -4), (1, 4, -2)))
"""Position of the head in three visits."""
SCALING = np.diag([1.05, 0.97, 1.02, 1.0])
"""Size of the subject, relative to the template."""


@cache
def scan(visit: int, subject: int = 0) -> Volume:
    """The scan of a visit, with voxels of 1.3 mm along oblique axes and noise of its own."""
    matrix = rigid((3, 8, -5), (0, 0, 0)) @ np.diag([1.3, 1.3, 1.3, 1.0])
    shape = (50, 56, 46)
    matrix[:3, 3] -= matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    grid = Grid(shape, matrix)
    data = brightness(centers(grid, np.linalg.inv(MOTIONS[visit] @ SCALING)), subject)
    noise = np.random.default_rng(100 + visit).normal(0, 1, shape)
    return Volume(np.where(data > 0, np.clip(data + noise, 1, None), 0), grid)


def aligned(visit: int, subject: int = 0) -> AlignedVisit:
    """The visit with an affine that is wrong by about half a millimetre, other in each visit."""
    error = rigid((0.5 * visit - 0.4, 0.3, -0.4 * visit), (0.3 - 0.3 * visit, 0.2 * visit, -0.2))
    volume = scan(visit, subject)
    brain = LabelMap((volume.data > 0).astype(np.uint8), volume.grid)
    return AlignedVisit(brain, True, MOTIONS[visit] @ error @ SCALING, 0.95)


# The model


@cache
def _patches() -> np.ndarray:
    """Channel of every 4 mm cell: 0 outside the brain, else that of a patch of 3 x 3 x 3 cells."""
    coarse = GRID.with_voxels_mm(SPACING)
    x, y, z = np.indices(coarse.shape) // 3
    return np.where(in_brain(centers(coarse)), 1 + (36 * x + 6 * y + z) % 132, 0)


@cache
def model(*, groupwise: bool = False) -> Model:
    """A model on the small template grid; its networks are random."""
    steps = np.zeros((*_patches().shape, SETTINGS.outputs), dtype=np.uint8)
    np.put_along_axis(steps, np.roll(_patches(), 1, axis=1)[..., None], 235, axis=3)
    np.put_along_axis(steps, _patches()[..., None], 250, axis=3)
    networks = {}
    for i, tile in enumerate(LAYOUT):
        torch.manual_seed(i)
        network = CompactUNet(SETTINGS)
        torch.nn.init.normal_(network.head.weight, std=1.0)
        networks[tile.name] = network.state_dict()
    assembly = Assembly("", LAYOUT, "compact", SETTINGS)
    folder = toy_folder() / f"small-{groupwise}"
    write_model(folder, [networks.items()], Prior(steps, GRID.shape), manifest_entries([assembly]))
    toy, coarse = toy_model(), GRID.with_voxels_mm(2.0)
    image = Volume(brightness(centers(coarse)) / 100, coarse)
    template = Template("small", image, LabelMap(in_brain(centers(coarse)), coarse), GRID, 6e4)
    votes = np.zeros((*coarse.shape, SETTINGS.outputs), np.uint8)
    np.put_along_axis(votes, _patches().repeat(2, 0).repeat(2, 1).repeat(2, 2)[..., None], 120, axis=3)
    deformable = GroupwiseTemplate(image, votes) if groupwise else None
    return Model(
        "small", toy.protocol, replace(toy.inputs, template=template, groupwise=deformable), read_model(folder)
    )


# Votes


def random_votes(shape: tuple[int, int, int], seed: int = 0, voxel_mm: int = 1) -> SparseVotes:
    """Votes of 8 tiles, in a third of the voxels for one channel."""
    random = np.random.default_rng(seed)
    ballots = random.integers(1, 6, (8, *shape), dtype=np.uint8)
    ballots = np.where(random.random(shape) < 1 / 3, ballots[0], ballots).reshape(8, -1)
    channels, counts = (part.reshape(*shape, KEPT) for part in most_frequent(ballots, KEPT))
    return SparseVotes(channels, counts, np.full(shape, 8, np.uint8), voxel_mm)


def certain_votes(channels: np.ndarray, voxel_mm: int = 1) -> SparseVotes:
    """One vote for the channel of each voxel."""
    kept, counts = (np.zeros((*channels.shape, KEPT), np.uint8) for _ in range(2))
    kept[..., 0], counts[..., 0] = channels, 1
    return SparseVotes(kept, counts, np.ones(channels.shape, np.uint8), voxel_mm)
