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
    work: Path | None = None,
    fold: int | None = None,
    start: Path | None = None,
    stages: Annotated[tuple[Literal["prepare", "whole", "tiles", "export", "evaluate"], ...], _LIST] = (),
    tiles: Annotated[tuple[str, ...], _LIST] = (),
    minutes: float | None = None,
) -> None:
    """Train networks on labelled scans; run again with the same options to continue.

    Parameters
    ----------
    config : Path
        TOML file, see configs/train.
    data : Path
        Folder of NAME_T1w.nii.gz with NAME_dseg.nii.gz.
    work : Path
        Folder for prepared scans, checkpoints and models.
    fold : int
        Part of the people that is held out.
    start : Path
        Checkpoint from which the whole-brain stage starts.
    stages : list
        What to do, in this order: prepare, whole, tiles, export, evaluate. [default: all]
    tiles : list
        Tiles to fine-tune, such as 1_1_1. [default: all]
    minutes : float
        Stop after so long; the same command continues where it stopped.
    """
    from slant.train.settings import TrainSettings

    given = {"data": data, "work": work, "fold": fold, "start": start}
    values = read_toml(config)
    settings = build(TrainSettings, {**values, **{k: v for k, v in given.items() if v is not None}}, str(config))
    from slant.train import run

    until = None if minutes is None else time.monotonic() + 60 * minutes
    if not run.run_stages(settings, stages, tiles, until):
        say("stopped in time; run the same command again to continue")
