"""`slant labels` and `slant models`: what the package knows of regions and networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from cyclopts import App

from slant.cli.app import app, say


@app.command
def labels(*, format: Literal["freesurfer", "itksnap", "tsv"] = "tsv", protocol: str = "braincolor") -> None:  # noqa: A002
    """Print the look-up table of the regions.

    Parameters
    ----------
    format : str
        For FreeSurfer's Freeview, for ITK-SNAP, or BIDS' dseg.tsv.
    protocol : str
        Label protocol.
    """
    from slant.io.luts import format_lut
    from slant.io.resources import load_protocol

    sys.stdout.write(format_lut(load_protocol(protocol), format))


models = App(
    name="models", help="List the embedded models with their licences, or make one of the original SLANT's weights."
)
app.command(models)


@models.default
def list_models() -> None:
    """List the embedded models with their licences and what is known about them."""
    from slant.io.models import describe_models

    say(describe_models())


@models.command
def import_original(
    folder: Path,
    out: Path,
    /,
    *,
    name: str = "slant2018",
    tiles: Literal[27, 8] = 27,
    epoch: int = 27,
    precision: Literal["float32", "float16"] = "float32",
) -> None:
    """Make a model of the checkpoints that the original SLANT published.

    Parameters
    ----------
    folder : Path
        The original's model_dir, with 1_1_1/finetune_out/models/model_epoch_0027.pth and so forth.
    out : Path
        Folder of the model, for slant segment --model; made if absent.
    name : str
        Of the model.
    tiles : int
        SLANT-27, or SLANT-8 of its eight corner tiles.
    epoch : int
        Which checkpoints to take.
    precision : str
        What is stored: 80 MB or 40 MB a tile.
    """
    from slant.io import models as store

    store.import_original(folder, out, name=name, tiles=tiles, epoch=epoch, precision=precision)
    say(f"{tiles} tiles in {out}; use it by: slant segment SCAN OUT --model {out}")
