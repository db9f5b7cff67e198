"""Scans that no segmentation should be trusted on, made from good ones: what the grade has to catch.

Every fault takes a `Volume` and a random generator and returns the spoilt scan. Heads may be whole or skull stripped.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from slant.brain import brain_from_zero_background, extract_brain, is_skull_stripped
from slant.grid import Grid
from slant.resample import resample
from slant.volume import Volume


def _brain(scan: Volume) -> np.ndarray:
    found = brain_from_zero_background(scan) if is_skull_stripped(scan) else extract_brain(scan)
    return found.data != 0


def _with(scan: Volume, data: np.ndarray) -> Volume:
    return Volume(np.maximum(data, 0).astype(np.float32), scan.grid)


def _turn(degrees: float, axis: int) -> np.ndarray:
    a, b = [k for k in range(3) if k != axis]
    matrix = np.eye(4)
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix[a, a], matrix[b, b], matrix[a, b], matrix[b, a] = c, c, -s, s
    return matrix


def tilted(scan: Volume, random: Generator) -> Volume:
    """The head turned by 60 to 75 degrees about one axis in the same field of view."""
    matrix = _turn(float(random.uniform(60, 75)) * random.choice([-1, 1]), int(random.integers(3)))
    middle = np.array(scan.grid.center_ras_mm)
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle
    return resample(scan, scan.grid, source_from_target=matrix)


def cut_top(scan: Volume, random: Generator) -> Volume:  # noqa: ARG001
    """The slices of the upper quarter of the brain were never measured."""
    z = np.nonzero(_brain(scan))[2]
    stop = int(z.max() - 0.25 * (z.max() - z.min()))
    return Volume(scan.data[:, :, :stop].copy(), Grid((*scan.grid.shape[:2], stop), scan.grid.ras_from_voxel))


def cut_side(scan: Volume, random: Generator) -> Volume:  # noqa: ARG001
    """The slices of the right sixth of the brain were never measured."""
    x = np.nonzero(_brain(scan))[0]
    stop = int(x.max() - (x.max() - x.min()) / 6)
    return Volume(scan.data[:stop].copy(), Grid((stop, *scan.grid.shape[1:]), scan.grid.ras_from_voxel))


def noisy(scan: Volume, random: Generator) -> Volume:
    """Rician noise with a standard deviation of 0.25 of white matter."""
    top = np.percentile(scan.data[scan.data > 0], 98) if is_skull_stripped(scan) else np.percentile(scan.data, 97)
    real, imaginary = 0.25 * top * random.standard_normal((2, *scan.data.shape))
    noise = np.hypot(scan.data + real, imaginary)
    return _with(scan, np.where(scan.data > 0, noise, 0) if is_skull_stripped(scan) else noise)


def inverted(scan: Volume, random: Generator) -> Volume:  # noqa: ARG001
    """Dark where it was bright, as a T2-weighted scan: fluid brightest, white matter darkest."""
    brain = _brain(scan)
    top = np.percentile(scan.data[brain], 99.5)
    return _with(scan, np.where(scan.data > 0.1 * top, np.maximum(1.15 * top - scan.data, 0.02 * top), scan.data))


def flat(scan: Volume, random: Generator) -> Volume:
    """Hardly any contrast between gray and white matter, with some noise, as in proton density or with gadolinium."""
    brain = _brain(scan)
    top = np.percentile(scan.data[brain], 98)
    data = np.where(brain, 0.75 * top + 0.08 * (scan.data - 0.75 * top), scan.data)
    return _with(scan, np.where(scan.data > 0, data + 0.02 * top * random.standard_normal(data.shape), 0))


def ct(scan: Volume, random: Generator) -> Volume:
    """Skull by far the brightest, brain nearly even with much noise, in Hounsfield units."""
    brain = _brain(scan)
    middle = np.percentile(scan.data[brain], 50)
    tissue = np.clip(34 - 6 * (scan.data - middle) / middle, 5, 45)  # gray matter a little denser than white
    head = np.where(brain, tissue, -1000.0)
    skull = ndimage.binary_dilation(brain, iterations=7) & ~ndimage.binary_dilation(brain, iterations=2)
    skin = ndimage.binary_dilation(brain, iterations=12) & ~brain & ~skull
    head[skin], head[skull] = 20.0, 1100.0
    return Volume((head + 5 * random.standard_normal(head.shape)).astype(np.float32), scan.grid)


def other_mask(scan: Volume, random: Generator) -> Volume:
    """Stripped with a mask that is not its own: turned by 8 degrees, moved by 12 mm and a tenth smaller."""
    mask = Volume(_brain(scan).astype(np.float32), scan.grid)
    matrix = _turn(8.0, 0) @ np.diag([1.1, 1.1, 1.1, 1.0])
    middle = np.array(scan.grid.center_ras_mm)
    direction = random.standard_normal(3)
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle + 12 * direction / np.linalg.norm(direction)
    moved = resample(mask, scan.grid, source_from_target=matrix)
    return Volume(np.where(moved.data > 0.5, np.maximum(scan.data, 1e-3), 0).astype(np.float32), scan.grid)


def lesion(scan: Volume, random: Generator) -> Volume:
    """A ball of 18 mm radius, dark as fluid, in the white matter of one hemisphere."""
    brain = _brain(scan)
    places = np.argwhere(brain)
    low, high = places.min(axis=0), places.max(axis=0)
    side = random.choice([0.28, 0.72])
    middle = low + (high - low) * np.array([side, random.uniform(0.35, 0.65), random.uniform(0.6, 0.7)])
    offsets = (np.indices(scan.grid.shape).T - middle) * np.array(scan.grid.voxel_size_mm)
    ball = (np.linalg.norm(offsets, axis=-1).T < 18) & brain
    dark = np.percentile(scan.data[brain], 5)
    soft = ndimage.gaussian_filter(ball.astype(np.float32), 1)
    return _with(scan, scan.data * (1 - soft) + dark * soft)


def ghosts(scan: Volume, random: Generator) -> Volume:  # noqa: ARG001
    """Half of the head seen again, a quarter of the field of view away, four times."""
    data = scan.data.copy()
    for share in (0.25, 0.5, -0.25):
        data += 0.35 * np.roll(scan.data, round(share * scan.data.shape[1]), axis=1)
    return _with(scan, np.where(scan.data > 0, data, 0) if is_skull_stripped(scan) else data)


def stretched(scan: Volume, random: Generator) -> Volume:  # noqa: ARG001
    """A header that makes the head a third longer."""
    return Volume(scan.data, Grid(scan.grid.shape, np.diag([1, 1.35, 1, 1.0]) @ scan.grid.ras_from_voxel))


FAULTS: dict[str, Callable[[Volume, Generator], Volume]] = {
    "tilted": tilted,
    "cut above": cut_top,
    "cut on the right": cut_side,
    "noisy": noisy,
    "inverted": inverted,
    "flat": flat,
    "CT": ct,
    "mask of another": other_mask,
    "lesion": lesion,
    "ghosts": ghosts,
    "stretched": stretched,
}
