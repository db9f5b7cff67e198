"""Makes the groupwise template of a run and registers every scan to it.

The template is made in rounds, as in Avants et al. 2010 (NeuroImage 49:2457): every scan is registered to the mean of
all scans (SyN), the deformed scans are averaged, and the average is deformed by the inverse of the mean displacement,
so that it has the mean shape of all scans. After the last round every scan is registered to the template. The manual
labels, resampled to the template, are counted as votes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from slant.config import SynSettings
from slant.displacement import CompositeTransform, DisplacementField, sample_linear, sample_nearest
from slant.errors import TrainingError
from slant.grid import Grid
from slant.io.prepared import digest, kept
from slant.nets.groupwise import SPACING, GroupwiseTemplate
from slant.nets.prior import Prior
from slant.resample import IDENTITY, coarsened
from slant.syn import parameters, register_syn
from slant.train.data import Groupwise, LabelledScan, load_stored
from slant.train.loss import IGNORED
from slant.train.stage_settings import GroupwiseSettings
from slant.volume import Volume

MAX_VOTES = 255
"""Maximum number of votes in a cell of a template; the votes of more scans are scaled down."""


@dataclass(frozen=True)
class ScanFiles:
    """Files of a prepared scan that is registered to a template, without labels if the scan does not vote."""

    name: str
    image: Path
    labels: Path | None


def make_template(images: list[Path], folder: Path, grid: Grid, settings: GroupwiseSettings) -> None:
    """Make the template image from prepared scans and write it to ``template.npz``, unless it is up to date.

    Parameters
    ----------
    images : list of Path
        Files of the prepared scans that make the template, none of a held-out subject, all on the ``grid``.
    folder : Path
        Created if missing.

    Raises
    ------
    TrainingError
        If there are fewer than two scans.
    """
    if len(images) < 2:
        raise TrainingError(
            f"a groupwise template needs at least 2 scans whose labels are complete, found {len(images)}; remove "
            "[groupwise] to train with the affine prior"
        )

    def compute() -> dict[str, Any]:
        scans = [_coarse_image(path, grid) for path in images]
        mean = Volume(np.mean([scan.data for scan in scans], axis=0), scans[0].grid)
        for _ in tqdm(range(settings.rounds), desc="groupwise template", unit="round", file=sys.stderr):
            mean = _next_mean(mean, scans, settings.syn)
        return {"image": mean.data}

    identity = digest("template", [path.stem for path in images], settings.rounds, parameters(settings.syn))
    kept(folder / "template.npz", identity, compute)


def _next_mean(mean: Volume, scans: list[Volume], syn: SynSettings) -> Volume:
    """The mean of the scans after registration to the given mean, corrected to their mean shape."""
    fields = Parallel(n_jobs=-1)(delayed(_displacement_from_mean)(mean, scan, syn) for scan in scans)
    images = [_deformed(scan.data, field) for scan, field in zip(scans, fields, strict=True)]
    mean_field = DisplacementField(np.mean([field.displacement_mm for field in fields], axis=0), mean.grid)
    return Volume(_deformed(np.mean(images, axis=0), inverted(mean_field)), mean.grid)


def _displacement_from_mean(mean: Volume, scan: Volume, syn: SynSettings) -> DisplacementField:
    torch.set_num_threads(1)
    return register_syn(mean, scan, syn)[0]


def inverted(field: DisplacementField) -> DisplacementField:
    """The inverse of a smooth field on the same grid, by ten fixed-point iterations (Chen 2008, Med. Phys. 35:81)."""
    inverse = -field.displacement_mm
    for _ in range(10):
        transform = CompositeTransform(IDENTITY, DisplacementField(inverse, field.grid), IDENTITY)
        coordinates = transform.voxels(field.grid, field.grid)
        inverse = -np.stack([sample_linear(d, coordinates) for d in field.displacement_mm])
    return DisplacementField(inverse, field.grid)


def _deformed(image: NDArray[np.float32], field: DisplacementField) -> NDArray[np.float32]:
    return sample_linear(image, CompositeTransform(IDENTITY, field, IDENTITY).voxels(field.grid, field.grid))


def _coarse_image(path: Path, grid: Grid) -> Volume:
    image = load_stored(path, "prepared scan", "prepare", ("image",))["image"].astype(np.float32)
    return coarsened(Volume(image, grid), float(SPACING))


def register_scans(scans: list[ScanFiles], folder: Path, grid: Grid, settings: GroupwiseSettings) -> None:
    """Register every scan to the template and resample the labels of the voting scans to it, unless up to date.

    The folder contains ``template.npz``; ``NAME.npz`` is written to it. All prepared scans are on the ``grid``.
    """
    done = Parallel(n_jobs=-1, return_as="generator")(
        delayed(_register_scan)(scan, folder, grid, settings.syn) for scan in scans
    )
    for _ in tqdm(done, total=len(scans), desc="register", unit="scan", file=sys.stderr):
        pass


def _register_scan(scan: ScanFiles, folder: Path, grid: Grid, syn: SynSettings) -> None:
    def compute() -> dict[str, Any]:
        torch.set_num_threads(1)
        image, mean = _coarse_image(scan.image, grid), load_mean(folder, grid)
        template_from_scan, scan_from_template = register_syn(image, mean, syn)
        arrays: dict[str, Any] = {"displacement": template_from_scan.displacement_mm.astype(np.float16)}
        if scan.labels is not None:
            channels = load_stored(scan.labels, "prepared scan", "prepare", ("channels",))["channels"]
            coordinates = CompositeTransform(IDENTITY, scan_from_template, IDENTITY).voxels(grid, grid)
            arrays["labels"] = blocks(sample_nearest(channels, coordinates))
        return arrays

    files = [folder / "template.npz", *([] if scan.labels is None else [scan.labels])]
    identities = [str(load_stored(path, "file", "prepare", ("identity",))["identity"]) for path in files]
    kept(folder / f"{scan.name}.npz", digest(scan.image.stem, identities, parameters(syn)), compute)


def load_mean(folder: Path, grid: Grid) -> Volume:
    """Load the mean image of a template that was made from scans on the given grid.

    Raises
    ------
    InputError
        If the template does not exist.
    """
    image = load_stored(folder / "template.npz", "groupwise template", "groupwise", ("image",))["image"]
    return Volume(image, grid.with_voxels_mm(float(SPACING)))


def load_deformed(folder: Path, name: str) -> tuple[Tensor, Tensor | None]:
    """Load the displacement of a scan, and its votes or None; see `slant.train.data.Groupwise`.

    Raises
    ------
    InputError
        If the scan has not been registered.
    """
    stored = load_stored(folder / f"{name}.npz", "displacement", "groupwise")
    displacement = torch.from_numpy(stored["displacement"].astype(np.float32))
    return displacement, torch.from_numpy(stored["labels"]) if "labels" in stored else None


def blocks(channels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(X/2, Y/2, Z/2, 8) channels of the voxels of each 2 mm cell of an (X, Y, Z) map with even sizes."""
    x, y, z = (n // SPACING for n in channels.shape)
    split = channels.reshape(x, SPACING, y, SPACING, z, SPACING).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(split.reshape(x, y, z, SPACING**3))


def count_votes(labels: list[Tensor], channels: int) -> Tensor:
    """(X/2, Y/2, Z/2, C) uint8 or int16 votes of several scans, given as `blocks`; `IGNORED` voxels do not vote."""
    x, y, z, _ = labels[0].shape
    dtype = torch.uint8 if len(labels) * SPACING**3 <= MAX_VOTES else torch.int16
    votes = torch.zeros(x * y * z, channels, dtype=dtype)
    for scan in labels:
        for voxel in scan.reshape(-1, SPACING**3).T:
            known = voxel != IGNORED
            index = torch.where(known, voxel, 0).long()[:, None]
            votes.scatter_add_(1, index, known.to(dtype)[:, None])
    return votes.reshape(x, y, z, channels)


def template_of(mean: Volume, votes: Tensor) -> GroupwiseTemplate:
    """The template of a model, with its votes scaled to bytes."""
    largest = int(votes.sum(dim=-1).max())
    counts = votes.numpy()
    if largest > MAX_VOTES:
        counts = np.round(counts * (MAX_VOTES / largest))
    return GroupwiseTemplate(mean, counts.astype(np.uint8))


def deformed_prior(groupwise: Groupwise, scan: LabelledScan) -> Prior:
    """The deformable atlas prior of a scan, without the labels of all scans of the same subject."""
    votes, own = groupwise.votes, groupwise.own[scan.name]
    if own:
        votes = votes - count_votes(list(own), votes.shape[-1]).to(votes.dtype)
    template = template_of(groupwise.mean, votes)
    return template.prior_at(groupwise.displacements[scan.name].numpy(), scan.image.numpy() > 0)
