"""Exports trained networks as model folders for `slant segment`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from slant._version import __version__
from slant.errors import ModelError
from slant.io.models import manifest_of
from slant.nets.weights import write_model
from slant.tiles import TileLayout
from slant.train.checkpoint import averaged_weights
from slant.train.context import RunContext, whole_layout
from slant.train.data import TrainingScans
from slant.train.groupwise import template_of
from slant.train.settings import TrainSettings


def export(run: RunContext, scans: TrainingScans) -> list[Path]:
    """Write the trained networks as model folders for ``slant segment --model``.

    Returns
    -------
    list of Path
        ``model-whole`` if the whole-brain network is trained: one tile that covers the whole grid or, if the network
        was trained on crops, all tiles with this one network. ``model-NAME`` if the networks of all tiles are trained.

    Raises
    ------
    ModelError
        If no network is trained, or a stage is not finished.
    """
    settings = run.settings
    whole = settings.layout if settings.whole.crop else whole_layout(settings.layout)
    layouts = {"whole": whole, settings.name: settings.layout}
    ready = [
        name for name in layouts if all(path.is_file() for path in _checkpoints(run, name, layouts[name]).values())
    ]
    if not ready:
        raise ModelError(
            f"{settings.run} contains neither whole.pt nor the checkpoints of all tiles of {settings.name!r}; run the "
            "stage whole or tiles first"
        )
    return [_export_one(run, scans, name, layouts[name]) for name in ready]


def _checkpoints(run: RunContext, name: str, layout: TileLayout) -> dict[str, Path]:
    """Checkpoint of every tile of a model."""
    return {t.name: run.checkpoint("whole") if name == "whole" else run.tile_checkpoint(t.name) for t in layout}


def _export_one(run: RunContext, scans: TrainingScans, name: str, layout: TileLayout) -> Path:
    settings = run.settings
    folder = settings.run / f"model-{name}"
    networks = {"layout": layout.plain, **run.network.plain}
    manifest = manifest_of(name, networks, run.protocol, _provenance(settings, name, scans), settings.licence)
    manifest["mirror"] = settings.mirror
    checkpoints = _checkpoints(run, name, layout)
    steps = settings.whole.steps if name == "whole" else settings.tile.steps
    loaded = {path: averaged_weights(path, steps) for path in set(checkpoints.values())}
    weights = {tile: loaded[path] for tile, path in checkpoints.items()}
    prior = scans.prior if run.network.type.prior else None
    groupwise = None if scans.groupwise is None else template_of(scans.groupwise.mean, scans.groupwise.votes)
    write_model(folder, weights, prior, manifest, groupwise)
    return folder


def _provenance(settings: TrainSettings, name: str, scans: TrainingScans) -> dict[str, Any]:
    """The entry ``training`` of the manifest: how the weights were made."""
    stages = {
        "pretrain": settings.pretrain,
        "whole": settings.whole,
        "tile": None if name == "whole" else settings.tile,
    }
    return {
        "init_from": None if settings.init_from is None else "/".join(settings.init_from.parts[-2:]),
        "subjects": [scan.name for scan in scans.manual],
        "auxiliary": [scan.name for scan in scans.auxiliary],
        "prior": settings.prior,
        "credits": settings.credits,
        "steps": {key: stage.steps for key, stage in stages.items() if stage is not None},
        "seed": settings.whole.seed,
        "slant": __version__,
        "torch": torch.__version__,
    }
