"""Training stages: 2D networks of some kinds, one network on the whole brain, then one network for each tile."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch
from joblib import Parallel, delayed
from torch import Tensor

from slant.train.checkpoint import identity_of, load_checkpoint, new_state, save_round
from slant.train.context import RunContext, StageContext, tile_context, whole_context
from slant.train.data import TrainingScans
from slant.train.log import logged_stage
from slant.train.loop import train_stage
from slant.train.prepare import load_training
from slant.train.slices import fold_views, folds_of_slices, slices_checkpoint, slicewise_run
from slant.train.splits import subject_folds
from slant.train.stage_settings import TileSettings
from slant.train.transfer import (
    freeze,
    generations,
    initial_tile_weights,
    initial_weights,
    select_tiles,
    shared_weights,
    snapshot,
    weights_of_whole,
)


def train_slices(run: RunContext, scans: TrainingScans) -> bool:
    """Train the 2D networks from which the network of the run starts; whether all of them are finished.

    With folds, one of each plane is trained on all scans, and one without each fold of the training subjects.
    """
    stage = run.assembly.slices
    if stage is None:
        return True
    groups: list[tuple[int | None, TrainingScans]] = [(None, scans)]
    groups += [(fold, _without(scans, names)) for fold, names in enumerate(folds_of_slices(run, scans))]
    for fold, seen in groups:
        for plane in run.network.settings.slicewise:
            context = whole_context(slicewise_run(run, plane), seen, stage)
            if not _train(context, slices_checkpoint(run, plane, fold), None, stage.steps):
                return False
    return True


def _without(scans: TrainingScans, names: list[str]) -> TrainingScans:
    """The scans without some of the manual ones."""
    return replace(scans, manual=[scan for scan in scans.manual if scan.name not in names])


def train_whole(run: RunContext, scans: TrainingScans, name: str = "whole") -> bool:
    """Train one network on the whole brain; whether all steps are finished.

    Parameters
    ----------
    name : {"pretrain", "whole"}
        Name of the stage; ``whole`` is initialized from ``pretrain`` if there is one.
    """
    stage = run.assembly.pretrain if name == "pretrain" else run.assembly.whole
    if stage is None:
        return True
    weights = initial_weights(run, name)
    return _train(whole_context(run, scans, stage), run.checkpoint(name), weights, stage.steps)


def train_out_of_fold(run: RunContext, scans: TrainingScans, folds: int) -> bool:
    """Train a whole-brain network without each fold of the training subjects; whether all of them are finished."""
    stage = run.assembly.whole
    for fold, names in enumerate(subject_folds(run.settings, [scan.name for scan in scans.manual], folds)):
        context = whole_context(run, _without(scans, names), stage)
        if not _train(context, run.out_of_fold(folds, fold), initial_weights(run, "whole"), stage.steps):
            return False
    return True


def train_tiles(run: RunContext, scans: TrainingScans, tiles: tuple[str, ...] = ()) -> bool:
    """Fine-tune a copy of the whole-brain network for each tile; whether all of them are finished.

    Parameters
    ----------
    tiles : tuple of str
        Names of the tiles to train, so that several machines can share the work; all by default.

    Raises
    ------
    LayoutError
        If the layout does not contain a tile.
    TrainingError
        If a tile needs another one that is not trained yet.
    """
    settings, layout = run.assembly.tile, run.assembly.layout
    names = select_tiles(run.assembly, tiles)
    if settings.init != "scratch":
        weights_of_whole(run)
    groups = generations(layout, names) if settings.init == "neighbour" else [names]
    return all(_train_group(run, scans, group, round_) for round_ in range(settings.rounds) for group in groups)


def _train_group(run: RunContext, scans: TrainingScans, names: list[str], round_: int) -> bool:
    """Train some tiles, distributed over the devices; whether all of them are finished."""
    count = len(run.devices)
    if count == 1:
        return _train_on_device(run, scans, names, round_)
    seconds = None if run.deadline is None else run.deadline - time.monotonic()
    threads = torch.get_num_threads()
    jobs = [
        delayed(_train_in_process)(replace(run, devices=(device,)), names[i::count], round_, seconds, threads)
        for i, device in enumerate(run.devices)
    ]
    return all(Parallel(n_jobs=count)(jobs))


def _train_in_process(run: RunContext, names: list[str], round_: int, seconds: float | None, threads: int) -> bool:
    """`_train_on_device` in another process, which loads the scans itself: sending them would take more memory.

    The monotonic clocks of two processes cannot be compared, so the deadline is given in seconds.
    """
    torch.set_num_threads(threads)  # the last bits of a sum on a CPU depend on the number of threads
    deadline = None if seconds is None else time.monotonic() + seconds
    return not names or _train_on_device(replace(run, deadline=deadline), load_training(run), names, round_)


def _train_on_device(run: RunContext, scans: TrainingScans, names: list[str], round_: int) -> bool:
    """Train some tiles on the first device of the run; whether all of them are finished."""
    settings = run.assembly.tile
    tiles = {tile.name: tile for tile in run.assembly.layout}
    steps = settings.steps * (round_ + 1) // settings.rounds
    for name in names:
        weights, path = initial_tile_weights(run, name), run.tile_checkpoint(name)
        context = replace(tile_context(run, scans, tiles[name]), shared_weights=shared_weights(run, name, round_))
        if not _train(context, path, weights, steps):
            return False
        if settings.rounds > 1:
            save_round(snapshot(run, name, round_), path, steps)
    return True


def _train(context: StageContext, path: Path, weights: dict[str, Tensor] | None, steps: int) -> bool:
    """Train one network up to a number of steps, resuming from its checkpoint if there is one; whether it got there."""
    run, stage = context.run, context.stage
    context = replace(context, views=fold_views(run, context.scans))
    path.parent.mkdir(parents=True, exist_ok=True)
    state = new_state(run.network, stage, weights, context.device)
    if path.is_file():
        load_checkpoint(path, state, identity_of(context))
    state.net.memory = run.settings.memory
    shared_layers = stage.shared_layers if isinstance(stage, TileSettings) else ()
    freeze(state.net, (*run.network.type.frozen, *shared_layers))
    if state.step < steps:
        with logged_stage(path, state, context) as after_steps:
            train_stage(state, context, after_steps, until=steps)
    return state.step >= steps
