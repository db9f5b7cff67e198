"""Makes the groupwise template of a run, and carries every scan to it.

Three rounds, as Avants et al. 2010 (NeuroImage 49:2457) do: every scan is registered to the mean of all (SyN), the
deformed scans are averaged, and the mean is moved by the mean displacement, so that it stays in the middle of all. A
last registration gives each scan's own displacement, and the labels of those labelled by hand vote in the template.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from tqdm import tqdm

from slant.config import SynSettings
from slant.errors import InputError, TrainingError
from slant.nets.groupwise import SPACING, GroupwiseTemplate
from slant.resample import IDENTITY
from slant.syn import coarsened, register_syn
from slant.train.data import save_arrays, stored_identity
from slant.train.loss import IGNORED
from slant.volume import Volume
from slant.warp import Chain, Warp, interpolate_at, pick_at

if TYPE_CHECKING:
    from torch import Tensor

    from slant.grid import Grid
    from slant.train.settings import GroupwiseSettings

MOST_VOTES = 255
"""Votes that a cell of a template can hold; with more scans all are scaled down alike."""


def make_template(prepared: Path, names: list[str], folder: Path, grid: Grid, settings: GroupwiseSettings) -> None:
    """Write the mean of the prepared scans after deformation to ``template.npz``, unless it is there already.

    Parameters
    ----------
    prepared : Path
        Folder of ``NAME.npz``.
    names : list of str
        Scans that make the template; nobody who is held out.
    folder : Path
        Where it is kept; made if absent.
    grid : Grid
        Of the prepared scans.
    settings : GroupwiseSettings

    Raises
    ------
    TrainingError
        If there are fewer than two scans.
    """
    if len(names) < 2:
        raise TrainingError(
            f"a groupwise template needs at least 2 scans whose labels are complete, found {len(names)}; leave "
            "[groupwise] out to train with the affine prior"
        )
    identity = _hash([stored_identity(prepared / f"{name}.npz") for name in names], repr(settings))
    path = folder / "template.npz"
    if stored_identity(path) == identity:
        return
    folder.mkdir(parents=True, exist_ok=True)
    scans = [_coarse_image(prepared, name, grid) for name in names]
    mean = Volume(np.mean([scan.data for scan in scans], axis=0), scans[0].grid)
    for _ in tqdm(range(settings.rounds), desc="groupwise template", unit="round", file=sys.stderr):
        mean = _next_mean(mean, scans, settings.syn)
    save_arrays(path, image=mean.data, identity=np.array(identity))


def _next_mean(mean: Volume, scans: list[Volume], syn: SynSettings) -> Volume:
    """The mean of the scans deformed to the given one, in the middle of them all."""
    warps = Parallel(n_jobs=-1)(delayed(_scan_from_mean)(mean, scan, syn) for scan in scans)
    images = [_warped(scan.data, warp) for scan, warp in zip(scans, warps, strict=True)]
    drift = Warp(np.mean([warp.displacement_mm for warp in warps], axis=0), mean.grid)
    return Volume(_warped(np.mean(images, axis=0), inverted(drift)), mean.grid)


def _scan_from_mean(mean: Volume, scan: Volume, syn: SynSettings) -> Warp:
    torch.set_num_threads(1)
    return register_syn(mean, scan, syn)[0]


def inverted(warp: Warp, steps: int = 10) -> Warp:
    """The inverse of a smooth warp on the same grid, by fixed-point steps (Chen et al. 2008, Med. Phys. 35:81)."""
    back = -warp.displacement_mm
    for _ in range(steps):
        places = Chain(IDENTITY, Warp(back, warp.grid), IDENTITY).voxels(warp.grid, warp.grid)
        back = -np.stack([interpolate_at(d, places) for d in warp.displacement_mm])
    return Warp(back, warp.grid)


def _warped(image: NDArray[np.float32], warp: Warp) -> NDArray[np.float32]:
    return interpolate_at(image, Chain(IDENTITY, warp, IDENTITY).voxels(warp.grid, warp.grid))


def _coarse_image(prepared: Path, name: str, grid: Grid) -> Volume:
    with np.load(prepared / f"{name}.npz") as stored:
        image = stored["image"].astype(np.float32)
    return coarsened(Volume(image, grid), float(SPACING))


def carry_scans(
    prepared: Path, names: list[tuple[str, Path | None]], folder: Path, grid: Grid, settings: GroupwiseSettings
) -> None:
    """Register every scan to the template and carry the labels of those that vote into it; what is there stays.

    Parameters
    ----------
    prepared : Path
        Folder of ``NAME.npz``.
    names : list of (str, Path)
        Scans, with the file of their prepared labels for those that vote.
    folder : Path
        Of ``template.npz``; ``NAME.npz`` is written beside it.
    grid : Grid
        Of the prepared scans.
    settings : GroupwiseSettings
    """
    done = Parallel(n_jobs=-1, return_as="generator")(
        delayed(_carry)(prepared, scan, folder, grid, settings.syn) for scan in names
    )
    for _ in tqdm(done, total=len(names), desc="deform", unit="scan", file=sys.stderr):
        pass


def _carry(prepared: Path, scan: tuple[str, Path | None], folder: Path, grid: Grid, syn: SynSettings) -> None:
    name, labels = scan
    path = folder / f"{name}.npz"
    parts = [stored_identity(folder / "template.npz"), stored_identity(prepared / f"{name}.npz")]
    identity = _hash([*parts, "" if labels is None else stored_identity(labels)], repr(syn))
    if stored_identity(path) == identity:
        return
    torch.set_num_threads(1)
    template, image = load_mean(folder, grid), _coarse_image(prepared, name, grid)
    there, back = register_syn(image, template, syn)
    arrays = {"displacement": there.displacement_mm.astype(np.float16), "identity": np.array(identity)}
    if labels is not None:
        with np.load(labels) as stored:
            channels = stored["channels"]
        carried = pick_at(channels, Chain(IDENTITY, back, IDENTITY).voxels(grid, grid))
        arrays["labels"] = blocks(carried)
    save_arrays(path, **arrays)


def load_mean(folder: Path, grid: Grid) -> Volume:
    """The mean image of the template in a folder, made of scans on that grid.

    Raises
    ------
    InputError
        If it has not been made.
    """
    path = folder / "template.npz"
    if not path.is_file():
        raise InputError(f"no groupwise template {path}; run the stage groupwise of `slant train` first")
    with np.load(path) as stored:
        return Volume(stored["image"], grid.with_voxels_mm(float(SPACING)))


def load_deformed(folder: Path, name: str) -> tuple[Tensor, Tensor | None]:
    """The displacement of a scan, and its votes if it has any; see `slant.train.data.Groupwise`.

    Raises
    ------
    InputError
        If it has not been registered.
    """
    path = folder / f"{name}.npz"
    if not path.is_file():
        raise InputError(f"no deformation {path}; run the stage groupwise of `slant train` first")
    with np.load(path) as stored:
        displacement = torch.from_numpy(stored["displacement"].astype(np.float32))
        labels = torch.from_numpy(stored["labels"]) if "labels" in stored else None
    return displacement, labels


def blocks(channels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(X/2, Y/2, Z/2, 8) channels of the voxels of every cell of an (X, Y, Z) map with even sizes."""
    x, y, z = (n // SPACING for n in channels.shape)
    folded = channels.reshape(x, SPACING, y, SPACING, z, SPACING).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(folded.reshape(x, y, z, SPACING**3))


def count_votes(labels: list[Tensor], channels: int) -> Tensor:
    """(X/2, Y/2, Z/2, C) uint8 or int16 votes of the `blocks` of several scans; `IGNORED` voxels do not vote."""
    x, y, z, _ = labels[0].shape
    dtype = torch.uint8 if len(labels) * SPACING**3 <= MOST_VOTES else torch.int16
    votes = torch.zeros(x * y * z, channels, dtype=dtype)
    for scan in labels:
        for voxel in scan.reshape(-1, SPACING**3).T:
            known = voxel != IGNORED
            index = torch.where(known, voxel, 0).long()[:, None]
            votes.scatter_add_(1, index, known.to(dtype)[:, None])
    return votes.reshape(x, y, z, channels)


def template_of(mean: Volume, votes: Tensor) -> GroupwiseTemplate:
    """The template that travels with a model: its votes as bytes."""
    most = int(votes.sum(dim=-1).max())
    counts = votes.numpy()
    if most > MOST_VOTES:
        counts = np.round(counts * (MOST_VOTES / most))
    return GroupwiseTemplate(mean, counts.astype(np.uint8))


def _hash(parts: list[str], settings: str) -> str:
    return hashlib.sha256("\n".join([*parts, settings]).encode()).hexdigest()
