"""Exports trained networks as model folders for `slant segment`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slant._version import __version__
from slant.errors import ModelError
from slant.io.models import manifest_of
from slant.nets.assembly import Assembly
from slant.nets.weights import write_model
from slant.tiles import TileLayout
from slant.train.checkpoint import averaged_weights
from slant.train.context import RunContext, whole_layout
from slant.train.data import TrainingScans
from slant.train.groupwise import template_of

WHOLE = "whole"
"""Name of the model in which the whole-brain network of each assembly labels all its tiles."""


def export(runs: list[RunContext], scans: TrainingScans) -> list[Path]:
    """Write the trained networks as model folders for ``slant segment --model``.

    Parameters
    ----------
    runs : list of RunContext
        The context of each assembly, in the order in which they run.

    Returns
    -------
    list of Path
        ``model-whole`` if the whole-brain networks are trained: one tile that covers the whole grid or, if a network
        was trained on crops, all tiles with this one network. ``model-NAME`` if the networks of all tiles are trained.
        ``model-NAME-ASSEMBLY``, a cascade that ends with this assembly, if the tiles are trained up to it.

    Raises
    ------
    ModelError
        If no network is trained, or a stage is not finished.
    """
    settings, last = runs[0].settings, len(runs)
    parts = {WHOLE: last, settings.name: last}
    for count, run in enumerate(runs[:-1], 1):
        if run.assembly.vote:
            parts[f"{settings.name}-{run.assembly.name}"] = count
    ready = {
        name: count
        for name, count in parts.items()
        if all(path.is_file() for run in runs[:count] for path in _checkpoints(run, name).values())
    }
    if not ready:
        raise ModelError(
            f"{settings.run} contains neither whole.pt nor the checkpoints of all tiles of {settings.name!r}; run the "
            "stage whole or tiles first"
        )
    return [_export_one(runs[:count], scans, name) for name, count in ready.items()]


def _layout(run: RunContext, name: str) -> TileLayout:
    assembly = run.assembly
    return whole_layout(assembly.layout) if name == WHOLE and not assembly.whole.crop else assembly.layout


def _assembly(run: RunContext, name: str) -> Assembly:
    assembly, layout = run.assembly.assembly(run.network), _layout(run, name)
    return assembly if layout == assembly.layout else replace(assembly, layout=layout)


def _checkpoints(run: RunContext, name: str) -> dict[str, Path]:
    """Checkpoint of every tile with a network, in a model."""
    tiles = _assembly(run, name).networks
    return {t.name: run.checkpoint("whole") if name == WHOLE else run.tile_checkpoint(t.name) for t in tiles}


def _export_one(runs: list[RunContext], scans: TrainingScans, name: str) -> Path:
    first = runs[0]
    settings = first.settings
    folder = settings.run / f"model-{name}"
    assemblies = [_assembly(run, name) for run in runs]
    training = _provenance(runs, name, scans)
    manifest = manifest_of(name, assemblies, first.protocol, training, settings.licence)
    prior = scans.prior if any(run.network.type.prior for run in runs) else None
    groupwise = None if scans.groupwise is None else template_of(scans.groupwise.mean, scans.groupwise.votes)
    write_model(folder, [_weights(run, name) for run in runs], prior, manifest, groupwise)
    return folder


def _weights(run: RunContext, name: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The weights of every tile with a network."""
    if name == WHOLE:
        weights = averaged_weights(run.checkpoint("whole"), run.assembly.whole.steps)
        yield from ((tile, weights) for tile in _checkpoints(run, name))
        return
    for tile, path in _checkpoints(run, name).items():
        yield tile, averaged_weights(path, run.assembly.tile.steps)


def _provenance(runs: list[RunContext], name: str, scans: TrainingScans) -> dict[str, Any]:
    """The entry ``training`` of the manifest: how the weights were made."""
    settings = runs[0].settings
    steps: dict[str, int] = {}
    sources: dict[str, str | None] = {}
    for run in runs:
        assembly = run.assembly
        prefix = f"{assembly.name} " if assembly.name else ""
        stages = {
            "slices": assembly.slices,
            "pretrain": assembly.pretrain,
            "whole": assembly.whole,
            "tile": None if name == WHOLE else assembly.tile,
        }
        steps |= {prefix + key: stage.steps for key, stage in stages.items() if stage is not None}
        source = assembly.init_from or settings.init_from
        sources[assembly.name] = None if source is None else "/".join(source.parts[-2:])
    return {
        "init_from": sources.get("", sources),
        "subjects": [scan.name for scan in scans.manual],
        "auxiliary": [scan.name for scan in scans.auxiliary],
        "prior": settings.prior,
        "credits": settings.credits,
        "steps": steps,
        "seed": runs[0].assembly.whole.seed,
        "slant": __version__,
        "torch": torch.__version__,
    }
