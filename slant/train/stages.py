"""Training stages: one network on the whole brain, then one network for each tile."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from joblib import Parallel, delayed

from slant.errors import ModelError, SettingsError, TrainingError
from slant.grid import Shape
from slant.io.models import embedded_models, model_folder
from slant.io.resources import load_protocol
from slant.io.templates import load_template
from slant.nets.predict import Mirroring
from slant.nets.registry import KINDS, build_network, settings_of
from slant.nets.weights import read_model
from slant.train.checkpoint import Identity, averaged_weights, load_checkpoint, new_state, save_round
from slant.train.log import logged_stage
from slant.train.loop import train_stage
from slant.train.net2net import net2net_widening
from slant.train.prepare import TrainingScans, load_training
from slant.train.settings import TileSettings
from slant.train.step import Field, StageContext, regions_of, task_classes
from slant.train.tile_order import generations, neighbours, parent, select_tiles
from slant.train.validate import usable_devices, validator_of, whole_tile

if TYPE_CHECKING:
    from torch import Tensor

    from slant.nets.network import Network, NetworkSettings
    from slant.tiles import Tile
    from slant.train.checkpoint import State
    from slant.train.settings import StageSettings, TrainSettings

WHOLE = ((4, 12, 0), (160, 192, 156))
"""First voxel and size of the box of the whole-brain stages; it contains all training brains, not the empty border."""


def network_of(settings: TrainSettings) -> tuple[str, NetworkSettings]:
    """Kind and settings of the network of a run.

    Raises
    ------
    SettingsError
        If the kind does not have these settings.
    """
    protocol = load_protocol(settings.protocol)
    choice = settings.network
    values = {**choice.explicit(), "outputs": len(protocol)}
    if choice.tasks:
        classes = task_classes(protocol, choice.tasks)
        values["tasks"] = {task: int(torch.max(labels)) + 1 for task, labels in classes.items()}
    return choice.kind, settings_of(choice.kind, values, "[network]")


def train_whole(
    settings: TrainSettings, name: str = "whole", until: float | None = None, seen: tuple[Shape, Shape] = WHOLE
) -> bool:
    """Train one network on the whole brain.

    Parameters
    ----------
    settings : TrainSettings
    name : {"pretrain", "whole"}
        Name of the stage; ``whole`` is initialized from ``pretrain`` if there is one.
    until : float, optional
        Value of `time.monotonic` at which training stops; another call resumes it.
    seen : pair of 3 int each
        First voxel and size of the box of the template that the network sees.

    Returns
    -------
    bool
        Whether all steps are finished.
    """
    stage: StageSettings = settings.whole
    initial = None if settings.init_from is None else _external_weights(settings)
    if name == "pretrain":
        if settings.pretrain is None:
            return True
        stage = settings.pretrain
    elif settings.pretrain is not None:
        initial = averaged_weights(settings.run / "pretrain.pt", settings.pretrain.steps)
    layout, tile = whole_tile(settings.layout)
    box = _enlarged(seen, KINDS[settings.network.kind].network.multiple)
    channels = np.arange(len(load_protocol(settings.protocol)))
    field = Field(*box, layout.shape, channels, _mirror_x())
    scans = load_training(settings)
    validate = (
        validator_of(scans, settings.layout, None, _mirroring(settings))
        if stage.crop
        else validator_of(scans, layout, tile)
    )
    context = replace(_context(settings, field, stage), crop=cropped(settings) if stage.crop else None)
    device = usable_devices(settings.devices)[0]
    return _train(settings, (f"{name}.pt", initial, None), (scans, context, validate), (device, until))


def cropped(settings: TrainSettings) -> Shape:
    """Size of the crops of a stage with ``crop``: that of a tile, enlarged to a size that the network accepts."""
    return _enlarged(((0, 0, 0), settings.layout.size), KINDS[settings.network.kind].network.multiple)[1]


def _external_weights(settings: TrainSettings) -> dict[str, Tensor]:
    """The weights of ``init_from``, expanded if the network of this run has more channels."""
    kind, network = network_of(settings)
    torch.manual_seed(settings.whole.seed)
    return net2net_widening(_read_weights(Path(settings.init_from or "")), build_network(kind, network))


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, or of a model with one network.

    Raises
    ------
    ModelError
        If ``path`` is neither.
    """
    if path.is_file() or not (path.is_dir() or str(path) in embedded_models()):
        return averaged_weights(path)
    networks = read_model(model_folder(str(path)))
    if not networks.shared:
        raise ModelError(
            f"{path} has a separate network for each of its {len(networks.layout)} tiles, expected a model with one "
            "network; give a model-whole folder or a checkpoint"
        )
    return networks.network(networks.layout.tiles[0].name).state_dict()


def _enlarged(box: tuple[Shape, Shape], multiple: int) -> tuple[Shape, Shape]:
    """The box enlarged on both sides so that its size is a multiple of the given number."""
    padding = [-n % multiple for n in box[1]]
    start = tuple(s - p // 2 for s, p in zip(box[0], padding, strict=True))
    shape = tuple(n + p for n, p in zip(box[1], padding, strict=True))
    return start, shape  # type: ignore[return-value]


def _mirror_x() -> float:
    return load_template().mirror_x


def _mirroring(settings: TrainSettings) -> Mirroring | None:
    if not settings.mirror:
        return None
    return Mirroring(load_protocol(settings.protocol).mirrored_channels, _mirror_x())


def _context(settings: TrainSettings, field: Field, stage: StageSettings) -> StageContext:
    protocol = load_protocol(settings.protocol)
    regions = regions_of(protocol, settings.network.tasks)
    return StageContext(field, stage, settings.augment, settings.loss, regions, settings.precision)


def train_tiles(settings: TrainSettings, tiles: tuple[str, ...] = (), until: float | None = None) -> bool:
    """Fine-tune a copy of the whole-brain network for each tile.

    Parameters
    ----------
    settings : TrainSettings
    tiles : tuple of str
        Names of the tiles to train, so that several machines can share the work; all by default.
    until : float, optional
        Value of `time.monotonic` at which training stops; another call resumes it.

    Returns
    -------
    bool
        Whether all tiles are finished.

    Raises
    ------
    LayoutError
        If the layout does not contain a tile.
    TrainingError
        If a tile needs another one that is not trained yet.
    """
    names = select_tiles(settings.layout, tiles)
    if settings.tile.init != "scratch":
        averaged_weights(settings.run / "whole.pt", settings.whole.steps)
    groups = generations(settings.layout, names) if settings.tile.init == "neighbour" else [names]
    devices = usable_devices(settings.devices)
    for round_ in range(settings.tile.rounds):
        for group in groups:
            parts = [group[i :: len(devices)] for i in range(len(devices))]
            threads = torch.get_num_threads()
            jobs = [
                (settings, *pair, round_, _seconds_left(until), threads) for pair in zip(parts, devices, strict=True)
            ]
            if len(devices) == 1:
                done = [_train_on_device(*jobs[0])]
            else:
                done = Parallel(n_jobs=len(devices))(delayed(_train_on_device)(*job) for job in jobs)
            if not all(done):
                return False
    return True


def _seconds_left(until: float | None) -> float | None:
    """Seconds until training stops; the monotonic clocks of two processes cannot be compared."""
    return None if until is None else until - time.monotonic()


def _train_on_device(
    settings: TrainSettings, names: list[str], device: str, round_: int, seconds: float | None, threads: int
) -> bool:
    """Train some tiles on one device; whether all of them are finished."""
    torch.set_num_threads(threads)  # the last bits of a sum on a CPU depend on the number of threads
    until = None if seconds is None else time.monotonic() + seconds
    if not names:
        return True
    scans = load_training(settings)
    prior = scans.prior
    tiles = {tile.name: tile for tile in settings.layout}
    protocol = load_protocol(settings.protocol)
    kind = KINDS[settings.network.kind].network
    for name in names:
        tile = tiles[name]
        box = _enlarged((tile.start, settings.layout.size), kind.multiple)
        channels = prior.possible(tile.start, tile.stop) if kind.prior else np.arange(len(protocol))
        field = Field(*box, settings.layout.shape, channels, _mirror_x())
        steps = settings.tile.steps * (round_ + 1) // settings.tile.rounds
        validate = validator_of(scans, settings.layout, tile)
        initial, anchor = _initial_weights(settings, tile), _anchor(settings, name, round_)
        network = (f"{settings.name}/{name}.pt", initial, anchor)
        context = _context(settings, field, settings.tile)
        if not _train(settings, network, (scans, context, validate), (device, until), steps):
            return False
        if settings.tile.rounds > 1:
            save_round(_snapshot(settings, name, round_), settings.run / network[0], steps)
    return True


def _initial_weights(settings: TrainSettings, tile: Tile) -> dict[str, Tensor] | None:
    """The initial weights of a tile; None for random ones."""
    if settings.tile.init == "scratch":
        return None
    neighbour = parent(settings.layout, tile.name) if settings.tile.init == "neighbour" else None
    if neighbour is None:
        return averaged_weights(settings.run / "whole.pt", settings.whole.steps)
    in_rounds = settings.tile.rounds > 1
    path = _snapshot(settings, neighbour, 0) if in_rounds else settings.run / settings.name / f"{neighbour}.pt"
    if not path.is_file():
        raise TrainingError(
            f"tile {tile.name} is initialized from its neighbour {neighbour}, which is not trained; train tile "
            f"{neighbour} first"
        )
    return averaged_weights(path, 0 if in_rounds else settings.tile.steps)


def _freeze(net: Network, prefixes: tuple[str, ...]) -> None:
    """Exclude the tensors whose names begin with one of the prefixes from training.

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


def _snapshot(settings: TrainSettings, name: str, round_: int) -> Path:
    """File of the averaged weights of a tile after a round."""
    return settings.run / settings.name / f"{name}.round{round_ + 1}.pt"


def _anchor(settings: TrainSettings, name: str, round_: int) -> tuple[float, dict[str, Tensor]] | None:
    """Soft sharing of a tile: the fraction, and the weights of the whole brain or the mean of the neighbours'."""
    if not settings.tile.soft_sharing:
        return None
    if round_ == 0:
        if settings.tile.init == "scratch":
            return None
        return settings.tile.soft_sharing, averaged_weights(settings.run / "whole.pt", settings.whole.steps)
    snapshots = [_snapshot(settings, other, round_ - 1) for other in neighbours(settings.layout, name)]
    missing = [path.name for path in snapshots if not path.is_file()]
    if missing:
        raise TrainingError(
            f"soft sharing of tile {name} in round {round_ + 1} needs its neighbours, but "
            f"{settings.run / settings.name} does not contain {', '.join(missing)}; train these tiles up to round "
            f"{round_} first"
        )
    weights = [averaged_weights(path) for path in snapshots]
    mean = {key: torch.stack([w[key].float() for w in weights]).mean(dim=0) for key in weights[0]}
    return settings.tile.soft_sharing, mean


def _train(
    settings: TrainSettings,
    network: tuple[str, dict[str, Tensor] | None, tuple[float, dict[str, Tensor]] | None],
    data: tuple[TrainingScans, StageContext, object],
    limits: tuple[str, float | None],
    steps: int | None = None,
) -> bool:
    """Train one network, resuming from its checkpoint if there is one; whether all steps are finished.

    Parameters
    ----------
    settings : TrainSettings
    network : str, dict of Tensor or None, and anchor or None
        File of the checkpoint below the run folder, initial weights, and weights for soft sharing.
    data : TrainingScans, StageContext and callable
        The callable validates a state.
    limits : str and float or None
        Device, and the value of `time.monotonic` at which training stops.
    steps : int, optional
        Number of steps after which the call ends; by default that of the stage.
    """
    file, initial, anchor = network
    scans, context, validate = data
    device, until = limits
    path = settings.run / file
    path.parent.mkdir(parents=True, exist_ok=True)
    kind, network_settings = network_of(settings)
    subjects = tuple(scan.name for scan in [*scans.manual, *scans.auxiliary])
    identity = Identity({"kind": kind, "settings": network_settings.as_dict()}, settings.protocol, subjects)
    state: State = new_state((kind, network_settings), context.stage, initial, device)
    if path.is_file():
        load_checkpoint(path, state, identity)
    state.net.memory = settings.memory
    if isinstance(context.stage, TileSettings):
        _freeze(state.net, context.stage.shared_layers)
    steps = context.stage.steps if steps is None else steps
    if state.step >= steps:
        return True
    with logged_stage(path, state, (context.stage, identity, validate), until) as after_step:  # type: ignore[arg-type]
        train_stage(
            state,
            (scans.manual, scans.auxiliary),
            context,
            lambda current: after_step(current) and current.step < steps,
            anchor,
            (scans.groupwise, scans.external_prior),
        )
    return state.step >= steps
