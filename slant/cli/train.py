"""`slant train`: trains networks on labelled scans."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.config import build, read_toml

_LIST = Parameter(negative_iterable=(), show_default=False)


@dataclass(frozen=True)
class Overrides:
    """Options that take precedence over the settings file.

    Attributes
    ----------
    data : Path
        Folder of NAME_T1w.nii.gz and NAME_dseg.nii.gz.
    auxiliary_dir : Path
        Folder of automatically labelled scans, as written by slant multiatlas.
    scans : Path
        TSV table of the scans: column name and any of subject, fold, regions.
    work_dir : Path
        Folder for prepared scans, checkpoints and models.
    fold : int
        Cross-validation fold to hold out.
    init_from : Path
        Checkpoint, or model with one network, that initializes the first stage.
    unlabelled : Path
        Folder of NAME_T1w.nii.gz: label them with the trained model, then train a second round with them too.
    """

    data: Path | None = None
    auxiliary_dir: Path | None = None
    scans: Path | None = None
    work_dir: Path | None = None
    fold: int | None = None
    init_from: Path | None = None
    unlabelled: Path | None = None


_NONE = Overrides()


@app.command
def train(
    config: Path,
    /,
    *,
    overrides: Annotated[Overrides, Parameter(name="*")] = _NONE,
    stages: Annotated[
        tuple[Literal["prepare", "groupwise", "slices", "pretrain", "whole", "tiles", "export", "evaluate"], ...], _LIST
    ] = (),
    tiles: Annotated[tuple[str, ...], _LIST] = (),
    devices: Annotated[tuple[str, ...], _LIST] = (),
    time_limit: float | None = None,
) -> None:
    """Train networks on labelled scans; rerun the same command to resume.

    Parameters
    ----------
    config : Path
        TOML file with the settings of the training, for example one of configs/train.
    stages : list
        Stages, in this order: prepare, groupwise, slices, pretrain, whole, tiles, export, evaluate. [default: all]
    tiles : list
        Tiles to fine-tune, for example 1_1_1, or first/1_1_1 in a cascade. [default: all]
    devices : list
        Training devices, for example cpu, cuda or cuda:1; tiles are distributed over them. [default: cpu]
    time_limit : float
        Stop after this many minutes; rerun to resume.
    """
    from slant.train.settings import TrainSettings

    options = {**vars(overrides), "devices": devices or None}
    values = {**read_toml(config), **{key: value for key, value in options.items() if value is not None}}
    settings = build(TrainSettings, values, str(config))
    from slant.train import run

    deadline = None if time_limit is None else time.monotonic() + 60 * time_limit
    if not run.run_stages(settings, stages, tiles, deadline):
        say("time limit reached; rerun to resume")
