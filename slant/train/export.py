"""What has been trained, written as a model that `slant segment` runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import slant
from slant.errors import ModelError
from slant.io.models import manifest_of
from slant.io.resources import load_protocol
from slant.nets.registry import KINDS
from slant.nets.weights import write_model
from slant.tiles import TileLayout
from slant.train.checkpoint import averaged_weights
from slant.train.groupwise import template_of
from slant.train.prepare import TrainingScans, load_training
from slant.train.stages import network_of
from slant.train.validate import whole_tile

if TYPE_CHECKING:
    from slant.train.settings import TrainSettings


def export(settings: TrainSettings) -> list[Path]:
    """Write what has been trained as models that ``slant segment --model`` runs.

    Returns
    -------
    list of Path
        ``model-whole`` if the whole-brain network is trained: one tile, the whole grid, or all tiles with that one
        network if it saw boxes of their size; and ``model-NAME`` if all tiles are trained.

    Raises
    ------
    ModelError
        If there is nothing to export, or a stage is not finished.
    """
    scans = load_training(settings)
    whole, _ = whole_tile(settings.layout)
    checkpoints = {tile.name: settings.run / settings.name / f"{tile.name}.pt" for tile in settings.layout}
    if settings.whole.crop:
        whole = settings.layout
    candidates = {
        "whole": (whole, {tile.name: settings.run / "whole.pt" for tile in whole}),
        settings.name: (settings.layout, checkpoints),
    }
    made = [
        _export_one(settings, name, tiles, scans)
        for name, tiles in candidates.items()
        if all(path.is_file() for path in tiles[1].values())
    ]
    if not made:
        raise ModelError(f"{settings.run} has neither whole.pt nor all tiles of {settings.name!r}; train them first")
    return made


def _export_one(
    settings: TrainSettings, name: str, tiles: tuple[TileLayout, dict[str, Path]], scans: TrainingScans
) -> Path:
    layout, checkpoints = tiles
    folder = settings.run / f"model-{name}"
    kind, network = network_of(settings)
    steps = settings.whole.steps if name == "whole" else settings.tile.steps
    manifest = manifest_of(
        name,
        {
            "layout": layout.plain,
            "kind": kind,
            "settings": network.as_dict(),
        },
        load_protocol(settings.protocol),
        _training(settings, name, scans),
        settings.licence,
    )
    manifest["mirror"] = settings.mirror
    read = {path: averaged_weights(path, steps) for path in set(checkpoints.values())}
    weights = {tile: read[path] for tile, path in checkpoints.items()}
    prior = scans.prior if KINDS[kind].network.prior else None
    groupwise = None if scans.groupwise is None else template_of(scans.groupwise.mean, scans.groupwise.votes)
    write_model(folder, weights, prior, manifest, groupwise)
    return folder


def _training(settings: TrainSettings, name: str, scans: TrainingScans) -> dict[str, Any]:
    """Where the weights come from."""
    stages = {
        "pretrain": settings.pretrain,
        "whole": settings.whole,
        "tile": None if name == "whole" else settings.tile,
    }
    return {
        "start": None if settings.start is None else "/".join(settings.start.parts[-2:]),
        "people": [scan.name for scan in scans.manual],
        "auxiliary": [scan.name for scan in scans.auxiliary],
        "prior": settings.prior,
        "credits": settings.credits,
        "steps": {stage: how.steps for stage, how in stages.items() if how is not None},
        "seed": settings.whole.seed,
        "slant": slant.__version__,
        "torch": torch.__version__,
    }
