"""Makes people who never lived: the template and its most likely regions, bent alike, shaded and noisy.

They are for trying out training, not for models of real brains. Image and labels of a phantom follow one random affine
and one random smooth field, so its borders lie where its image says; the labels come from the frequencies that ship
with an embedded model and are therefore under that model's licence.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

import slant
from slant.errors import InputError, OutputError, SettingsError
from slant.grid import Grid, axis_aligned_grid, transform_points
from slant.io.models import load_model
from slant.io.staging import check_output, staged, write_json
from slant.io.templates import load_template
from slant.io.write import write_image
from slant.nets.prior import SPACING
from slant.train.augment import normal, sample_image, smooth_field
from slant.volume import LabelMap, Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slant.grid import Matrix
    from slant.nets.model import Model

MODEL = "slant27"
"""Embedded model whose label frequencies give the regions."""

UNLABELLED = 255
"""Id of voxels that nobody is said to have labelled; no region of BrainCOLOR."""

FIELD_OF_VIEW_MM = (192.0, 224.0, 184.0)
WHITE = 250.0  # intensity of the brightest template voxel, before shading

TURN_DEG, SIZE, SHIFT_MM = 6.0, 0.04, 5.0
"""Standard deviation of a phantom's turns, logarithm of sizes, and shift."""

BENDS = ((32.0, 5.0), (16.0, 1.5))
"""Distance in mm of the control points of a smooth field, and standard deviation in mm of its displacements."""

GAMMA, SHADING, SHADING_MM, NOISE = 0.1, 0.1, 60.0, 0.03
"""Standard deviation of the logarithm of the contrast's exponent, of the bias field's, and of the noise."""

_MOST = 99  # people of one seed
_POINTS = 50_000  # looked up at a time, about 30 MB


@dataclass(frozen=True)
class PhantomSettings:
    """Which phantoms are made.

    Attributes
    ----------
    count : int
        People, 1 to 99.
    seed : int
        The same seed gives the same people, the first ones whatever the count.
    voxel_mm : float
        Edge of a voxel, 0.8 to 4.
    slices : int, optional
        Annotated slices along each axis, all other voxels being `UNLABELLED`; by default everything is annotated.
    """

    count: int = 6
    seed: int = 0
    voxel_mm: float = 2.0
    slices: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.count <= _MOST:
            raise SettingsError(f"count must be from 1 to {_MOST}, found {self.count}")
        if self.seed < 0:
            raise SettingsError(f"seed must be 0 or more, found {self.seed}")
        if not 0.8 <= self.voxel_mm <= 4:
            raise SettingsError(f"voxel_mm must be from 0.8 to 4, found {self.voxel_mm}")
        if self.slices is not None and self.slices < 1:
            raise SettingsError(f"slices must be at least 1, found {self.slices}")

    @property
    def names(self) -> tuple[str, ...]:
        """What the people are called; the seed is in it, so that several sets may be mixed."""
        return tuple(f"sub-s{self.seed}p{i + 1:02d}" for i in range(self.count))


@dataclass(frozen=True)
class PhantomNames:
    """Files of a set of phantoms."""

    people: tuple[str, ...]

    @property
    def record(self) -> str:
        """How they were made."""
        return "phantoms.json"

    @property
    def all(self) -> tuple[str, ...]:
        """Two files a person, then the record."""
        return (*(f"{name}_{kind}.nii.gz" for name in self.people for kind in ("T1w", "dseg")), self.record)


def write_phantoms(out: Path, settings: PhantomSettings, *, force: bool = False) -> None:
    """Write ``NAME_T1w.nii.gz`` and ``NAME_dseg.nii.gz`` of every phantom, and ``phantoms.json``.

    Parameters
    ----------
    out : Path
        Folder, made if absent.
    settings : PhantomSettings
    force : bool, optional
        Whether phantoms of the same names may be replaced once the new ones are complete.

    Raises
    ------
    OutputError
        If the folder cannot be written, holds these phantoms and ``force`` is False, or holds other scans.
    """
    names = PhantomNames(settings.names)
    check_output(out, names, force=force, what="phantoms")
    others = sorted({path.name for path in out.glob("*_T1w.nii.gz")} - set(names.all))
    if others:
        raise OutputError(
            f"{out} holds other scans ({', '.join(others[:3])}{' ...' if len(others) > 3 else ''}), which would be "
            "trained on together with the phantoms; choose a folder of their own"
        )
    model, _ = _frequencies()
    with staged(out, names) as folder:
        for index, name in enumerate(settings.names):
            image, labels = make_phantom(index, settings)
            write_image(folder / f"{name}_T1w.nii.gz", image, None)
            write_image(folder / f"{name}_dseg.nii.gz", labels, None)
        write_json(
            folder / names.record,
            {
                "Description": "Synthetic scans with labels, made by `slant phantoms`; of no real person",
                "Settings": asdict(settings),
                "UnlabelledId": UNLABELLED if settings.slices else None,
                "Template": load_template().name,
                "LabelsFrom": {"Model": model.name, "Identity": model.identity, "Licence": model.licence},
                "Version": slant.__version__,
            },
        )


def make_phantom(index: int, settings: PhantomSettings) -> tuple[Volume, LabelMap]:
    """A skull-stripped T1-weighted scan and its BrainCOLOR ids, functions of the seed and the index.

    Parameters
    ----------
    index : int
        Which person, from 0.
    settings : PhantomSettings

    Returns
    -------
    image : Volume
        Whole numbers, 0 outside the brain and at least 1 inside.
    labels : LabelMap
        On the same grid, 0 outside the brain.
    """
    generator = torch.Generator().manual_seed(settings.seed * (_MOST + 1) + index)
    grid = _field_of_view(settings.voxel_mm)
    places = _template_places(grid, generator)
    template = load_template()
    coarse, fine = (_voxels(places, g) for g in (template.image.grid, template.grid))
    brain = sample_image(torch.from_numpy(template.brain.data.astype(np.float32)), coarse) > 0.5
    tissue = sample_image(torch.from_numpy(template.image.data.copy()), coarse) / float(template.image.data.max())
    image = torch.where(brain, _scanned(tissue, settings.voxel_mm, generator).clamp(min=1), torch.zeros(()))
    labels = np.zeros(grid.shape, dtype=np.uint8)
    labels[brain.numpy()] = likely_ids(fine[brain]).numpy()
    if settings.slices is not None:
        labels = keep_slices(labels, settings.slices)
    return Volume(image.numpy(), grid), LabelMap(labels, grid)


def likely_ids(places: Tensor) -> Tensor:
    """(N,) uint8 most frequent id at (N, 3) voxels of the template, after the embedded model's prior.

    The log-frequencies are interpolated linearly between the cells of the prior.
    """
    model, frequencies = _frequencies()
    sizes = torch.tensor(frequencies.shape[2:])
    unit = ((places - (SPACING - 1) / 2) / SPACING) * (2 / (sizes - 1)) - 1
    winners = [
        functional.grid_sample(
            frequencies, part.flip(-1)[None, :, None, None], padding_mode="border", align_corners=True
        ).argmax(dim=1)
        for part in torch.split(unit, _POINTS)
    ]
    channels = torch.cat([part.flatten() for part in winners])
    return torch.from_numpy(model.protocol.ids_from_channels(channels.numpy()).astype(np.uint8))


@cache
def _frequencies() -> tuple[Model, Tensor]:
    """The model, and its (1, C, X/4, Y/4, Z/4) float32 log-frequencies."""
    model = load_model(MODEL)
    prior = model.networks.prior
    if prior is None:
        raise InputError(f"the model {MODEL} has no label frequencies to make phantoms of; install the package again")
    cells = prior.log_frequency_at((slice(None),) * 3, np.arange(len(model.protocol)))
    return model, cells.permute(3, 0, 1, 2)[None].contiguous()


def keep_slices(labels: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """The (X, Y, Z) labels on so many slices along each axis, evenly through what is labelled; elsewhere `UNLABELLED`.

    Raises
    ------
    SettingsError
        If there are not so many slices.
    """
    kept = np.zeros(labels.shape, dtype=np.bool_)
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        filled = np.flatnonzero(labels.any(axis=others))
        if count > len(filled):
            raise SettingsError(f"slices must be at most {len(filled)}, as many as hold labels, found {count}")
        ends = np.linspace(filled[0], filled[-1] + 1, count + 1)
        np.moveaxis(kept, axis, 0)[((ends[:-1] + ends[1:]) / 2).astype(int)] = True
    return np.where(kept, labels, np.uint8(UNLABELLED))


def _field_of_view(voxel_mm: float) -> Grid:
    """A grid about world zero, as a scanner would place it."""
    x, y, z = (math.ceil(extent / voxel_mm) for extent in FIELD_OF_VIEW_MM)
    return axis_aligned_grid((x, y, z), voxel_mm, [-(n - 1) * voxel_mm / 2 for n in (x, y, z)])


def _template_places(grid: Grid, generator: torch.Generator) -> Tensor:
    """(X, Y, Z, 3) RAS mm in template space from where each voxel of a phantom takes its value."""
    turn = Rotation.from_euler("xyz", normal(generator, 3).numpy() * TURN_DEG, degrees=True).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag(np.exp(normal(generator, 3).numpy() * SIZE))
    matrix[:3, 3] = load_template().grid.center_ras_mm + normal(generator, 3).numpy() * SHIFT_MM
    index = np.indices(grid.shape).reshape(3, -1).T
    places = torch.from_numpy(transform_points(matrix @ grid.ras_from_voxel, index).astype(np.float32))
    bend = torch.zeros(())
    for apart_mm, strength_mm in BENDS:
        bend = bend + smooth_field(grid.shape, apart_mm / grid.voxel_size_mm[0], 3, generator) * strength_mm
    return places.reshape(*grid.shape, 3) + bend.permute(1, 2, 3, 0)


def _voxels(places: Tensor, grid: Grid) -> Tensor:
    """The places in voxels of a grid."""
    matrix: Matrix = grid.voxel_from_ras
    return places @ torch.from_numpy(matrix[:3, :3].T.astype(np.float32)) + torch.from_numpy(
        matrix[:3, 3].astype(np.float32)
    )


def _scanned(tissue: Tensor, voxel_mm: float, generator: torch.Generator) -> Tensor:
    """Whole intensities of (X, Y, Z) tissue between 0 and 1: other contrast, a bias field, noise."""
    x, y, z = tissue.shape
    power = float(torch.exp(normal(generator, 1) * GAMMA))
    shade = torch.exp(smooth_field((x, y, z), SHADING_MM / voxel_mm, 1, generator)[0] * SHADING)
    noise = normal(generator, x, y, z) * NOISE
    return torch.round(WHITE * (tissue.clamp(min=0) ** power * shade + noise))
