"""Checkpoints: the state of a training stage, written to disk atomically."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from slant._version import __version__
from slant.errors import ModelError, TrainingError
from slant.files import replacing
from slant.nets.network import Network, channels_last
from slant.train.context import StageContext
from slant.train.network import NetworkSpec
from slant.train.stage_settings import StageSettings

_PARTS = {"net", "average", "optimizer", "step", "losses", "scores", "network", "protocol", "subjects"}


@dataclass(frozen=True)
class Identity:
    """Properties of a training that must not change between a checkpoint and the run that resumes from it.

    Attributes
    ----------
    network : dict
        ``kind`` and ``settings`` as plain values.
    protocol, subjects : str, tuple of str
        Names of the label protocol and of the training scans.
    """

    network: dict[str, Any]
    protocol: str
    subjects: tuple[str, ...]


def identity_of(context: StageContext) -> Identity:
    """The properties of a training that its checkpoints store."""
    subjects = tuple(scan.name for scan in context.scans.training)
    return Identity(context.run.network.plain, context.run.settings.protocol, subjects)


@dataclass
class State:
    """State of a training stage.

    Attributes
    ----------
    net, average : Network
        Network with the current weights, and one with their moving average, which the stage passes on.
    step : int
        Number of finished steps; ``losses`` has the loss of each.
    scores : list of (int, float)
        Number of steps, and the mean Dice of the held-out subjects after them.
    """

    net: Network
    average: Network
    optimizer: torch.optim.Optimizer
    step: int = 0
    losses: list[float] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)


def new_state(
    network: NetworkSpec, stage: StageSettings, weights: dict[str, Tensor] | None, device: str = "cpu"
) -> State:
    """A new training state, with the given weights of another stage or, without them, with random weights.

    Raises
    ------
    TrainingError
        If the weights do not fit the network.
    """
    torch.manual_seed(stage.seed)
    nets = [channels_last(network.build()) for _ in range(2)]
    if weights is not None:
        load_weights(nets[0], weights, "the initial weights")
    nets[1].load_state_dict(nets[0].state_dict())
    nets = [net.to(device) for net in nets]
    optimizer = torch.optim.AdamW(
        nets[0].parameters(), lr=stage.learning_rate, weight_decay=stage.weight_decay, betas=(0.9, 0.98)
    )
    return State(nets[0], nets[1], optimizer)


def load_weights(net: Network, weights: dict[str, Tensor], description: str) -> None:
    """Load weights into a network, all of them or none.

    Parameters
    ----------
    description : str
        Subject of the error message, for example "the initial weights".

    Raises
    ------
    TrainingError
        If tensors are missing, unexpected or of another shape; the message lists all of them.
    """
    own = net.state_dict()
    missing, extra = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    shapes = [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    problems = [
        f"{label}: {', '.join(names)}"
        for label, names in (("missing", missing), ("unexpected", extra), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise TrainingError(f"{description} belong to another network or protocol; tensors " + "; ".join(problems))
    net.load_state_dict(weights)


def save_checkpoint(path: Path, state: State, identity: Identity) -> None:
    """Write a checkpoint to a temporary file, then replace the previous checkpoint by it.

    Raises
    ------
    TrainingError
        If it cannot be written; the previous checkpoint is kept.
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
        "subjects": list(identity.subjects),
        "slant": __version__,
    }
    _write(path, stored, f"the checkpoint {path} at step {state.step}")


def save_round(path: Path, checkpoint: Path, steps: int) -> None:
    """Save the averaged weights of a checkpoint if it is at the last step of a round; do nothing if it is later.

    Raises
    ------
    TrainingError
        If the weights cannot be written.
    """
    stored = _read(checkpoint, {"average", "step"})
    if stored["step"] == steps:
        _write(path, {"average": stored["average"]}, f"the weights {path}")


def _write(path: Path, stored: dict[str, Any], description: str) -> None:
    try:
        with replacing(path, unique=False) as partial:
            torch.save(stored, partial)
    except (OSError, RuntimeError) as error:
        previous = "the previous one is kept" if path.is_file() else "there is no earlier one"
        raise TrainingError(
            f"cannot write {description}: {error}; {previous}; check free space and write permission, then run the "
            "same command to resume"
        ) from error


def load_checkpoint(path: Path, state: State, identity: Identity) -> None:
    """Load a checkpoint into a state, so that training resumes where it stopped.

    Raises
    ------
    ModelError
        If the file is not a checkpoint.
    TrainingError
        If it was made with another network, protocol or set of scans.
    """
    stored = _read(path, _PARTS)
    load_weights(state.net, stored["net"], f"the weights in {path}")
    for part, found, expected in (
        ("protocol", stored["protocol"], identity.protocol),
        ("network", stored["network"], identity.network),
        ("set of scans", sorted(stored["subjects"]), sorted(identity.subjects)),
    ):
        if found != expected:
            raise TrainingError(
                f"{path} was trained with another {part}: found {found}, expected {expected}; use another --work-dir, "
                "or delete the checkpoint to start again"
            )
    state.average.load_state_dict(stored["average"])
    state.optimizer.load_state_dict(stored["optimizer"])
    state.step, state.losses = stored["step"], stored["losses"]
    state.scores = [(int(step), float(score)) for step, score in stored["scores"]]


def averaged_weights(path: Path, steps: int = 0) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint.

    Parameters
    ----------
    steps : int
        Number of steps after which the stage is finished; 0 accepts any checkpoint.

    Raises
    ------
    ModelError
        If the file does not exist, is not a checkpoint, or has seen fewer steps.
    """
    if not path.is_file():
        raise ModelError(f"checkpoint {path} does not exist; run the stage that writes it first")
    stored = _read(path, {"average", "step"} if steps else {"average"})
    weights: dict[str, Tensor] = stored["average"]
    if steps and stored["step"] < steps:
        raise ModelError(f"{path} has seen {stored['step']} of {steps} steps; run its stage again to finish it")
    return weights


def _read(path: Path, required: set[str]) -> dict[str, Any]:
    """The content of a checkpoint, which must have the required parts."""
    message = f"{path} is not a checkpoint of this version of `slant train`, expected whole.pt or the .pt of a tile"
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except (RuntimeError, LookupError, TypeError, ValueError, EOFError, OSError, UnpicklingError) as error:
        raise ModelError(message) from error
    if not isinstance(stored, dict) or required - set(stored):
        raise ModelError(message)
    return stored
