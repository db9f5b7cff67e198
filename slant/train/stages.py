"""One network trained in one stage: on the whole brain, or in a tile."""

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
from slant.train.log import watched
from slant.train.loop import train_stage
from slant.train.prepare import TrainingScans, load_training
from slant.train.settings import TileSettings
from slant.train.step import Field, Lesson, regions_of, task_classes
from slant.train.tiling import chosen, generations, neighbours, parent
from slant.train.validate import judge_of, usable_devices, whole_tile
from slant.train.widen import widened

if TYPE_CHECKING:
    from torch import Tensor

    from slant.nets.network import Network, NetworkSettings
    from slant.tiles import Tile
    from slant.train.checkpoint import State
    from slant.train.settings import StageSettings, TrainSettings

WHOLE = ((4, 12, 0), (160, 192, 156))
"""First voxel and size of the box that the whole-brain stages see: every training brain, without the empty rim."""


def network_of(settings: TrainSettings) -> tuple[str, NetworkSettings]:
    """Kind and settings of the network that a run trains.

    Raises
    ------
    SettingsError
        If the kind has no such settings.
    """
    protocol = load_protocol(settings.protocol)
    choice = settings.network
    values = {**choice.given(), "outputs": len(protocol)}
    if choice.tasks:
        classes = task_classes(protocol, choice.tasks)
        values["tasks"] = {task: int(torch.max(of)) + 1 for task, of in classes.items()}
    return choice.kind, settings_of(choice.kind, values, "[network]")


def train_whole(
    settings: TrainSettings, name: str = "whole", until: float | None = None, seen: tuple[Shape, Shape] = WHOLE
) -> bool:
    """One network on the whole brain; True when all its steps are done.

    Parameters
    ----------
    settings : TrainSettings
    name : {"pretrain", "whole"}
        The stage; ``whole`` starts from ``pretrain`` if there is one.
    until : float, optional
        `time.monotonic` at which to stop and leave the rest to another call.
    seen : pair of 3 int each
        First voxel and size of the box of the template that it sees.
    """
    stage: StageSettings = settings.whole
    start = None if settings.start is None else _weights_to_start(settings)
    if name == "pretrain":
        if settings.pretrain is None:
            return True
        stage = settings.pretrain
    elif settings.pretrain is not None:
        start = averaged_weights(settings.run / "pretrain.pt", settings.pretrain.steps)
    layout, tile = whole_tile(settings.layout)
    box = _grown(seen, KINDS[settings.network.kind].network.multiple)
    channels = np.arange(len(load_protocol(settings.protocol)))
    field = Field(*box, layout.shape, channels, _mirror_x())
    scans = load_training(settings)
    judge = (
        judge_of(scans, settings.layout, None, _mirroring(settings)) if stage.crop else judge_of(scans, layout, tile)
    )
    lesson = replace(_lesson(settings, field, stage), crop=cropped(settings) if stage.crop else None)
    device = usable_devices(settings.devices)[0]
    return _train(settings, (f"{name}.pt", start, None), (scans, lesson, judge), (device, until))


def cropped(settings: TrainSettings) -> Shape:
    """Size of the boxes that a stage with ``crop`` sees: that of a tile, grown to what the network can take."""
    return _grown(((0, 0, 0), settings.layout.size), KINDS[settings.network.kind].network.multiple)[1]


def _weights_to_start(settings: TrainSettings) -> dict[str, Tensor]:
    """Those that ``start`` names, widened where the network has more channels."""
    kind, network = network_of(settings)
    torch.manual_seed(settings.whole.seed)
    return widened(_weights_of(Path(settings.start or "")), build_network(kind, network))


def _weights_of(start: Path) -> dict[str, Tensor]:
    """Those of a checkpoint, or of a model with one network.

    Raises
    ------
    ModelError
        If it is neither.
    """
    if start.is_file() or not (start.is_dir() or str(start) in embedded_models()):
        return averaged_weights(start)
    networks = read_model(model_folder(str(start)))
    if not networks.shared:
        raise ModelError(
            f"{start} has {len(networks.layout)} tiles with networks of their own, wanted one network: the model-whole "
            "that training leaves, or a checkpoint"
        )
    return networks.network(networks.layout.tiles[0].name).state_dict()


def _grown(seen: tuple[Shape, Shape], multiple: int) -> tuple[Shape, Shape]:
    """The box grown to whole multiples, on both sides alike."""
    more = [-n % multiple for n in seen[1]]
    start = tuple(s - m // 2 for s, m in zip(seen[0], more, strict=True))
    shape = tuple(n + m for n, m in zip(seen[1], more, strict=True))
    return start, shape  # type: ignore[return-value]


def _mirror_x() -> float:
    return load_template().mirror_x


def _mirroring(settings: TrainSettings) -> Mirroring | None:
    if not settings.mirror:
        return None
    return Mirroring(load_protocol(settings.protocol).mirrored_channels, _mirror_x())


def _lesson(settings: TrainSettings, field: Field, stage: StageSettings) -> Lesson:
    protocol = load_protocol(settings.protocol)
    regions = regions_of(protocol, settings.network.tasks)
    return Lesson(field, stage, settings.augment, settings.loss, regions, settings.precision)


def train_tiles(settings: TrainSettings, tiles: tuple[str, ...] = (), until: float | None = None) -> bool:
    """A copy of the whole-brain network for each tile, fine-tuned there; True when all are done.

    Parameters
    ----------
    settings : TrainSettings
    tiles : tuple of str
        Names of the tiles to train; all by default, so that several machines may share them.
    until : float, optional
        `time.monotonic` at which to stop.

    Raises
    ------
    LayoutError
        If there is no such tile.
    TrainingError
        If a tile needs another one that is not trained yet.
    """
    names = chosen(settings.layout, tiles)
    if settings.tile.start != "scratch":
        averaged_weights(settings.run / "whole.pt", settings.whole.steps)
    groups = generations(settings.layout, names) if settings.tile.start == "neighbour" else [names]
    devices = usable_devices(settings.devices)
    for round_ in range(settings.tile.rounds):
        for group in groups:
            shares = [group[i :: len(devices)] for i in range(len(devices))]
            threads = torch.get_num_threads()
            jobs = [(settings, *pair, round_, _left(until), threads) for pair in zip(shares, devices, strict=True)]
            if len(devices) == 1:
                done = [_train_share(*jobs[0])]
            else:
                done = Parallel(n_jobs=len(devices))(delayed(_train_share)(*job) for job in jobs)
            if not all(done):
                return False
    return True


def _left(until: float | None) -> float | None:
    """Seconds left; the clock of another process starts elsewhere."""
    return None if until is None else until - time.monotonic()


def _train_share(
    settings: TrainSettings, names: list[str], device: str, round_: int, seconds: float | None, threads: int
) -> bool:
    torch.set_num_threads(threads)  # the last bits of a sum on a CPU depend on their number
    until = None if seconds is None else time.monotonic() + seconds
    if not names:
        return True
    scans = load_training(settings)
    prior = scans.prior
    known = {tile.name: tile for tile in settings.layout}
    protocol = load_protocol(settings.protocol)
    kind = KINDS[settings.network.kind].network
    for name in names:
        tile = known[name]
        box = _grown((tile.start, settings.layout.size), kind.multiple)
        channels = prior.possible(tile.start, tile.stop) if kind.prior else np.arange(len(protocol))
        field = Field(*box, settings.layout.shape, channels, _mirror_x())
        steps = settings.tile.steps * (round_ + 1) // settings.tile.rounds
        judge = judge_of(scans, settings.layout, tile)
        start, anchor = _start(settings, tile), _anchor(settings, name, round_)
        what = (f"{settings.name}/{name}.pt", start, anchor)
        lesson = _lesson(settings, field, settings.tile)
        if not _train(settings, what, (scans, lesson, judge), (device, until), steps):
            return False
        if settings.tile.rounds > 1:
            save_round(_snapshot(settings, name, round_), settings.run / what[0], steps)
    return True


def _start(settings: TrainSettings, tile: Tile) -> dict[str, Tensor] | None:
    """The weights that a tile starts from; None for random ones."""
    if settings.tile.start == "scratch":
        return None
    above = parent(settings.layout, tile.name) if settings.tile.start == "neighbour" else None
    if above is None:
        return averaged_weights(settings.run / "whole.pt", settings.whole.steps)
    many = settings.tile.rounds > 1
    path = _snapshot(settings, above, 0) if many else settings.run / settings.name / f"{above}.pt"
    if not path.is_file():
        raise TrainingError(
            f"tile {tile.name} starts from its neighbour {above}, which is not trained; train that first"
        )
    return averaged_weights(path, 0 if many else settings.tile.steps)


def _keep(net: Network, beginnings: tuple[str, ...]) -> None:
    """Train only the tensors whose names begin with none of these.

    Raises
    ------
    SettingsError
        If there is no such tensor.
    """
    names = [name for name, _ in net.named_parameters()]
    strange = [b for b in beginnings if not any(name.startswith(b) for name in names)]
    if strange:
        known = ", ".join(sorted({".".join(name.split(".")[:2]) for name in names}))
        raise SettingsError(f"[tile] keep: no tensor begins with {', '.join(strange)}; there are {known}")
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not name.startswith(beginnings))


def _snapshot(settings: TrainSettings, name: str, round_: int) -> Path:
    return settings.run / settings.name / f"{name}.round{round_ + 1}.pt"


def _anchor(settings: TrainSettings, name: str, round_: int) -> tuple[float, dict[str, Tensor]] | None:
    """How much, and to which weights, a tile is pulled: its neighbours' of the round before, or the whole brain's."""
    if not settings.tile.pull:
        return None
    if round_ == 0:
        if settings.tile.start == "scratch":
            return None
        return settings.tile.pull, averaged_weights(settings.run / "whole.pt", settings.whole.steps)
    around = [_snapshot(settings, other, round_ - 1) for other in neighbours(settings.layout, name)]
    lacking = [path.name for path in around if not path.is_file()]
    if lacking:
        raise TrainingError(
            f"tile {name} is pulled to its neighbours in round {round_ + 1}, but {settings.run / settings.name} lacks "
            f"{', '.join(lacking)}; train those tiles up to round {round_} first"
        )
    weights = [averaged_weights(path) for path in around]
    mean = {key: torch.stack([w[key].float() for w in weights]).mean(dim=0) for key in weights[0]}
    return settings.tile.pull, mean


def _train(
    settings: TrainSettings,
    what: tuple[str, dict[str, Tensor] | None, tuple[float, dict[str, Tensor]] | None],
    data: tuple[TrainingScans, Lesson, object],
    where: tuple[str, float | None],
    steps: int | None = None,
) -> bool:
    """Train one network from its checkpoint, if there is one, up to so many steps; True if they are done."""
    file, start, anchor = what
    scans, lesson, judge = data
    device, until = where
    path = settings.run / file
    path.parent.mkdir(parents=True, exist_ok=True)
    kind, network = network_of(settings)
    people = tuple(scan.name for scan in [*scans.manual, *scans.auxiliary])
    identity = Identity({"kind": kind, "settings": network.as_dict()}, settings.protocol, people)
    state: State = new_state((kind, network), lesson.stage, start, device)
    if path.is_file():
        load_checkpoint(path, state, identity)
    state.net.memory = settings.memory
    if isinstance(lesson.stage, TileSettings):
        _keep(state.net, lesson.stage.keep)
    steps = lesson.stage.steps if steps is None else steps
    if state.step >= steps:
        return True
    with watched(path, state, (lesson.stage, identity, judge), until) as after_step:  # type: ignore[arg-type]
        train_stage(
            state,
            (scans.manual, scans.auxiliary),
            lesson,
            lambda now: after_step(now) and now.step < steps,
            anchor,
            (scans.groupwise, scans.given_prior),
        )
    return state.step >= steps
