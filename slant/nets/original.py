"""The published checkpoints of the original SLANT, found in its folders and read one at a time.

``FOLDER/TILE/finetune_out/models/model_epoch_0027.pth`` is where the released code (MASILab/SLANTbrainSeg,
``python/test.py``) looks for the weights of a tile; before the fine-tuning they lie in ``test_out``. SLANT-8 is made of
the eight corners of SLANT-27, whose names the original keeps: what is ``2_2_2`` here is ``3_3_3`` there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    8: TileLayout((172, 220, 156), (96, 128, 88), (2, 2, 2), "trim"),
}
"""SLANT-27 and SLANT-8 by their number of tiles."""

SCALING = InputScaling(0.0, 1.0, None, keep_head=True, tile_range=(0.0, 255.0), axes="zxy")
"""The whole image harmonized, each tile scaled to 0-255 by its own extremes, arrays (z, x, y)."""

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Of the batch norm; the original ignores them, for it labels in train mode."""

STAGES = ("finetune_out", "test_out")


def find_checkpoints(folder: Path, tiles: int, epoch: int) -> dict[str, Path]:
    """Path of each tile's checkpoint by our name of the tile, fine-tuned weights first.

    Parameters
    ----------
    folder : Path
        The original's ``model_dir``.
    tiles : int
        27 or 8.
    epoch : int
        Number in the name of the files.

    Raises
    ------
    ModelError
        If any is missing; all are named.
    """
    found, missing = {}, []
    for tile in LAYOUTS[tiles]:
        theirs = tile.name if tiles == 27 else tile.name.replace("2", "3")
        paths = [folder / theirs / stage / "models" / f"model_epoch_{epoch:04d}.pth" for stage in STAGES]
        present = [path for path in paths if path.is_file()]
        if present:
            found[tile.name] = present[0]
        else:
            missing.append(theirs)
    if missing:
        wanted = f"TILE/{STAGES[0]}/models/model_epoch_{epoch:04d}.pth"
        raise ModelError(
            f"{folder} has no {wanted} for {len(missing)} of {tiles} tiles: {', '.join(missing)}; give the folder that "
            "holds those of all tiles, another --epoch, or --tiles 8 for the eight corners only"
        )
    return found


def read_checkpoints(paths: Mapping[str, Path]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Name and float32 parameters of each tile, read as they are asked for, so that one lies in memory at a time.

    Raises
    ------
    ModelError
        See `read_checkpoint`.
    """
    for tile, path in paths.items():
        yield tile, read_checkpoint(path)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Parameters of a checkpoint by their names, in the order of the network's, without the norm's statistics.

    Raises
    ------
    ModelError
        If it cannot be read as tensors alone, is of another network (all that is missing, unexpected or of another
        shape is named), or holds values that are no numbers.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, ValueError, KeyError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} cannot be read as a file of tensors: {reason}") from error
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise ModelError(f"{path} holds no weights by name, found {type(stored).__name__}; give a state dict of UNet3D")
    with torch.device("meta"):
        wanted = build_network(KIND, SETTINGS).state_dict()
    found = {name: value for name, value in stored.items() if name.rpartition(".")[2] not in STATISTICS}
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unexpected:
        raise ModelError(
            f"{path} is of another network than the original's; missing: {missing or 'none'}; "
            f"unexpected: {unexpected or 'none'}"
        )
    other = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if found[name].shape != value.shape
    ]
    if other:
        raise ModelError(f"{path} is of a network of another size than the original's: {', '.join(other)}")
    spoiled = [name for name in wanted if not torch.isfinite(found[name]).all()]
    if spoiled:
        raise ModelError(f"{path} is damaged: {', '.join(spoiled)} hold values that are no numbers")
    return {name: found[name].float() for name in wanted}
