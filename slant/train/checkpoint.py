"""The state of a training on disk, whole or not at all."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import slant
from slant.errors import ModelError, TrainingError
from slant.nets.registry import build_network
from slant.nets.unet import channels_last

if TYPE_CHECKING:
    from slant.nets.network import Network
    from slant.train.settings import StageSettings


_PARTS = {"net", "average", "optimizer", "step", "losses", "scores", "network", "protocol", "people"}


@dataclass(frozen=True)
class Identity:
    """What must be the same when a training goes on.

    Attributes
    ----------
    network : dict
        ``kind`` and ``settings`` as plain values.
    protocol : str
    people : tuple of str
        Names of the scans trained on.
    """

    network: dict[str, Any]
    protocol: str
    people: tuple[str, ...]


@dataclass
class State:
    """What a checkpoint holds beside its identity.

    Attributes
    ----------
    net, average : Network
        The weights, and their moving average, which is what a stage hands on.
    optimizer : torch.optim.Optimizer
    step : int
        Steps done.
    losses : list of float
        One a step.
    scores : list of (int, float)
        Mean Dice of people held out after so many steps.
    """

    net: Network
    average: Network
    optimizer: torch.optim.Optimizer
    step: int = 0
    losses: list[float] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)


def new_state(
    network: tuple[str, Any], stage: StageSettings, weights: dict[str, Tensor] | None, device: str = "cpu"
) -> State:
    """A fresh state; ``weights`` start it where another stage ended.

    Parameters
    ----------
    network : str and settings
        Kind and settings of the network.
    stage : StageSettings
    weights : dict of Tensor, optional
    device : str

    Raises
    ------
    TrainingError
        If the weights do not fit the network.
    """
    torch.manual_seed(stage.seed)
    nets = [channels_last(build_network(*network)) for _ in range(2)]
    if weights is not None:
        load_weights(nets[0], weights, "the weights to start from")
    nets[1].load_state_dict(nets[0].state_dict())
    nets = [net.to(device) for net in nets]
    optimizer = torch.optim.AdamW(
        nets[0].parameters(), lr=stage.learning_rate, weight_decay=stage.weight_decay, betas=(0.9, 0.98)
    )
    return State(nets[0], nets[1], optimizer)


def load_weights(net: Network, weights: dict[str, Tensor], what: str) -> None:
    """Put weights into a network, all of them or none.

    Raises
    ------
    TrainingError
        Listing every tensor that is missing, unexpected or of another shape.
    """
    own = net.state_dict()
    missing, extra = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    shapes = [
        f"{name} is {tuple(weights[name].shape)}, wanted {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    faults = [
        f"{label}: {', '.join(names)}"
        for label, names in (("missing", missing), ("unexpected", extra), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise TrainingError(f"{what} belong to another network or protocol; tensors " + "; ".join(faults))
    net.load_state_dict(weights)


def save_checkpoint(path: Path, state: State, identity: Identity) -> None:
    """Write the state beside the old one, then put it in its place.

    Raises
    ------
    TrainingError
        If it cannot be written; the previous checkpoint stays.
    """
    stored = {
        "net": state.net.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "losses": state.losses,
        "scores": state.scores,
        "network": identity.network,
        "protocol": identity.protocol,
        "people": list(identity.people),
        "slant": slant.__version__,
    }
    _write(path, stored, f"the checkpoint {path} at step {state.step}")


def save_round(path: Path, checkpoint: Path, steps: int) -> None:
    """Keep the averaged weights of a checkpoint that stands at the last step of a round; leave later ones alone.

    Raises
    ------
    TrainingError
        If they cannot be written.
    """
    stored = _read(checkpoint, {"average", "step"})
    if stored["step"] == steps:
        _write(path, {"average": stored["average"]}, f"the weights {path}")


def _write(path: Path, stored: dict[str, Any], what: str) -> None:
    partial = path.with_name(path.name + ".part")
    try:
        torch.save(stored, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        kept = "the previous one is kept" if path.is_file() else "there is no earlier one"
        raise TrainingError(
            f"cannot write {what}: {error}; {kept}: make room, then run the same command to continue"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def load_checkpoint(path: Path, state: State, identity: Identity) -> None:
    """Continue where the checkpoint stopped.

    Raises
    ------
    ModelError
        If it is no checkpoint.
    TrainingError
        If it was made with another network, protocol or other people.
    """
    stored = _read(path, _PARTS)
    load_weights(state.net, stored["net"], f"the weights in {path}")
    for what, found, wanted in (
        ("protocol", stored["protocol"], identity.protocol),
        ("network", stored["network"], identity.network),
        ("scans", sorted(stored["people"]), sorted(identity.people)),
    ):
        if found != wanted:
            raise TrainingError(
                f"{path} was trained with another {what}: found {found}, wanted {wanted}; use another --work folder, "
                "or delete the checkpoint to start again"
            )
    state.average.load_state_dict(stored["average"])
    state.optimizer.load_state_dict(stored["optimizer"])
    state.step, state.losses = stored["step"], stored["losses"]
    state.scores = [(int(step), float(score)) for step, score in stored["scores"]]


def averaged_weights(path: Path, steps: int = 0) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint that has seen at least so many steps.

    Raises
    ------
    ModelError
        If it is not there, is no checkpoint, or its stage is not finished.
    """
    if not path.is_file():
        raise ModelError(f"no checkpoint {path}; train the stage that makes it first")
    stored = _read(path, {"average", "step"} if steps else {"average"})
    weights: dict[str, Tensor] = stored["average"]
    if steps and stored["step"] < steps:
        raise ModelError(f"{path} has seen {stored['step']} of {steps} steps; run its stage again to finish it first")
    return weights


def _read(path: Path, wanted: set[str]) -> dict[str, Any]:
    """What was stored, if it has these parts."""
    refused = f"{path} is not a checkpoint of this version of `slant train`; give its whole.pt or a tile's .pt"
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except (RuntimeError, LookupError, TypeError, ValueError, EOFError, OSError, UnpicklingError) as error:
        raise ModelError(refused) from error
    if not isinstance(stored, dict) or wanted - set(stored):
        raise ModelError(refused)
    return stored
