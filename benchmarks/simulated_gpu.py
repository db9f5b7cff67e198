"""Throughput of a cohort with a simulated GPU: several workers prepare scans for one card.

    python benchmarks/simulated_gpu.py SCANS WORK [--seconds 2] [--jobs 1 2]

The server process, which would run the networks on a GPU, waits for the time that a card is assumed to take, and
labels the scan by the atlas prior alone; everything else is that of ``slant cohort``. Prints the scans per hour, and
which part of the time the simulated card was busy. For a real card, run ``slant cohort --device cuda``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from slant.cli import main as slant
from slant.cohort import run
from slant.config import SegmentSettings
from slant.engine.gpu_server import GpuServer
from slant.io.models import load_model
from slant.nets.predict import Predictor
from slant.pipeline import label
from slant.segmentation import Prepared, Segmentation
from slant.tiles import Tile
from slant.vote import ballot_maps

_SECONDS = "SIMULATED_GPU_SECONDS"


def simulated_votes(predictor: Predictor, *_: object) -> Iterator[tuple[Tile, NDArray[np.uint8]]]:
    """The most likely channels of the prior in each tile, after the time of the simulated card."""
    time.sleep(float(os.environ[_SECONDS]))
    prior = predictor.prior
    if prior is None:
        sys.exit("this model has no atlas prior; use an embedded model")
    channels = prior.steps.argmax(axis=-1).astype(np.uint8)
    for axis, size in enumerate(prior.shape):
        channels = channels.repeat(prior.spacing, axis=axis).take(np.arange(size), axis=axis)
    maps = np.stack([channels, channels, 0 * channels])[: ballot_maps(predictor.ballots)]
    for tile in predictor.layout:
        yield tile, maps[:, *tile.box]


def simulated_label(prepared: Prepared, model: str, _: str, settings: SegmentSettings) -> Segmentation:
    """As `slant.pipeline.label`, with simulated networks."""
    with patch("slant.nets.cascade.tile_votes", simulated_votes):
        return label(prepared, load_model(model), replace(settings, device="cpu"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="of the card for each scan")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    os.environ[_SECONDS] = str(options.seconds)
    print("| workers of 1 thread | scans | seconds | scans per hour | card busy |\n|--:|--:|--:|--:|--:|")
    for jobs in options.jobs:
        out = options.work / f"{jobs}"
        start = time.perf_counter()
        with patch.object(run, "start_gpu_server", lambda _: GpuServer("cuda", simulated_label)):
            try:
                slant(["cohort", str(options.scans), str(out), "--jobs", str(jobs), "--threads", "1"])
            except SystemExit as end:
                if end.code:
                    raise
        seconds = time.perf_counter() - start
        scans = len(list(out.glob("**/*_record.json")))
        if not scans:
            sys.exit(f"no scan was segmented in {out}")
        busy = options.seconds * scans / seconds
        print(f"| {jobs} | {scans} | {seconds:.0f} | {3600 * scans / seconds:.0f} | {busy:.0%} |", flush=True)


if __name__ == "__main__":
    main()
