"""`slant labels` and `slant models`: what the package knows of regions and networks."""

from __future__ import annotations

import sys
from typing import Literal

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


@app.command
def models() -> None:
    """List the embedded models with their licences and what is known about them."""
    from slant.io.models import describe_models

    say(describe_models())
