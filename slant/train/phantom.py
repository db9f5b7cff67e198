"""Makes phantoms, that is synthetic subjects: the template and its most likely regions, deformed, with bias and noise.

Phantoms are for trying out training, not for models of real brains. One random affine and one random smooth field
deform image and labels together, so the borders of the regions agree with the image. The labels come from the label
frequencies of an embedded model and are therefore under the licence of that model.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

from slant._version import __version__
from slant.errors import InputError, OutputError, SettingsError
from slant.grid import Grid, Matrix, axis_aligned_grid, transform_points
from slant.io.models import load_model
from slant.io.staging import check_output, staged, write_json
from slant.io.templates import load_template
from slant.io.write import write_image
from slant.nets.model import Model
from slant.nets.prior import SPACING
from slant.train.augment import sample_image, smooth_field
from slant.train.draws import normal
from slant.volume import LabelMap, Volume

MODEL = "slant27"
"""Name of the embedded model whose label frequencies give the regions."""

UNLABELLED = 255
"""Id of voxels that are left unlabelled; not an id of a BrainCOLOR region."""

FIELD_OF_VIEW_MM = (192.0, 224.0, 184.0)
MAX_INTENSITY = 250.0  # of the brightest template voxel, before the bias field

ROTATION_DEG, SCALING, TRANSLATION_MM = 6.0, 0.04, 5.0
"""Standard deviations of the rotation, of the logarithm of the scale, and of the translation of a phantom."""

ELASTIC_MM = ((32.0, 5.0), (16.0, 1.5))
"""Smooth fields: distance of the control points in mm, and standard deviation of their displacement in mm."""

GAMMA, BIAS_FIELD, BIAS_FIELD_MM, NOISE = 0.1, 0.1, 60.0, 0.03
"""Standard deviations of the logarithm of the exponent of the intensities, of the logarithm of the bias field (with
control points 60 mm apart) and of the noise."""

_MAX_COUNT = 99  # subjects per seed
_CHUNK = 50_000  # points per call of the interpolation, about 30 MB


@dataclass(frozen=True)
class PhantomSettings:
    """Number, seed and sampling of a set of phantoms.

    Attributes
    ----------
    count : int
        Number of subjects, 1 to 99.
    seed : int
        Random seed. The first subjects of a seed are the same for any count.
    voxel_mm : float
        Edge length of a voxel, 0.8 to 4.
    slices : int, optional
        Number of labelled slices along each axis; all other voxels are `UNLABELLED`. By default no voxel is.
    """

    count: int = 6
    seed: int = 0
    voxel_mm: float = 2.0
    slices: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.count <= _MAX_COUNT:
            raise SettingsError(f"count must be from 1 to {_MAX_COUNT}, found {self.count}")
        if self.seed < 0:
            raise SettingsError(f"seed must be 0 or more, found {self.seed}")
        if not 0.8 <= self.voxel_mm <= 4:
            raise SettingsError(f"voxel_mm must be from 0.8 to 4, found {self.voxel_mm}")
        if self.slices is not None and self.slices < 1:
            raise SettingsError(f"slices must be at least 1, found {self.slices}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the subjects; they contain the seed, so that several sets can be mixed."""
        return tuple(f"sub-s{self.seed}p{i + 1:02d}" for i in range(self.count))


@dataclass(frozen=True)
class PhantomNames:
    """Names of the files of a set of phantoms."""

    subjects: tuple[str, ...]

    @property
    def record(self) -> str:
        """File that records how the phantoms were made."""
        return "phantoms.json"

    @property
    def all(self) -> tuple[str, ...]:
        """Two files per subject, then the record."""
        return (*(f"{name}_{kind}.nii.gz" for name in self.subjects for kind in ("T1w", "dseg")), self.record)


def write_phantoms(out: Path, settings: PhantomSettings, *, force: bool = False) -> None:
    """Write ``NAME_T1w.nii.gz`` and ``NAME_dseg.nii.gz`` of every phantom, and ``phantoms.json``.

    Parameters
    ----------
    out : Path
        Output folder, created if missing.
    force : bool, optional
        Whether to replace phantoms of the same names when the new ones are complete.

    Raises
    ------
    OutputError
        If the folder cannot be written, contains these phantoms and ``force`` is False, or contains other scans.
    """
    names = PhantomNames(settings.names)
    check_output(out, names, force=force, what="phantoms")
    others = sorted({path.name for path in out.glob("*_T1w.nii.gz")} - set(names.all))
    if others:
        raise OutputError(
            f"{out} contains other scans ({', '.join(others[:3])}{' ...' if len(others) > 3 else ''}), which training "
            "would mix with the phantoms; choose an empty folder"
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
                "Description": "Synthetic scans with labels, made by `slant phantoms`; of no real subject",
                "Settings": asdict(settings),
                "UnlabelledId": UNLABELLED if settings.slices else None,
                "Template": load_template().name,
                "LabelsFrom": {"Model": model.name, "Identity": model.identity, "Licence": model.licence},
                "Version": __version__,
            },
        )


def make_phantom(index: int, settings: PhantomSettings) -> tuple[Volume, LabelMap]:
    """Make a skull-stripped T1-weighted scan and its BrainCOLOR labels, as a function of the settings and the index.

    Parameters
    ----------
    index : int
        Index of the subject, from 0.

    Returns
    -------
    image : Volume
        Integer values, 0 outside the brain and at least 1 inside.
    labels : LabelMap
        Ids on the same grid, 0 outside the brain.
    """
    generator = torch.Generator().manual_seed(settings.seed * (_MAX_COUNT + 1) + index)
    grid = _field_of_view(settings.voxel_mm)
    coordinates = _template_coordinates(grid, generator)
    template = load_template()
    image_voxels, prior_voxels = (_voxels(coordinates, g) for g in (template.image.grid, template.grid))
    brain = sample_image(torch.from_numpy(template.brain.data.astype(np.float32)), image_voxels) > 0.5
    tissue = sample_image(torch.from_numpy(template.image.data.copy()), image_voxels)
    tissue = tissue / float(template.image.data.max())
    image = torch.where(brain, _intensities(tissue, settings.voxel_mm, generator).clamp(min=1), torch.zeros(()))
    labels = np.zeros(grid.shape, dtype=np.uint8)
    labels[brain.numpy()] = likely_ids(prior_voxels[brain]).numpy()
    if settings.slices is not None:
        labels = keep_slices(labels, settings.slices)
    return Volume(image.numpy(), grid), LabelMap(labels, grid)


def likely_ids(coordinates: Tensor) -> Tensor:
    """(N,) uint8 most frequent id at (N, 3) template coordinates in voxels, by the prior of the embedded model.

    The log-frequencies are interpolated linearly between the cells of the prior.
    """
    model, frequencies = _frequencies()
    sizes = torch.tensor(frequencies.shape[2:])
    unit = ((coordinates - (SPACING - 1) / 2) / SPACING) * (2 / (sizes - 1)) - 1
    winners = [
        functional.grid_sample(
            frequencies, part.flip(-1)[None, :, None, None], padding_mode="border", align_corners=True
        ).argmax(dim=1)
        for part in torch.split(unit, _CHUNK)
    ]
    channels = torch.cat([part.flatten() for part in winners])
    return torch.from_numpy(model.protocol.ids_from_channels(channels.numpy()).astype(np.uint8))


@cache
def _frequencies() -> tuple[Model, Tensor]:
    """The embedded model, and its (1, C, X/4, Y/4, Z/4) float32 log-frequencies."""
    model = load_model(MODEL)
    prior = model.networks.prior
    if prior is None:
        raise InputError(f"the model {MODEL} has no prior, which phantoms are made from; install the package again")
    cells = prior.log_frequency_at((slice(None),) * 3, np.arange(len(model.protocol)))
    return model, cells.permute(3, 0, 1, 2)[None].contiguous()


def keep_slices(labels: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Keep (X, Y, Z) labels on ``count`` slices along each axis only; all other voxels become `UNLABELLED`.

    The slices are evenly distributed over the extent of the labels.

    Raises
    ------
    SettingsError
        If ``count`` is greater than the number of slices with labels.
    """
    kept = np.zeros(labels.shape, dtype=np.bool_)
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        labelled = np.flatnonzero(labels.any(axis=others))
        if count > len(labelled):
            raise SettingsError(f"slices must be at most {len(labelled)}, the number with labels, found {count}")
        ends = np.linspace(labelled[0], labelled[-1] + 1, count + 1)
        np.moveaxis(kept, axis, 0)[((ends[:-1] + ends[1:]) / 2).astype(int)] = True
    return np.where(kept, labels, np.uint8(UNLABELLED))


def _field_of_view(voxel_mm: float) -> Grid:
    """A grid centered at the origin of the world coordinates, as a scanner would set it."""
    x, y, z = (math.ceil(extent / voxel_mm) for extent in FIELD_OF_VIEW_MM)
    return axis_aligned_grid((x, y, z), voxel_mm, [-(n - 1) * voxel_mm / 2 for n in (x, y, z)])


def _template_coordinates(grid: Grid, generator: torch.Generator) -> Tensor:
    """(X, Y, Z, 3) template coordinates in RAS mm at which each voxel of a phantom is sampled."""
    rotation = Rotation.from_euler("xyz", normal(generator, 3).numpy() * ROTATION_DEG, degrees=True).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = rotation @ np.diag(np.exp(normal(generator, 3).numpy() * SCALING))
    matrix[:3, 3] = load_template().grid.center_ras_mm + normal(generator, 3).numpy() * TRANSLATION_MM
    index = np.indices(grid.shape).reshape(3, -1).T
    coordinates = torch.from_numpy(transform_points(matrix @ grid.ras_from_voxel, index).astype(np.float32))
    displacement = torch.zeros(())
    for spacing_mm, sd_mm in ELASTIC_MM:
        field = smooth_field(grid.shape, spacing_mm / grid.voxel_size_mm[0], 3, generator)
        displacement = displacement + field * sd_mm
    return coordinates.reshape(*grid.shape, 3) + displacement.permute(1, 2, 3, 0)


def _voxels(coordinates: Tensor, grid: Grid) -> Tensor:
    """Convert coordinates in RAS mm to voxels of a grid."""
    matrix: Matrix = grid.voxel_from_ras
    return coordinates @ torch.from_numpy(matrix[:3, :3].T.astype(np.float32)) + torch.from_numpy(
        matrix[:3, 3].astype(np.float32)
    )


def _intensities(tissue: Tensor, voxel_mm: float, generator: torch.Generator) -> Tensor:
    """Integer intensities from (X, Y, Z) tissue values between 0 and 1, with random contrast, bias field and noise."""
    x, y, z = tissue.shape
    power = float(torch.exp(normal(generator, 1) * GAMMA))
    bias = torch.exp(smooth_field((x, y, z), BIAS_FIELD_MM / voxel_mm, 1, generator)[0] * BIAS_FIELD)
    noise = normal(generator, x, y, z) * NOISE
    return torch.round(MAX_INTENSITY * (tissue.clamp(min=0) ** power * bias + noise))
