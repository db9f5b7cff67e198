"""Which network, tasks and initialization of tiles are best at equal training time? Dice of one tile or eight, fold 0.

    python experiments/networks.py DATA WORK --rows compact residual tasks slant2018 --time-limit 6
    python experiments/networks.py DATA WORK --rows copy soft-sharing neighbour --steps 30

DATA holds the labelled scans, WORK what `slant train` prepared from them. Rows of networks train one tile from random
weights for --time-limit minutes; rows of tiles train eight tiles from WORK/fold0/whole.pt for --steps steps each. All
use manual labels only. Prints for each row the Dice of the averaged weights in the tile, on the held-out subjects, in
template space. Run the same command again to continue.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from slant.config import build, read_toml
from slant.io.resources import resource
from slant.train.augment import AugmentSettings
from slant.train.checkpoint import averaged_weights
from slant.train.context import run_context, tile_context
from slant.train.loss import LossSettings
from slant.train.network import NetworkChoice
from slant.train.prepare import load_training
from slant.train.settings import TrainSettings
from slant.train.stage_settings import TileSettings
from slant.train.stages import train_tiles
from slant.train.validate import held_out_dice

NO_LIMIT = 1_000_000
SCRATCH = TileSettings(NO_LIMIT, learning_rate=4e-3, lr_decay_fraction=0.0, patches=96, ema_decay=0.97, init="scratch")

NETWORKS: dict[str, dict[str, Any]] = {
    "compact": {"network": NetworkChoice("compact")},
    "residual": {"network": NetworkChoice("residual")},
    "tasks": {"network": NetworkChoice("compact", tasks=("tissue", "lobe", "brain"))},
    "flips": {"network": NetworkChoice("compact"), "augment": AugmentSettings(flip_probability=0.5)},
    "slant2018": {"network": NetworkChoice("slant2018"), "tile": replace(SCRATCH, learning_rate=1e-3)},
    "slant2018-own-loss": {
        "network": NetworkChoice("slant2018"),
        "loss": LossSettings("slant2018"),
        "tile": replace(SCRATCH, learning_rate=1e-4),
    },
}

COPY = TileSettings(1, learning_rate=1e-3, lr_decay_fraction=1.0, patches=96, ema_decay=0.9)
TILES: dict[str, dict[str, Any]] = {
    "copy": {},
    "soft-sharing": {"soft_sharing": 0.02, "rounds": 2},
    "neighbour": {"init": "neighbour"},
}


def arguments() -> argparse.Namespace:
    """Rows, and how long to train each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    default = ["compact", "residual", "tasks", "slant2018"]
    parser.add_argument("--rows", nargs="+", choices=[*NETWORKS, *TILES], default=default)
    parser.add_argument("--tile", default="2_2_2", help="name of the tile that rows of networks train")
    parser.add_argument("--time-limit", type=float, default=6.0, help="minutes, for rows of networks")
    parser.add_argument("--steps", type=int, default=30, help="steps per tile, for rows of tiles")
    return parser.parse_args()


def manual_settings(data: Path, work: Path, config: str) -> TrainSettings:
    """Settings of a configuration of the package on fold 0, with manual labels only."""
    path = resource("configs", "train", config)
    values = {**read_toml(path), "data": data, "work_dir": work, "fold": 0}
    values.pop("pretrain", None)
    for stage in ("whole", "tile"):
        values[stage] = {**values[stage], "auxiliary_probability": 0.0}
    return build(TrainSettings, values, str(path))


def network_row(options: argparse.Namespace, row: str) -> str:
    """Train one tile from random weights until the time limit and validate it."""
    settings = manual_settings(options.data, options.work, "narrow.toml")
    settings = replace(settings, **{"name": f"row-{row}", "tile": SCRATCH, **NETWORKS[row]})
    seconds = 60 * options.time_limit
    run = run_context(settings, time.monotonic() + seconds)
    scans = load_training(run)
    train_tiles(run, scans, (options.tile,))
    path = run.tile_checkpoint(options.tile)
    steps = len(pd.read_csv(path.with_suffix(".tsv"), sep="\t"))
    tile = next(t for t in run.assembly.layout if t.name == options.tile)
    network = run.network.build().requires_grad_(False)
    network.load_state_dict(averaged_weights(path))
    dice = held_out_dice(network, tile_context(run, scans, tile))
    parameters = sum(p.numel() for p in network.parameters())
    return f"| {row} | {parameters:,} | {steps} | {seconds / steps:.1f} | {dice:.4f} |"


def tiles_row(options: argparse.Namespace, row: str) -> str:
    """Train eight tiles from the whole-brain network; the mean of their Dice."""
    settings = manual_settings(options.data, options.work, "pretrained8.toml")
    tile = replace(COPY, steps=options.steps, validate_every=options.steps, **TILES[row])
    whole = replace(settings.whole, steps=1)  # accept whole.pt after any number of steps
    settings = replace(settings, name=f"row-{row}", tile=tile, whole=whole)
    start = time.monotonic()
    run = run_context(settings)
    train_tiles(run, load_training(run))
    minutes = (time.monotonic() - start) / 60
    logs = [run.tile_checkpoint(tile.name).with_suffix(".tsv") for tile in run.assembly.layout]
    dice = [pd.read_csv(log, sep="\t")["val_dice"].iloc[-1] for log in logs]
    return f"| {row} | {options.steps} | {minutes:.1f} | {sum(dice) / len(dice):.4f} |"


def main() -> None:
    """Print one table for each kind of row."""
    options = arguments()
    networks = [row for row in options.rows if row in NETWORKS]
    if networks:
        print("| network | parameters | steps | seconds per step | Dice |\n|---|--:|--:|--:|--:|", flush=True)
    for row in networks:
        print(network_row(options, row), flush=True)
    tiles = [row for row in options.rows if row in TILES]
    if tiles:
        print("\n| tiles | steps each | minutes | mean Dice |\n|---|--:|--:|--:|", flush=True)
    for row in tiles:
        print(tiles_row(options, row), flush=True)


if __name__ == "__main__":
    main()
