"""`slant labels` and `slant models`: print the regions and the embedded models."""

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
        freesurfer for Freeview, itksnap for ITK-SNAP, or tsv as in the dseg.tsv file of BIDS.
    protocol : str
        Label protocol.
    """
    from slant.io.luts import format_lut
    from slant.io.resources import load_protocol

    sys.stdout.write(format_lut(load_protocol(protocol), format))


models = App(
    name="models", help="List the embedded models with their licences, or import the weights of the original SLANT."
)
app.command(models)


@models.default
def list_models() -> None:
    """List the embedded models with their licences and training data."""
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
    """Import the published checkpoints of the original SLANT as a model.

    Parameters
    ----------
    folder : Path
        The model_dir of the original SLANT, with 1_1_1/finetune_out/models/model_epoch_0027.pth and so on.
    out : Path
        Folder of the new model, for slant segment --model (created if missing).
    name : str
        Name of the model.
    tiles : int
        Number of tiles: 27, or 8, which are the eight corner tiles of SLANT-27.
    epoch : int
        Epoch of the checkpoints to import.
    precision : str
        Precision of the stored weights: 80 MB (float32) or 40 MB (float16) per tile.
    """
    from slant.io import models as store

    store.import_original(folder, out, name=name, tiles=tiles, epoch=epoch, precision=precision)
    say(f"wrote {tiles} tiles to {out}; to use them: slant segment SCAN OUT --model {out}")
