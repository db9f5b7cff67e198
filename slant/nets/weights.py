"""Weights on disk: one folder a model, read tile by tile, checked against its manifest.

``manifest.json`` says what the weights are (layout, protocol, network, input scaling, training data, licence) and
the SHA-256 of the files beside it: ``weights.safetensors`` (every tile's tensors as ``TILE/NAME``, float16) and
``prior.npz``. The SHA-256 of the manifest is therefore the identity of the model.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from slant.errors import LayoutError, ModelError
from slant.nets.prior import Prior
from slant.nets.unet import CompactUNet, UNetSettings
from slant.tiles import TileLayout

MANIFEST, WEIGHTS, PRIOR = "manifest.json", "weights.safetensors", "prior.npz"


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True, eq=False)
class NetworkFolder:
    """The networks of a model as they lie on disk.

    Attributes
    ----------
    folder : Path
    manifest : dict
        As read; see `write_model` for its keys.
    identity : str
        SHA-256 of the manifest's bytes.
    layout : TileLayout
    settings : UNetSettings
    prior : Prior
    """

    folder: Path
    manifest: dict[str, Any]
    identity: str
    layout: TileLayout
    settings: UNetSettings
    prior: Prior

    def network(self, tile: str) -> CompactUNet:
        """The network of one tile, float32 on the CPU."""
        with safe_open(self.folder / WEIGHTS, framework="pt") as stored:
            prefix = f"{tile}/"
            names = [key for key in stored.keys() if key.startswith(prefix)]  # noqa: SIM118 (it is no dict)
            found = {name.removeprefix(prefix): stored.get_tensor(name).float() for name in names}
        with torch.device("meta"):
            network = CompactUNet(self.settings)
        network.load_state_dict(found, assign=True)
        return network.requires_grad_(False)


def read_model(folder: Path) -> NetworkFolder:
    """Open a model folder, checking that its files are whole and fit each other.

    Raises
    ------
    ModelError
        If a file is absent, damaged, or does not hold exactly the tensors that the manifest's layout and network
        ask for.
    """
    for name in (MANIFEST, WEIGHTS, PRIOR):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} is not a model: it has no {name}; a model folder holds {MANIFEST}, {WEIGHTS} and {PRIOR}"
            )
    text = (folder / MANIFEST).read_bytes()
    try:
        manifest = json.loads(text)
        layout = TileLayout(**_tuples(manifest["layout"]))
        settings = UNetSettings(**_tuples(manifest["network"]["settings"]))
        wanted_hashes = manifest["files"]
    except (ValueError, KeyError, TypeError, LayoutError) as error:
        raise ModelError(f"the manifest {folder / MANIFEST} cannot be used: {error!r}") from error
    for name, wanted in wanted_hashes.items():
        found = file_sha256(folder / name)
        if found != wanted:
            raise ModelError(
                f"{folder / name} is damaged: its SHA-256 is {found}, the manifest says {wanted}; install it again"
            )
    _check_tensors(folder / WEIGHTS, layout, settings)
    with np.load(folder / PRIOR) as stored:
        prior = Prior(stored["steps"], layout.shape)
    return NetworkFolder(folder, manifest, hashlib.sha256(text).hexdigest(), layout, settings, prior)


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _check_tensors(path: Path, layout: TileLayout, settings: UNetSettings) -> None:
    with torch.device("meta"):
        names = list(CompactUNet(settings).state_dict())
    wanted = {f"{tile.name}/{name}" for tile in layout for name in names}
    try:
        with safe_open(path, framework="pt") as stored:
            found = set(stored.keys())
    except SafetensorError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if found != wanted:
        missing, extra = sorted(wanted - found), sorted(found - wanted)
        raise ModelError(f"{path} does not fit its manifest; missing tensors: {missing}; unexpected: {extra}")


def write_model(folder: Path, networks: dict[str, dict[str, Tensor]], prior: Prior, manifest: dict[str, Any]) -> None:
    """Write a model folder: float16 weights, prior, manifest last.

    Parameters
    ----------
    folder : Path
        Made if absent.
    networks : dict
        State dict of each tile's network.
    prior : Prior
    manifest : dict
        ``name``, ``layout``, ``protocol``, ``template``, ``network`` (kind, settings), ``input`` (offset, scale,
        floor), ``training``, ``licence``; ``files`` is added.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{tile}/{name}": value.to(torch.float16).contiguous()
        for tile, state in sorted(networks.items())
        for name, value in state.items()
    }
    (folder / WEIGHTS).write_bytes(save(tensors))
    np.savez_compressed(folder / PRIOR, steps=prior.steps)
    files = {name: file_sha256(folder / name) for name in (WEIGHTS, PRIOR)}
    text = json.dumps({**manifest, "files": files}, indent=2) + "\n"
    partial = folder / f"{MANIFEST}.part"
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / MANIFEST)
