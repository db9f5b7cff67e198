"""Weights that a network takes over from other stages, models and tiles: to start from, to share or to keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from slant.errors import ModelError, SettingsError, TrainingError
from slant.io.models import embedded_models, model_folder
from slant.nets.weights import read_model
from slant.train.checkpoint import averaged_weights
from slant.train.net2net import net2net_widening
from slant.train.tile_order import neighbours, parent

if TYPE_CHECKING:
    from torch import Tensor

    from slant.nets.network import Network
    from slant.train.context import RunContext


def weights_of_whole(run: RunContext) -> dict[str, Tensor]:
    """The averaged weights of the finished stage ``whole``.

    Raises
    ------
    ModelError
        If it is not finished.
    """
    return averaged_weights(run.checkpoint("whole"), run.settings.whole.steps)


def initial_weights(run: RunContext, stage: str) -> dict[str, Tensor] | None:
    """The initial weights of a whole-brain stage, ``pretrain`` or ``whole``; None for random ones.

    The weights of ``init_from`` are expanded if the network of this run has more channels.

    Raises
    ------
    ModelError
        If the weights do not exist, or belong to a stage that is not finished.
    """
    settings = run.settings
    if stage == "whole" and settings.pretrain is not None:
        return averaged_weights(run.checkpoint("pretrain"), settings.pretrain.steps)
    if settings.init_from is None:
        return None
    torch.manual_seed(settings.whole.seed)
    return net2net_widening(_read_weights(settings.init_from), run.network.build())


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, or of a model with one network."""
    if path.is_file() or not (path.is_dir() or str(path) in embedded_models()):
        return averaged_weights(path)
    networks = read_model(model_folder(str(path)))
    if not networks.shared:
        raise ModelError(
            f"{path} has a separate network for each of its {len(networks.layout)} tiles, expected a model with one "
            "network; give a model-whole folder or a checkpoint"
        )
    return networks.network(networks.layout.tiles[0].name).state_dict()


def initial_tile_weights(run: RunContext, name: str) -> dict[str, Tensor] | None:
    """The initial weights of a tile; None for random ones.

    Raises
    ------
    TrainingError
        If they are those of a neighbour that is not trained.
    ModelError
        If they are those of a stage that is not finished.
    """
    settings = run.settings
    if settings.tile.init == "scratch":
        return None
    neighbour = parent(settings.layout, name) if settings.tile.init == "neighbour" else None
    if neighbour is None:
        return weights_of_whole(run)
    in_rounds = settings.tile.rounds > 1
    path = snapshot(run, neighbour, 0) if in_rounds else run.tile_checkpoint(neighbour)
    if not path.is_file():
        raise TrainingError(
            f"tile {name} is initialized from its neighbour {neighbour}, which is not trained; train tile "
            f"{neighbour} first"
        )
    return averaged_weights(path, 0 if in_rounds else settings.tile.steps)


def snapshot(run: RunContext, name: str, round_: int) -> Path:
    """File of the averaged weights of a tile after a round."""
    return run.tile_checkpoint(name).with_name(f"{name}.round{round_ + 1}.pt")


def shared_weights(run: RunContext, name: str, round_: int) -> dict[str, Tensor] | None:
    """Soft sharing of a tile: the weights of the whole brain in the first round, then the mean of the neighbours'.

    Raises
    ------
    TrainingError
        If a neighbour is not trained up to the round before.
    """
    settings = run.settings
    if not settings.tile.soft_sharing:
        return None
    if round_ == 0:
        return None if settings.tile.init == "scratch" else weights_of_whole(run)
    paths = [snapshot(run, other, round_ - 1) for other in neighbours(settings.layout, name)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise TrainingError(
            f"soft sharing of tile {name} in round {round_ + 1} needs its neighbours, but "
            f"{settings.run / settings.name} does not contain {', '.join(missing)}; train these tiles up to round "
            f"{round_} first"
        )
    weights = [averaged_weights(path) for path in paths]
    return {key: torch.stack([w[key].float() for w in weights]).mean(dim=0) for key in weights[0]}


def freeze(net: Network, prefixes: tuple[str, ...]) -> None:
    """Exclude the tensors whose names begin with one of the prefixes from training (hard sharing).

    Raises
    ------
    SettingsError
        If no tensor has such a prefix.
    """
    names = [name for name, _ in net.named_parameters()]
    unknown = [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in names)]
    if unknown:
        known = ", ".join(sorted({".".join(name.split(".")[:2]) for name in names}))
        raise SettingsError(
            f"[tile] shared_layers: no tensor begins with {', '.join(unknown)}, expected prefixes of: {known}"
        )
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not name.startswith(prefixes))
