"""A training run: prepare, whole brain, tiles, export, evaluate, each resumable on its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor
from tqdm import tqdm

import slant
from slant.errors import LayoutError, ModelError
from slant.grid import Shape
from slant.io.models import load_inputs, manifest_of
from slant.io.read import read_labels, read_scan
from slant.io.resources import load_protocol
from slant.nets.unet import UNetSettings
from slant.nets.weights import write_model
from slant.pipeline import prepare
from slant.resample import pick_labels
from slant.tiles import TileLayout
from slant.train.data import LabelledScan, build_prior, labelled_names, load_scans
from slant.train.evaluate import evaluate, mean_by_person
from slant.train.loop import Field, StageSettings, State, load_checkpoint, new_state, save_checkpoint, train_stage

if TYPE_CHECKING:
    from slant.train.settings import TrainSettings

WHOLE = ((4, 12, 0), (160, 192, 156))
"""First voxel and size of the box that the whole-brain stage sees: every training brain, without the empty rim."""

SAVE_SECONDS = 120


def prepare_scans(settings: TrainSettings) -> None:
    """Carry every labelled scan into template space, once; finished ones are kept."""
    (settings.work / "prepared").mkdir(parents=True, exist_ok=True)
    names = [name for name in labelled_names(settings.data) if not _prepared(settings, name).is_file()]
    jobs = Parallel(n_jobs=-1, return_as="generator_unordered")(delayed(_prepare)(settings, name) for name in names)
    for _ in tqdm(jobs, total=len(names), desc="prepare", unit="scan", file=sys.stderr):
        pass


def _prepared(settings: TrainSettings, name: str) -> Path:
    return settings.work / "prepared" / f"{name}.npz"


def _prepare(settings: TrainSettings, name: str) -> None:
    scan = read_scan(settings.data / f"{name}_T1w.nii.gz")
    labels = read_labels(settings.data / f"{name}_dseg.nii.gz", scan)
    inputs = load_inputs()
    prepared = prepare(scan.volume, inputs)
    carried = pick_labels(labels, inputs.template.grid, prepared.home_from_template)
    channels = load_protocol(settings.protocol).channels_from_ids(carried.data, unknown="background")
    path = _prepared(settings, name)
    partial = path.with_name(f"{name}.part.npz")
    np.savez_compressed(partial, image=prepared.image.data.astype(np.float16), channels=channels)
    partial.replace(path)


def _scans(settings: TrainSettings) -> list[LabelledScan]:
    trained, _ = settings.split(labelled_names(settings.data))
    return load_scans(settings.work / "prepared", trained, len(load_protocol(settings.protocol)))


def _network(settings: TrainSettings) -> UNetSettings:
    return UNetSettings(len(load_protocol(settings.protocol)), settings.widths)


def averaged_weights(path: Path, steps: int = 0) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint that has seen at least so many steps.

    Raises
    ------
    ModelError
        If it is not there, is no checkpoint, or its stage is not finished.
    """
    if not path.is_file():
        raise ModelError(f"no checkpoint {path}; train the stage that makes it first")
    try:
        stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        weights: dict[str, Tensor] = stored["average"]
        done = int(stored["step"])
    except (RuntimeError, KeyError, TypeError, EOFError, UnpicklingError) as error:
        raise ModelError(f"{path} is not a checkpoint of `slant train`; give its whole.pt or a tile's .pt") from error
    if done < steps:
        raise ModelError(f"{path} has seen {done} of {steps} steps; run its stage again to finish it first")
    return weights


def train_whole(settings: TrainSettings, until: float | None = None, seen: tuple[Shape, Shape] = WHOLE) -> bool:
    """One network on the whole brain; True when all its steps are done.

    Parameters
    ----------
    settings : TrainSettings
    until : float, optional
        `time.monotonic` at which to stop and leave the rest to another call.
    seen : pair of 3 int each
        First voxel and size of the box of the template that it sees.
    """
    scans = _scans(settings)
    weights = None if settings.start is None else averaged_weights(settings.start)
    view = Field(*seen, settings.layout.shape, np.arange(len(load_protocol(settings.protocol))))
    return _train(settings, settings.whole, ("whole", weights), (scans, view), until)


def train_tiles(settings: TrainSettings, tiles: tuple[str, ...] = (), until: float | None = None) -> bool:
    """A copy of the whole-brain network for each tile, fine-tuned there; True when all are done.

    Parameters
    ----------
    settings : TrainSettings
    tiles : tuple of str
        Names of the tiles to train; all by default, so that several machines may share them.
    until : float, optional
        `time.monotonic` at which to stop.
    """
    known = {tile.name: tile for tile in settings.layout}
    unknown = [name for name in tiles if name not in known]
    if unknown:
        raise LayoutError(f"no tile {', '.join(unknown)} in this layout; it has {', '.join(known)}")
    scans = _scans(settings)
    prior = build_prior(scans)
    weights = averaged_weights(settings.run / "whole.pt", settings.whole.steps)
    for name in tiles or known:
        tile = known[name]
        seen = Field(tile.start, settings.layout.size, settings.layout.shape, prior.possible(tile.start, tile.stop))
        if not _train(settings, settings.tile, (_tile_file(settings, name), weights), (scans, seen), until):
            return False
    return True


def _tile_file(settings: TrainSettings, tile: str) -> str:
    return f"{settings.name}/{tile}"


def _train(
    settings: TrainSettings,
    stage: StageSettings,
    start: tuple[str, dict[str, Tensor] | None],
    data: tuple[list[LabelledScan], Field],
    until: float | None,
) -> bool:
    name, weights = start
    path = settings.run / f"{name}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    state = new_state(_network(settings), stage, weights)
    if path.is_file():
        load_checkpoint(path, state)
    if state.step >= stage.steps:
        return True
    with tqdm(total=stage.steps, initial=state.step, desc=name, unit="step", file=sys.stderr) as bar:
        train_stage(state, *data, stage, settings.augment, _watch(path, bar, until))
    save_checkpoint(path, state)
    path.with_suffix(".tsv").write_text(
        "step\tloss\n" + "".join(f"{i}\t{loss}\n" for i, loss in enumerate(state.losses)), encoding="utf-8"
    )
    return state.step >= stage.steps


def _watch(path: Path, bar: Any, until: float | None) -> Callable[[State], bool]:
    saved = time.monotonic()

    def after_step(state: State) -> bool:
        nonlocal saved
        bar.update()
        bar.set_postfix(loss=f"{np.mean(state.losses[-20:]):.3f}", refresh=False)
        if time.monotonic() - saved > SAVE_SECONDS:
            save_checkpoint(path, state)
            saved = time.monotonic()
        return until is None or time.monotonic() < until

    return after_step


def export(settings: TrainSettings) -> list[Path]:
    """Write what has been trained as models that ``slant segment --model`` runs.

    Returns
    -------
    list of Path
        ``model-whole`` (one tile, the whole grid) and ``model-NAME`` (all tiles), the latter if all are trained.
    """
    scans = _scans(settings)
    shape = settings.layout.shape
    whole = TileLayout(shape, shape, (1, 1, 1))
    checkpoints = {tile.name: settings.run / f"{_tile_file(settings, tile.name)}.pt" for tile in settings.layout}
    made = [_export_one(settings, "whole", (whole, {"1_1_1": settings.run / "whole.pt"}), scans)]
    if all(path.is_file() for path in checkpoints.values()):
        made.append(_export_one(settings, settings.name, (settings.layout, checkpoints), scans))
    return made


def _export_one(
    settings: TrainSettings, name: str, tiles: tuple[TileLayout, dict[str, Path]], scans: list[LabelledScan]
) -> Path:
    layout, checkpoints = tiles
    folder = settings.run / f"model-{name}"
    stages = {"whole": settings.whole.steps} | ({} if name == "whole" else {"tile": settings.tile.steps})
    training = {
        "start": None if settings.start is None else f"{settings.start.parent.name}/{settings.start.name}",
        "people": [scan.name for scan in scans],
        "credits": settings.credits,
        "steps": stages,
        "seed": settings.whole.seed,
        "slant": slant.__version__,
        "torch": torch.__version__,
    }
    plain = {
        "layout": {field: getattr(layout, field) for field in ("shape", "size", "counts", "overlap")},
        "settings": _network(settings).as_dict(),
    }
    manifest = manifest_of(name, plain, load_protocol(settings.protocol), training, settings.licence)
    weights = {tile: averaged_weights(path, list(stages.values())[-1]) for tile, path in checkpoints.items()}
    write_model(folder, weights, build_prior(scans), manifest)
    return folder


STAGES = ("prepare", "whole", "tiles", "export", "evaluate")


def run_stages(settings: TrainSettings, stages: tuple[str, ...], tiles: tuple[str, ...], until: float | None) -> bool:
    """Do the stages asked for, all by default, in their order; True when they are done.

    Parameters
    ----------
    settings : TrainSettings
    stages : tuple of str
        Of `STAGES`.
    tiles : tuple of str
        Tiles to fine-tune; all by default.
    until : float, optional
        `time.monotonic` at which training stops, to be continued by another call.
    """
    wanted = stages or STAGES
    if "prepare" in wanted:
        prepare_scans(settings)
    if "whole" in wanted and not train_whole(settings, until):
        return False
    if "tiles" in wanted and not train_tiles(settings, tiles, until):
        return False
    if "export" in wanted:
        for folder in export(settings):
            sys.stdout.write(f"model  {folder}\n")
    if "evaluate" in wanted and settings.fold is not None:
        for folder in sorted(settings.run.glob("model-*")):
            means = mean_by_person(evaluate(settings, folder))
            people = ", ".join(f"{name} {dice:.4f}" for name, dice in means.items())
            sys.stdout.write(f"mean Dice of {folder.name} on people held out: {means.mean():.4f} ({people})\n")
    return True
