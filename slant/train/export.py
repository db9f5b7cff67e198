"""Exports trained networks as model folders for `slant segment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from slant._version import __version__
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
    scans = load_training(settings)
    whole, _ = whole_tile(settings.layout)
    checkpoints = {tile.name: settings.run / settings.name / f"{tile.name}.pt" for tile in settings.layout}
    if settings.whole.crop:
        whole = settings.layout
    candidates = {
        "whole": (whole, {tile.name: settings.run / "whole.pt" for tile in whole}),
        settings.name: (settings.layout, checkpoints),
    }
    folders = [
        _export_one(settings, name, tiles, scans)
        for name, tiles in candidates.items()
        if all(path.is_file() for path in tiles[1].values())
    ]
    if not folders:
        raise ModelError(
            f"{settings.run} contains neither whole.pt nor the checkpoints of all tiles of {settings.name!r}; run the "
            "stage whole or tiles first"
        )
    return folders


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
        _provenance(settings, name, scans),
        settings.licence,
    )
    manifest["mirror"] = settings.mirror
    loaded = {path: averaged_weights(path, steps) for path in set(checkpoints.values())}
    weights = {tile: loaded[path] for tile, path in checkpoints.items()}
    prior = scans.prior if KINDS[kind].network.prior else None
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
