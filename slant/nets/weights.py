"""Model folders on disk: one folder per model, read tile by tile and checked against its manifest.

``manifest.json`` describes the weights (assemblies, protocol, input scaling, training data, licence) and lists the
SHA-256 of the other files:

- ``weights.safetensors``, or ``ASSEMBLY.safetensors`` for each assembly with a name: the tensors of every tile as
  ``TILE/NAME``; tensors that are equal in all tiles are stored once, as ``shared/NAME``. The only assembly of a model
  may instead have one ``TILE.safetensors`` for each tile, with its tensors as ``NAME``;
- ``prior.npz``, for networks that take a prior;
- ``groupwise.npz``, the groupwise template of the deformable atlas prior, for networks trained with one.

The SHA-256 of the manifest is therefore the identity of the model.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Sequence
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
from slant.grid import Shape
from slant.nets.assembly import ASSEMBLIES, Assembly, read_assemblies
from slant.nets.groupwise import SPACING, GroupwiseTemplate
from slant.nets.network import Network
from slant.nets.prior import Prior
from slant.nets.registry import KINDS, build_network

MANIFEST, WEIGHTS, PRIOR, GROUPWISE = "manifest.json", "weights.safetensors", "prior.npz", "groupwise.npz"

_LISTED = 5  # tensors in an error message

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
    assemblies : tuple of Assembly
        In the order in which they run.
    groupwise : pair of arrays, optional
        Mean image (X/2, Y/2, Z/2) float32 and votes (X/2, Y/2, Z/2, C) uint8 of the groupwise template, if any.
    """

    folder: Path
    manifest: dict[str, Any]
    identity: str
    assemblies: tuple[Assembly, ...]
    prior: Prior | None
    groupwise: tuple[NDArray[np.float32], NDArray[np.uint8]] | None = None

    def network(self, tile: str, position: int = 0) -> Network:
        """The network of one tile of the assembly at a position, float32 on the CPU."""
        assembly = self.assemblies[position]
        name, prefix = _weights_file(self.manifest, assembly.name, tile)
        with safe_open(self.folder / name, framework="pt") as stored:
            state = {
                key.removeprefix(begin): stored.get_tensor(key).float()
                for key in stored.keys()  # noqa: SIM118 (it is not a dict)
                for begin in (prefix, SHARED)
                if key.startswith(begin)
            }
        with torch.device("meta"):
            network = build_network(assembly.kind, assembly.settings)
        network.load_state_dict(state, assign=True)
        return network.requires_grad_(False)

    def shared(self, position: int = 0) -> bool:
        """Whether all tiles of the assembly at a position share one network."""
        assembly = self.assemblies[position]
        if len(assembly.layout) == 1:
            return True
        name, prefix = _weights_file(self.manifest, assembly.name, assembly.layout.tiles[0].name)
        if not prefix:
            return False
        with safe_open(self.folder / name, framework="pt") as stored:
            return all(key.startswith(SHARED) for key in stored.keys())  # noqa: SIM118


def weights_of(assembly: str) -> str:
    """Name of the weights file of an assembly by its name."""
    return f"{assembly}.safetensors" if assembly else WEIGHTS


def _weights_file(manifest: dict[str, Any], assembly: str, tile: str) -> tuple[str, str]:
    """Name of the file with the weights of a tile, and prefix of the names of its tensors in this file."""
    if assembly or WEIGHTS in manifest["files"]:
        return weights_of(assembly), f"{tile}/"
    return shard(tile), ""


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
        assemblies = read_assemblies(manifest)
        hashes = dict(manifest["files"])
    except (ValueError, KeyError, TypeError, AttributeError, LayoutError, SettingsError) as error:
        raise ModelError(f"the manifest {folder / MANIFEST} cannot be used: {error!r}") from error
    except ModelError as error:
        raise ModelError(f"the manifest {folder / MANIFEST} cannot be used: {error}") from error
    takes_prior = any(KINDS[assembly.kind].network.prior for assembly in assemblies)
    weights = [{_weights_file(manifest, a.name, tile.name)[0] for tile in a.networks} for a in assemblies]
    _require(folder, [*hashes, *sorted(set().union(*weights)), *([PRIOR] if takes_prior else [])])
    for name, expected in hashes.items():
        found = file_sha256(folder / name)
        if found != expected:
            raise ModelError(
                f"{folder / name} is damaged: its SHA-256 is {found}, the manifest says {expected}; install or "
                "export the model again"
            )
    for assembly, files in zip(assemblies, weights, strict=True):
        _check_tensors(folder, files, assembly)
    shape, channels = assemblies[0].template_shape, assemblies[0].settings.outputs
    prior = None
    if takes_prior:
        with np.load(folder / PRIOR) as stored:
            prior = Prior(stored["steps"], shape)
    groupwise = _read_groupwise(folder / GROUPWISE, shape, channels) if GROUPWISE in hashes else None
    return NetworkFolder(folder, manifest, hashlib.sha256(text).hexdigest(), assemblies, prior, groupwise)


def _require(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} is not a model: it has no {name}; a model folder contains {MANIFEST} and the files it lists"
            )


def _read_groupwise(path: Path, shape: Shape, channels: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Mean image and votes; the file stores the votes channel by channel, which compresses better."""
    try:
        with np.load(path) as stored:
            image, votes = stored["image"].astype(np.float32), stored["votes"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} cannot be read: {error!r}; install or export the model again") from error
    expected = tuple(n // SPACING for n in shape)
    if image.shape != expected or votes.shape != (channels, *expected) or votes.dtype != np.uint8:
        raise ModelError(
            f"{path} is the groupwise template of another grid or protocol: found an image of {image.shape} and votes "
            f"of {votes.dtype} {votes.shape}, expected {expected} and uint8 {(channels, *expected)}; export the model "
            "again"
        )
    return image, torch.from_numpy(votes).permute(1, 2, 3, 0).contiguous().numpy()


def _check_tensors(folder: Path, files: set[str], assembly: Assembly) -> None:
    with torch.device("meta"):
        tensors = list(build_network(assembly.kind, assembly.settings).state_dict())
    expected = {f"{tile.name}/{name}" for tile in assembly.networks for name in tensors}
    found: set[str] = set()
    for file in files:
        prefix = "" if file == weights_of(assembly.name) else f"{Path(file).stem}/"
        try:
            with safe_open(folder / file, framework="pt") as stored:
                found |= {f"{prefix}{key}" for key in stored.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError(f"{folder / file} cannot be read: {error}") from error
    for key in [key for key in found if key.startswith(SHARED)]:
        found |= {f"{tile.name}/{key.removeprefix(SHARED)}" for tile in assembly.networks}
        found.remove(key)
    if found != expected:
        missing, unexpected = _few(expected - found), _few(found - expected)
        where = f" for {assembly.title}" if assembly.name else ""
        raise ModelError(
            f"{folder} does not fit its manifest{where}; missing tensors: {missing}; unexpected: {unexpected}"
        )


def _few(names: set[str]) -> str:
    """The first names, and how many others there are."""
    first = sorted(names)[:_LISTED]
    return f"{first}" + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def write_model(
    folder: Path,
    networks: Sequence[Iterable[tuple[str, dict[str, Tensor]]]],
    prior: Prior | None,
    manifest: dict[str, Any],
    groupwise: GroupwiseTemplate | None = None,
) -> None:
    """Write a model folder with float16 weights, tensors shared by all tiles only once, and the manifest last.

    Parameters
    ----------
    networks : sequence of iterables of (str, dict)
        For each assembly, the names and state dicts of its tiles.
    manifest : dict
        Keys ``name``, ``protocol``, ``template``, ``input`` (the fields of `slant.nets.inputs.InputScaling`),
        ``training``, ``licence`` and those of `slant.nets.assembly.manifest_entries`; this function adds ``files``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [weights_of(entry["name"]) for entry in manifest.get(ASSEMBLIES, [{"name": ""}])]
    for name, states in zip(names, networks, strict=True):
        (folder / name).write_bytes(_stored(states))
    if prior is not None:
        np.savez_compressed(folder / PRIOR, steps=prior.steps)
        names.append(PRIOR)
    if groupwise is not None:
        votes = np.ascontiguousarray(np.moveaxis(groupwise.votes, -1, 0))
        np.savez_compressed(folder / GROUPWISE, image=groupwise.image.data.astype(np.float16), votes=votes)
        names.append(GROUPWISE)
    _write_manifest(folder, names, manifest)


def _stored(networks: Iterable[tuple[str, dict[str, Tensor]]]) -> bytes:
    """The weights file of an assembly."""
    stored = {
        tile: {name: value.to(torch.float16).contiguous() for name, value in state.items()} for tile, state in networks
    }
    first, *others = (stored[tile] for tile in sorted(stored))
    shared = {name for name in first if others and all(torch.equal(first[name], other[name]) for other in others)}
    tensors = {f"{SHARED}{name}": first[name] for name in sorted(shared)}
    for tile in sorted(stored):
        tensors |= {f"{tile}/{name}": value for name, value in stored[tile].items() if name not in shared}
    return save(tensors)


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
