"""Weights that a network takes over from other stages, models and tiles, and the order in which tiles are trained."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from slant.errors import LayoutError, ModelError, SettingsError, TrainingError
from slant.io.models import embedded_models, model_folder
from slant.nets.assembly import own_tiles
from slant.nets.network import Network
from slant.nets.weights import read_model
from slant.tiles import TileLayout
from slant.train.assembly_settings import AssemblySettings
from slant.train.checkpoint import averaged_weights
from slant.train.context import RunContext
from slant.train.net2net import net2net_growth
from slant.train.slices import initial_weights_from_slices


def select_tiles(assembly: AssemblySettings, names: tuple[str, ...]) -> list[str]:
    """The names of the given tiles of an assembly, by default of all with a network, in the order of the layout.

    Parameters
    ----------
    names : tuple of str
        ``TILE`` for any assembly, ``ASSEMBLY/TILE`` for one.
    """
    own = [tile.name for tile in own_tiles(assembly.layout, assembly.mirror)]
    return [name for name in own if not names or name in names or f"{assembly.name}/{name}" in names]


def check_tiles(cascade: tuple[AssemblySettings, ...], names: tuple[str, ...]) -> None:
    """Check that tiles exist and have networks of their own.

    Parameters
    ----------
    names : tuple of str
        See `select_tiles`.

    Raises
    ------
    LayoutError
        If a tile does not; the message lists the tiles.
    """
    own = [(assembly.name, name) for assembly in cascade for name in select_tiles(assembly, ())]
    known = {name for _, name in own} | {f"{assembly}/{name}" for assembly, name in own}
    unknown = [name for name in names if name not in known]
    if unknown:
        shared = any(assembly.mirror == "shared" for assembly in cascade)
        hint = "; those right of the middle use the networks of their mirror images" if shared else ""
        listed = ", ".join(name if not assembly else f"{assembly}/{name}" for assembly, name in own)
        raise LayoutError(f"no tile {', '.join(unknown)} to train; the tiles are {listed}{hint}")


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
    return averaged_weights(run.checkpoint("whole"), run.assembly.whole.steps)


def initial_weights(run: RunContext, stage: str) -> dict[str, Tensor] | None:
    """The initial weights of a whole-brain stage, ``pretrain`` or ``whole``; None for random ones.

    The first stage starts from the trained 2D networks of the stage ``slices``, if there is one, or from ``init_from``.
    The weights of ``init_from`` are expanded if the network of this run has more channels or layers, or sees more; see
    `slant.train.net2net.net2net_growth`.

    Raises
    ------
    ModelError
        If the weights do not exist, or belong to a stage that is not finished.
    """
    assembly = run.assembly
    if stage == "whole" and assembly.pretrain is not None:
        return averaged_weights(run.checkpoint("pretrain"), assembly.pretrain.steps)
    if assembly.slices is not None:
        return initial_weights_from_slices(run)
    source = assembly.init_from or run.settings.init_from
    if source is None:
        return None
    torch.manual_seed(assembly.whole.seed)
    return net2net_growth(_read_weights(source), run.network.build())


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, or of a model with one network."""
    if path.is_file() or not (path.is_dir() or str(path) in embedded_models()):
        return averaged_weights(path)
    networks = read_model(model_folder(str(path)))
    first, *others = networks.assemblies
    if others or not networks.shared():
        names = ", ".join(assembly.name for assembly in networks.assemblies)
        found = f"the assemblies {names}" if others else f"a separate network for each of its {len(first.layout)} tiles"
        raise ModelError(
            f"{path} has {found}, expected a model with one network; give a model-whole folder or a checkpoint"
        )
    return networks.network(first.layout.tiles[0].name).state_dict()


def initial_tile_weights(run: RunContext, name: str) -> dict[str, Tensor] | None:
    """The initial weights of a tile; None for random ones.

    Raises
    ------
    TrainingError
        If they are those of a neighbour that is not trained.
    ModelError
        If they are those of a stage that is not finished.
    """
    settings = run.assembly.tile
    if settings.init == "scratch":
        return None
    neighbour = parent(run.assembly.layout, name) if settings.init == "neighbour" else None
    if neighbour is None:
        return weights_of_whole(run)
    in_rounds = settings.rounds > 1
    path = snapshot(run, neighbour, 0) if in_rounds else run.tile_checkpoint(neighbour)
    if not path.is_file():
        raise TrainingError(
            f"tile {name} is initialized from its neighbour {neighbour}, which is not trained; train tile "
            f"{neighbour} first"
        )
    return averaged_weights(path, 0 if in_rounds else settings.steps)


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
    settings, layout = run.assembly.tile, run.assembly.layout
    if not settings.soft_sharing:
        return None
    if round_ == 0:
        return None if settings.init == "scratch" else weights_of_whole(run)
    own = select_tiles(run.assembly, ())  # with mirror = "shared", tiles beyond the middle have none
    paths = [snapshot(run, other, round_ - 1) for other in neighbours(layout, name) if other in own]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise TrainingError(
            f"soft sharing of tile {name} in round {round_ + 1} needs its neighbours, but "
            f"{run.tile_checkpoint(name).parent} does not contain {', '.join(missing)}; train these tiles up to round "
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
