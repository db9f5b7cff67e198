"""`slant train`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.config import build, read_toml

_LIST = Parameter(negative_iterable=(), show_default=False)


@app.command
def train(  # noqa: PLR0913
    config: Path,
    /,
    *,
    data: Path | None = None,
    auxiliary: Path | None = None,
    scans: Path | None = None,
    work: Path | None = None,
    fold: int | None = None,
    start: Path | None = None,
    stages: Annotated[
        tuple[Literal["prepare", "groupwise", "pretrain", "whole", "tiles", "export", "evaluate"], ...], _LIST
    ] = (),
    tiles: Annotated[tuple[str, ...], _LIST] = (),
    devices: Annotated[tuple[str, ...], _LIST] = (),
    minutes: float | None = None,
    export: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Train networks on labelled scans; run again with the same options to continue.

    Parameters
    ----------
    config : Path
        TOML file, see configs/train.
    data : Path
        Folder of NAME_T1w.nii.gz with NAME_dseg.nii.gz.
    auxiliary : Path
        Folder of scans labelled by machine, as slant multiatlas writes it.
    scans : Path
        Table of the scans: name, and any of person, fold, regions.
    work : Path
        Folder for prepared scans, checkpoints and models.
    fold : int
        Part of the people that is held out.
    start : Path
        Checkpoint, or model of one network for the whole brain, from which the first stage starts.
    stages : list
        What to do, in this order: prepare, groupwise, pretrain, whole, tiles, export, evaluate. [default: all]
    tiles : list
        Tiles to fine-tune, such as 1_1_1. [default: all]
    devices : list
        Where to train: cpu, cuda, cuda:1; several share the tiles. [default: cpu]
    minutes : float
        Stop after so long; the same command continues where it stopped.
    export : bool
        Only write the model of what has been trained: short for --stages export.
    """
    from slant.train.settings import TrainSettings

    given = {"data": data, "auxiliary": auxiliary, "scans": scans, "work": work, "fold": fold, "start": start}
    listed = {"devices": devices} if devices else {}
    values = {**read_toml(config), **{k: v for k, v in given.items() if v is not None}, **listed}
    settings = build(TrainSettings, values, str(config))
    from slant.train import run

    until = None if minutes is None else time.monotonic() + 60 * minutes
    if not run.run_stages(settings, ("export",) if export else stages, tiles, until):
        say("stopped in time; run the same command again to continue")
