"""Weights that a network takes over from other stages, models and tiles, and the order in which tiles are trained."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from slant.errors import LayoutError, ModelError, SettingsError, TrainingError
from slant.io.models import embedded_models, model_folder
from slant.nets.network import Network
from slant.nets.unet import CompactUNet
from slant.nets.weights import read_model
from slant.tiles import TileLayout
from slant.train.checkpoint import averaged_weights
from slant.train.context import RunContext


def select_tiles(layout: TileLayout, names: tuple[str, ...]) -> list[str]:
    """The names of the given tiles, by default of all, in the order of the layout.

    Raises
    ------
    LayoutError
        If the layout does not contain one of them.
    """
    known = [tile.name for tile in layout]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise LayoutError(f"no tile {', '.join(unknown)} in this layout; it has {', '.join(known)}")
    return [name for name in known if not names or name in names]


def neighbours(layout: TileLayout, name: str) -> list[str]:
    """Names of the up to six tiles that are adjacent to a tile along an axis."""
    adjacent = []
    for axis in range(3):
        for step in (-1, 1):
            other = _position(name)
            other[axis] += step
            if 1 <= other[axis] <= layout.counts[axis]:
                adjacent.append("_".join(map(str, other)))
    return adjacent


def parent(layout: TileLayout, name: str) -> str | None:
    """The neighbour one step nearer to the central tile, which can initialize a tile; None for the central tile."""
    position = _position(name)
    for axis, count in enumerate(layout.counts):
        center = (count + 1) // 2
        if position[axis] != center:
            position[axis] += 1 if position[axis] < center else -1
            return "_".join(map(str, position))
    return None


def generations(layout: TileLayout, names: list[str]) -> list[list[str]]:
    """The tiles in groups; the parents of the tiles of a group are in the groups before it."""
    groups: dict[int, list[str]] = {}
    for name in names:
        depth, ancestor = 0, parent(layout, name)
        while ancestor is not None:
            depth, ancestor = depth + 1, parent(layout, ancestor)
        groups.setdefault(depth, []).append(name)
    return [groups[depth] for depth in sorted(groups)]


def _position(name: str) -> list[int]:
    return [int(part) for part in name.split("_")]


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

    The weights of ``init_from`` are expanded if the network of this run has more channels or layers.

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
    return net2net_growth(_read_weights(settings.init_from), run.network.build())


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


def net2net_growth(weights: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    """Net2Net: the weights of a narrower or shallower network, expanded to those of this one (Chen et al. 2016).

    A wider network starts with exactly the function of the narrow one: new channels have random weights, and no
    existing channel reads them yet. A deeper one starts almost with it, see `slant.nets.unet.RefinementBlock`.

    Parameters
    ----------
    network : Network
        The larger network with random weights, in float32 on the CPU. Its new channels and layers keep these weights.

    Returns
    -------
    dict of Tensor
        The unchanged ``weights`` if this network is not larger, or is not a `CompactUNet` with at least the same
        tensors and as many channels everywhere; loading them then reports what does not fit.
    """
    own = network.state_dict()
    if not isinstance(network, CompactUNet):
        return weights
    weights = {name: tensor for name, tensor in own.items() if name.startswith("refine.")} | weights
    if set(own) != set(weights) or not _wider(own, weights):
        return weights
    out = {}
    for name, fresh in own.items():
        old = weights[name]
        inputs = torch.arange(old.shape[1] if old.ndim > 1 else 0)
        if name == "mix.weight":  # its inputs are the channels upsampled from 2 mm, then those of the image
            upsampled = weights["unfold.weight"].shape[0] // 8
            inputs = inputs + (inputs >= upsampled) * (network.settings.upsampled - upsampled)
        out[name] = _expanded(fresh, old, inputs)
    return out


def _wider(own: dict[str, Tensor], weights: dict[str, Tensor]) -> bool:
    pairs = [(own[name].shape, weights[name].shape) for name in own]
    return all(
        len(new) == len(old) and new[2:] == old[2:] and all(a >= b for a, b in zip(new, old, strict=True))
        for new, old in pairs
    ) and any(new != old for new, old in pairs)


def _expanded(fresh: Tensor, old: Tensor, inputs: Tensor) -> Tensor:
    """The fresh tensor with the old one at the given inputs; the weights from new inputs to old outputs are 0."""
    out, rows = fresh.clone(), old.shape[0]
    if old.ndim == 1:
        out[:rows] = old
        return out
    out[:rows] = 0
    out[:rows, inputs] = old.to(out)
    return out


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
