"""Model folders on disk: one folder per model, read tile by tile and checked against its manifest.

``manifest.json`` describes the weights (layout, protocol, network, input scaling, training data, licence) and lists the
SHA-256 of the other files:

- ``weights.safetensors``: the tensors of every tile as ``TILE/NAME``; tensors that are equal in all tiles are stored
  once, as ``shared/NAME``. Instead there may be one ``TILE.safetensors`` for each tile, with its tensors as ``NAME``;
- ``prior.npz``, for networks that take a prior;
- ``groupwise.npz``, the groupwise template of the deformable atlas prior, for networks trained with one.

The SHA-256 of the manifest is therefore the identity of the model.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from slant.errors import LayoutError, ModelError, SettingsError
from slant.files import file_sha256, write_atomic
from slant.nets.groupwise import SPACING, GroupwiseTemplate
from slant.nets.network import Network, NetworkSettings
from slant.nets.prior import Prior
from slant.nets.registry import KINDS, build_network, settings_of
from slant.tiles import TileLayout

MANIFEST, WEIGHTS, PRIOR, GROUPWISE = "manifest.json", "weights.safetensors", "prior.npz", "groupwise.npz"

SHARED = "shared/"
"""Prefix of the names of tensors that all tiles share."""


def shard(tile: str) -> str:
    """Name of the weights file of one tile, in a model folder with one file per tile."""
    return f"{tile}.safetensors"


@dataclass(frozen=True, eq=False)
class NetworkFolder:
    """The networks of a model on disk.

    Attributes
    ----------
    manifest : dict
        Contents of the manifest; see `write_model` for its keys.
    identity : str
        SHA-256 of the manifest file.
    kind : str
        Kind of the networks, a key of `slant.nets.registry.KINDS`.
    groupwise : pair of arrays, optional
        Mean image (X/2, Y/2, Z/2) float32 and votes (X/2, Y/2, Z/2, C) uint8 of the groupwise template, if any.
    """

    folder: Path
    manifest: dict[str, Any]
    identity: str
    layout: TileLayout
    kind: str
    settings: NetworkSettings
    prior: Prior | None
    groupwise: tuple[NDArray[np.float32], NDArray[np.uint8]] | None = None

    def network(self, tile: str) -> Network:
        """The network of one tile, float32 on the CPU."""
        name, prefix = _weights_file(self.manifest, tile)
        with safe_open(self.folder / name, framework="pt") as stored:
            state = {
                key.removeprefix(begin): stored.get_tensor(key).float()
                for key in stored.keys()  # noqa: SIM118 (it is not a dict)
                for begin in (prefix, SHARED)
                if key.startswith(begin)
            }
        with torch.device("meta"):
            network = build_network(self.kind, self.settings)
        network.load_state_dict(state, assign=True)
        return network.requires_grad_(False)

    @property
    def shared(self) -> bool:
        """Whether all tiles share one network."""
        if len(self.layout) == 1:
            return True
        if WEIGHTS not in self.manifest["files"]:
            return False
        with safe_open(self.folder / WEIGHTS, framework="pt") as stored:
            return all(key.startswith(SHARED) for key in stored.keys())  # noqa: SIM118


def _weights_file(manifest: dict[str, Any], tile: str) -> tuple[str, str]:
    """Name of the file with the weights of a tile, and prefix of the names of its tensors in this file."""
    return (WEIGHTS, f"{tile}/") if WEIGHTS in manifest["files"] else (shard(tile), "")


def read_model(folder: Path) -> NetworkFolder:
    """Open a model folder, and check that its files are complete and consistent.

    Raises
    ------
    ModelError
        If a file is missing or damaged, or does not contain exactly the tensors that layout and network of the manifest
        require.
    """
    _require(folder, (MANIFEST,))
    text = (folder / MANIFEST).read_bytes()
    try:
        manifest = json.loads(text)
        layout = TileLayout(**manifest["layout"])
        kind = manifest["network"]["kind"]
        settings = settings_of(kind, manifest["network"]["settings"])
        hashes = dict(manifest["files"])
    except (ValueError, KeyError, TypeError, LayoutError, SettingsError) as error:
        raise ModelError(f"the manifest {folder / MANIFEST} cannot be used: {error!r}") from error
    takes_prior = KINDS[kind].network.prior
    weights = {_weights_file(manifest, tile.name)[0] for tile in layout}
    _require(folder, [*hashes, *sorted(weights), *([PRIOR] if takes_prior else [])])
    for name, expected in hashes.items():
        found = file_sha256(folder / name)
        if found != expected:
            raise ModelError(
                f"{folder / name} is damaged: its SHA-256 is {found}, the manifest says {expected}; install or "
                "export the model again"
            )
    with torch.device("meta"):
        tensors = list(build_network(kind, settings).state_dict())
    _check_tensors(folder, weights, {f"{tile.name}/{name}" for tile in layout for name in tensors}, layout)
    prior = None
    if takes_prior:
        with np.load(folder / PRIOR) as stored:
            prior = Prior(stored["steps"], layout.shape)
    groupwise = _read_groupwise(folder / GROUPWISE, layout, settings.outputs) if GROUPWISE in hashes else None
    return NetworkFolder(folder, manifest, hashlib.sha256(text).hexdigest(), layout, kind, settings, prior, groupwise)


def _require(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} is not a model: it has no {name}; a model folder contains {MANIFEST} and the files it lists"
            )


def _read_groupwise(path: Path, layout: TileLayout, channels: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Mean image and votes; the file stores the votes channel by channel, which compresses better."""
    try:
        with np.load(path) as stored:
            image, votes = stored["image"].astype(np.float32), stored["votes"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} cannot be read: {error!r}; install or export the model again") from error
    expected = tuple(n // SPACING for n in layout.shape)
    if image.shape != expected or votes.shape != (channels, *expected) or votes.dtype != np.uint8:
        raise ModelError(
            f"{path} is the groupwise template of another grid or protocol: found an image of {image.shape} and votes "
            f"of {votes.dtype} {votes.shape}, expected {expected} and uint8 {(channels, *expected)}; export the model "
            "again"
        )
    return image, torch.from_numpy(votes).permute(1, 2, 3, 0).contiguous().numpy()


def _check_tensors(folder: Path, files: set[str], expected: set[str], layout: TileLayout) -> None:
    found: set[str] = set()
    for file in files:
        prefix = "" if file == WEIGHTS else f"{Path(file).stem}/"
        try:
            with safe_open(folder / file, framework="pt") as stored:
                found |= {f"{prefix}{key}" for key in stored.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError(f"{folder / file} cannot be read: {error}") from error
    for key in [key for key in found if key.startswith(SHARED)]:
        found |= {f"{tile.name}/{key.removeprefix(SHARED)}" for tile in layout}
        found.remove(key)
    if found != expected:
        missing, unexpected = sorted(expected - found), sorted(found - expected)
        raise ModelError(f"{folder} does not fit its manifest; missing tensors: {missing}; unexpected: {unexpected}")


def write_model(
    folder: Path,
    networks: dict[str, dict[str, Tensor]],
    prior: Prior | None,
    manifest: dict[str, Any],
    groupwise: GroupwiseTemplate | None = None,
) -> None:
    """Write a model folder with float16 weights, tensors shared by all tiles only once, and the manifest last.

    Parameters
    ----------
    networks : dict
        State dict of each tile's network.
    manifest : dict
        Keys ``name``, ``layout``, ``protocol``, ``template``, ``network`` (kind, settings), ``input`` (the fields of
        `slant.nets.inputs.InputScaling`), ``training`` and ``licence``; this function adds ``files``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = {
        tile: {name: value.to(torch.float16).contiguous() for name, value in state.items()}
        for tile, state in sorted(networks.items())
    }
    first, *others = stored.values()
    shared = {name for name in first if others and all(torch.equal(first[name], other[name]) for other in others)}
    tensors = {f"{SHARED}{name}": first[name] for name in sorted(shared)}
    tensors |= {
        f"{tile}/{name}": value for tile, state in stored.items() for name, value in state.items() if name not in shared
    }
    (folder / WEIGHTS).write_bytes(save(tensors))
    names = [WEIGHTS]
    if prior is not None:
        np.savez_compressed(folder / PRIOR, steps=prior.steps)
        names.append(PRIOR)
    if groupwise is not None:
        votes = np.ascontiguousarray(np.moveaxis(groupwise.votes, -1, 0))
        np.savez_compressed(folder / GROUPWISE, image=groupwise.image.data.astype(np.float16), votes=votes)
        names.append(GROUPWISE)
    _write_manifest(folder, names, manifest)


def write_shards(
    folder: Path,
    networks: Iterable[tuple[str, dict[str, Tensor]]],
    manifest: dict[str, Any],
    precision: Literal["float32", "float16"] = "float32",
) -> None:
    """Write a model folder of large networks without a prior, with one weights file per tile.

    Parameters
    ----------
    networks : iterable of (str, dict)
        Name and state dict of each tile. With a generator, only one state dict is in memory at a time.
    manifest : dict
        As for `write_model`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype = torch.float32 if precision == "float32" else torch.float16
    names = []
    for tile, state in networks:
        names.append(shard(tile))
        save_file({name: value.to(dtype).contiguous() for name, value in state.items()}, folder / names[-1])
    _write_manifest(folder, names, manifest)


def _write_manifest(folder: Path, names: list[str], manifest: dict[str, Any]) -> None:
    files = {name: file_sha256(folder / name) for name in names}
    write_atomic(folder / MANIFEST, json.dumps({**manifest, "files": files}, indent=2) + "\n")
