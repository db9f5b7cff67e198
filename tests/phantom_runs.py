"""Runs of training on phantoms: start them, stop them, compare them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from phantoms import MIRROR_X, SHAPE, same_tensors, toy_settings

from slant.grid import axis_aligned_grid
from slant.io.resources import load_protocol
from slant.nets.inputs import InputScaling
from slant.nets.model import Model
from slant.nets.weights import read_model
from slant.train import context, log, loop, stages
from slant.train.checkpoint import averaged_weights
from slant.train.context import RunContext, run_context
from slant.train.data import TrainingScans
from slant.train.export import export
from slant.train.network import NetworkChoice
from slant.train.prepare import load_training
from slant.train.settings import TrainSettings
from slant.train.stage_settings import PretrainSettings, SlicesSettings, StageSettings, TileSettings

ALL = ("slices", "pretrain", "whole", "tiles", "export")
"""All stages after the preparation."""

BRIEF = {"learning_rate": 1e-2, "patches": 4, "ema_decay": 0.5}
"""Settings of stages of few steps."""

ANISOTROPIC = NetworkChoice("anisotropic", (4, 6), 2, 4, plane="coronal")
FUSION = NetworkChoice("fusion", (3, 4), 2, 4, slice_widths=(2, 3), score_channels=2)


def started(settings: TrainSettings, deadline: float | None = None) -> tuple[RunContext, TrainingScans]:
    """The context of a run, and its scans."""
    run = run_context(settings, deadline)
    return run, load_training(run)


def train_whole(settings: TrainSettings, name: str = "whole", deadline: float | None = None) -> bool:
    return stages.train_whole(*started(settings, deadline), name)


def train_tiles(settings: TrainSettings, tiles: tuple[str, ...] = (), deadline: float | None = None) -> bool:
    return stages.train_tiles(*started(settings, deadline), tiles)


def export_models(settings: TrainSettings) -> list[Path]:
    run, scans = started(settings)
    return export([run.at(assembly.name) for assembly in settings.cascade], scans)


def model_of(folder: Path) -> Model:
    """An exported model of phantoms; `load_model` expects the template of the package."""
    inputs = SimpleNamespace(groupwise=None, template=phantom_template(), scaling=InputScaling())
    return Model(folder.name, load_protocol(), inputs, read_model(folder))


def labelled(folder: Path, image: np.ndarray, threads: int = 1) -> np.ndarray:
    """Channels of an image, labelled by an exported model."""
    return model_of(folder).cascade(image).vote(image, torch.device("cpu"), threads).winners


@contextmanager
def phantom_field() -> Iterator[None]:
    """Use the grid and mirror plane of the phantoms, and one thread, as sums over threads differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with patch.multiple(context, WHOLE_START=(0, 0, 0), WHOLE_SHAPE=SHAPE, load_template=phantom_template):
        yield
    torch.set_num_threads(before)


def phantom_template() -> SimpleNamespace:
    return SimpleNamespace(mirror_x=MIRROR_X, grid=axis_aligned_grid(SHAPE, 1.0, (0, 0, 0)))


def tile_weights(settings: TrainSettings) -> dict[str, dict[str, torch.Tensor]]:
    return {t.name: averaged_weights(settings.run / "toy" / f"{t.name}.pt") for t in settings.layout}


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let the time limit of a call end after ``steps`` training steps."""
    real, finished = loop._update_average, []

    def count(*arguments: object) -> None:
        finished.append(1)
        real(*arguments)

    monkeypatch.setattr(loop, "_update_average", count)
    monkeypatch.setattr(log.time, "monotonic", lambda: 1e9 if len(finished) >= steps else 0.0)


def same_run(a: TrainSettings, b: TrainSettings) -> bool:
    """Whether two runs have the same weights, losses and tables."""
    files = [sorted(p.relative_to(s.run) for p in s.run.rglob("*.pt")) for s in (a, b)]
    assert files[0] == files[1]
    for name in files[0]:
        one, two = (torch.load(s.run / name, weights_only=True) for s in (a, b))
        if not same_tensors(one["average"], two["average"]):
            return False
        if "net" in one and not (same_tensors(one["net"], two["net"]) and one["losses"] == two["losses"]):
            return False
        if "net" in one:
            table = Path(name).with_suffix(".tsv")
            tables = [pd.read_csv(s.run / table, sep="\t").drop(columns="hours") for s in (a, b)]
            pd.testing.assert_frame_equal(*tables)
    return True


def close_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.allclose(a[key], b[key], atol=1e-6) for key in a)


# Runs with 2D networks


def from_slices(folder: Path, **changes: Any) -> TrainSettings:
    """Settings of a run whose network starts from a 2D network of coronal slices."""
    plain = {"network": ANISOTROPIC, "slices": SlicesSettings(3, **BRIEF), "subjects": 2}
    return toy_settings(folder, **plain | changes)


def fused(folder: Path, **changes: Any) -> TrainSettings:
    """Settings of a run whose network fuses three views that have not seen the scan of a step, in two folds."""
    plain = {
        "network": FUSION,
        "slices": SlicesSettings(2, folds=2, **BRIEF),
        "pretrain": PretrainSettings(2, **BRIEF, seed=1),
        "whole": StageSettings(4, **BRIEF, auxiliary_probability=0.4, crop=True, seed=2),
        "tile": TileSettings(2, **BRIEF),
        "subjects": 4,
        "auxiliary": 1,
    }
    return toy_settings(folder, **plain | changes)
