"""Networks, tasks and ways to start tiles compared at equal time, judged on people who were held out.

    python benchmarks/networks.py DATA WORK --rows compact residual tasks slant2018 --minutes 6
    python benchmarks/networks.py DATA WORK --rows copy pull neighbour --steps 30

DATA holds the labelled scans, WORK what `slant train` prepared from them. The first kind of rows trains one tile from
random weights for so many minutes; the second kind trains eight tiles from WORK/fold0/whole.pt for so many steps each.
The Dice is that of the averaged weights in the tile, in template space, on fold 0. Run again to continue.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd

from slant.config import build, read_toml
from slant.io.resources import resource
from slant.nets.registry import build_network
from slant.train.augment import AugmentSettings
from slant.train.checkpoint import averaged_weights, new_state
from slant.train.loss import LossSettings
from slant.train.prepare import load_training
from slant.train.settings import NetworkChoice, TileSettings, TrainSettings
from slant.train.stages import network_of, train_tiles
from slant.train.validate import judge_of

FOREVER = 1_000_000
STAGE = TileSettings(FOREVER, learning_rate=4e-3, decay=0.0, boxes=96, average=0.97, start="scratch")

SCRATCH = {
    "compact": {},
    "residual": {"network": NetworkChoice("residual")},
    "tasks": {"network": NetworkChoice("compact", tasks=("tissue", "lobe", "brain"))},
    "flips": {"augment": AugmentSettings(flip=0.5)},
    "slant2018": {"network": NetworkChoice("slant2018"), "tile": replace(STAGE, learning_rate=1e-3)},
    "slant2018-own-loss": {
        "network": NetworkChoice("slant2018"),
        "loss": LossSettings("slant2018"),
        "tile": replace(STAGE, learning_rate=1e-4),
    },
}


def tiled(steps: int) -> dict[str, TileSettings]:
    """Ways to train eight tiles of a whole-brain network."""
    plain = TileSettings(steps, learning_rate=1e-3, decay=1.0, boxes=96, average=0.9, validate=steps)
    return {
        "copy": plain,
        "pull": replace(plain, pull=0.02, rounds=2),
        "neighbour": replace(plain, start="neighbour"),
    }


def arguments() -> argparse.Namespace:
    """What to compare, and for how long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", nargs="+", default=["compact", "residual", "tasks", "slant2018"])
    parser.add_argument("--tile", default="2_2_2")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--steps", type=int, default=30)
    return parser.parse_args()


def base(given: argparse.Namespace, config: str) -> TrainSettings:
    """The shipped settings on fold 0, with manual labels only."""
    path = resource("configs", "train", config)
    values = {**read_toml(path), "data": given.data, "work": given.work, "fold": 0}
    values.pop("pretrain", None)
    for stage in ("whole", "tile"):
        values[stage] = {**values[stage], "auxiliary": 0.0}
    return build(TrainSettings, values, str(path))


def from_scratch(given: argparse.Namespace, row: str) -> str:
    """Train one tile for the given minutes and judge it."""
    settings = replace(base(given, "narrow.toml"), **{"name": f"row-{row}", "tile": STAGE, **SCRATCH[row]})
    start = time.monotonic()
    train_tiles(settings, (given.tile,), start + 60 * given.minutes)
    table = pd.read_csv(settings.run / settings.name / f"{given.tile}.tsv", sep="\t")
    scans = load_training(settings)
    tile = next(t for t in settings.layout if t.name == given.tile)
    weights = averaged_weights(settings.run / settings.name / f"{given.tile}.pt")
    state = new_state(network_of(settings), settings.tile, weights)
    dice = judge_of(scans, settings.layout, tile)(state)
    parameters = sum(p.numel() for p in build_network(*network_of(settings)).parameters())
    per_step = 60 * given.minutes / len(table)
    return f"| {row} | {parameters:,} | {len(table)} | {per_step:.1f} | {dice:.4f} |"


def of_tiles(given: argparse.Namespace, row: str) -> str:
    """Train eight tiles and take the mean of their Dice."""
    settings = replace(base(given, "pretrained8.toml"), name=f"row-{row}", tile=tiled(given.steps)[row])
    settings = replace(settings, whole=replace(settings.whole, steps=1))  # whatever whole.pt has seen will do
    start = time.monotonic()
    train_tiles(settings)
    minutes = (time.monotonic() - start) / 60
    files = [settings.run / settings.name / f"{tile.name}.tsv" for tile in settings.layout]
    dice = [pd.read_csv(file, sep="\t")["dice_held_out"].iloc[-1] for file in files]
    return f"| {row} | {given.steps} | {minutes:.1f} | {sum(dice) / len(dice):.4f} |"


def main() -> None:
    """Print one table of each kind that has rows."""
    given = arguments()
    scratch = [row for row in given.rows if row in SCRATCH]
    if scratch:
        print("| network | parameters | steps | seconds a step | Dice |\n|---|--:|--:|--:|--:|", flush=True)
    for row in scratch:
        print(from_scratch(given, row), flush=True)
    tiles = [row for row in given.rows if row in tiled(given.steps)]
    if tiles:
        print("\n| tiles | steps each | minutes | mean Dice |\n|---|--:|--:|--:|", flush=True)
    for row in tiles:
        print(of_tiles(given, row), flush=True)


if __name__ == "__main__":
    main()
