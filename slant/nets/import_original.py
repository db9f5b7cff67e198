"""Import of the published checkpoints of the original SLANT, read from its folders one at a time.

The released code (MASILab/SLANTbrainSeg, ``python/test.py``) expects the weights of a tile in
``FOLDER/TILE/finetune_out/models/model_epoch_0027.pth``; weights before the fine-tuning are in ``test_out``. SLANT-8
consists of the eight corner tiles of SLANT-27 and keeps their names: tile ``2_2_2`` here is ``3_3_3`` there.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from slant.errors import ModelError
from slant.nets.inputs import InputScaling
from slant.nets.registry import build_network
from slant.nets.slant2018 import Slant2018Settings
from slant.tiles import TileLayout

KIND, SETTINGS = "slant2018", Slant2018Settings()

LAYOUTS = {
    27: TileLayout((172, 220, 156), (96, 128, 88), (3, 3, 3), "vote"),
    8: TileLayout((172, 220, 156), (96, 128, 88), (2, 2, 2), "core"),
}
"""SLANT-27 and SLANT-8 by their number of tiles."""

SCALING = InputScaling(0.0, 1.0, None, mask_brain=False, tile_rescale=(0.0, 255.0), axes="zxy")
"""Intensity normalization of the whole image, each tile rescaled to 0-255 by its own extremes, axes (z, x, y)."""

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Statistics of the batch norm, which the original ignores because it runs in train mode."""

WEIGHT_FOLDERS = ("finetune_out", "test_out")
"""Folders of the weights of a tile: after fine-tuning, and before."""


def find_checkpoints(folder: Path, tiles: int, epoch: int) -> dict[str, Path]:
    """Paths of the checkpoints in the ``model_dir`` of the original, by the name of the tile in slant.

    There are 27 or 8 tiles; fine-tuned weights are preferred.

    Raises
    ------
    ModelError
        If checkpoints are missing; the message names the tiles.
    """
    paths, missing = {}, []
    for tile in LAYOUTS[tiles]:
        original_name = tile.name if tiles == 27 else tile.name.replace("2", "3")
        file = f"model_epoch_{epoch:04d}.pth"
        candidates = [folder / original_name / weights / "models" / file for weights in WEIGHT_FOLDERS]
        present = [path for path in candidates if path.is_file()]
        if present:
            paths[tile.name] = present[0]
        else:
            missing.append(original_name)
    if missing:
        expected = f"TILE/{WEIGHT_FOLDERS[0]}/models/model_epoch_{epoch:04d}.pth"
        raise ModelError(
            f"{folder} has no {expected} for {len(missing)} of {tiles} tiles: {', '.join(missing)}; give the folder "
            "with the checkpoints of all tiles, another --epoch, or --tiles 8 for the eight corner tiles only"
        )
    return paths


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the float32 parameters of a checkpoint by name, in the order of the network, without batch norm statistics.

    Raises
    ------
    ModelError
        If the file contains anything but tensors, belongs to another network (the message names all parameters that are
        missing, unexpected or of another shape), or contains NaN or infinite values.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, ValueError, KeyError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} cannot be read as a file of tensors: {reason}") from error
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise ModelError(f"{path} is not a state dict, found {type(stored).__name__}; give a state dict of UNet3D")
    with torch.device("meta"):
        expected = build_network(KIND, SETTINGS).state_dict()
    found = {name: value for name, value in stored.items() if name.rpartition(".")[2] not in STATISTICS}
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unexpected:
        raise ModelError(
            f"{path} does not fit the network of the original; missing tensors: {missing or 'none'}; "
            f"unexpected: {unexpected or 'none'}"
        )
    misshapen = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if found[name].shape != value.shape
    ]
    if misshapen:
        raise ModelError(f"{path} has tensors of another shape than the original: {', '.join(misshapen)}")
    non_finite = [name for name in expected if not torch.isfinite(found[name]).all()]
    if non_finite:
        raise ModelError(f"{path} is damaged: {', '.join(non_finite)} contain NaN or infinite values")
    return {name: found[name].float() for name in expected}
