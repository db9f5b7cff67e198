"""Which schedule is best at equal time? One network per row, from random weights, trained on fold 0.

    python experiments/schedule.py DATA WORK [--rows recipe lr/2 ...] [--minutes 10] [--seed 0] [--auxiliary-dir AUX]

DATA holds NAME_T1w.nii.gz with NAME_dseg.nii.gz, AUX scans with automatic labels, WORK the prepared scans and the
results. Every row trains the network of narrow.toml with the layout, the deformable atlas prior and the augmentation of
whole.toml for the same processor time on one thread: its steps are timed first, their number follows, and the learning
rate falls to 0 with the last one. A row changes one thing of the first row.

Prints the parameters, the steps and their processor seconds, the minutes that the training really took, and the mean
Dice of the held-out subjects in template space. Run the same command again to continue; with another --seed a row is
kept in WORK/ROW-seedSEED.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from dimensions import (
    SHARED,
    WHOLE,
    Plan,
    alone,
    dice_of,
    link_shared,
    print_table,
    read_plan,
    save,
    seconds_per_step,
    train,
)

from slant.config import build, read_toml
from slant.io.resources import resource
from slant.train.context import run_context
from slant.train.prepare import load_training, prepare_groupwise, prepare_scans
from slant.train.settings import TrainSettings

NETWORK = {"kind": "residual", "widths": [24, 32, 48, 64], "upsampled_channels": 16, "head_channels": 24}
STAGE = {
    "learning_rate": 3e-3,
    "lr_decay_fraction": 0.7,
    "patches": 144,
    "class_balanced_fraction": 0.33,
    "ema_decay": 0.98,
    "validate_every": 0,
    "crop": True,
}


@dataclass(frozen=True)
class Row:
    """What a row changes: entries of ``[network]``, ``[whole]`` and ``[augment]``."""

    network: dict[str, Any] = field(default_factory=dict)
    stage: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)


ROWS = {
    "recipe": Row(),
    "learning rate x 2": Row(stage={"learning_rate": 6e-3}),
    "learning rate / 2": Row(stage={"learning_rate": 1.5e-3}),
    "decay from the start": Row(stage={"lr_decay_fraction": 1.0}),
    "decay at the end": Row(stage={"lr_decay_fraction": 0.3}),
    "2 scans per step": Row(stage={"scans_per_step": 2}),
    "4 scans per step": Row(stage={"scans_per_step": 4}),
    "whole brain, no crops": Row(stage={"crop": False}),
    "48 patches": Row(stage={"patches": 48}),
    "432 patches": Row(stage={"patches": 432}),
    "no balanced patches": Row(stage={"class_balanced_fraction": 0.0}),
    "balanced patches x 2": Row(stage={"class_balanced_fraction": 0.67}),
    "averaging 0.9": Row(stage={"ema_decay": 0.9}),
    "averaging 0.995": Row(stage={"ema_decay": 0.995}),
    "wide 1 mm branch": Row({"image_channels": 16, "upsampled_channels": 32, "head_channels": 48}),
    "three layers at 1 mm": Row({"head_layers": 1}),
    "no flips": Row(augment={"flip_probability": 0.0}),
    "auxiliary scans": Row(stage={"auxiliary_probability": 0.5}),
}


def arguments() -> argparse.Namespace:
    """Folders, rows and their time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    default = [row for row in ROWS if row != "auxiliary scans"]
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=default)
    parser.add_argument("--minutes", type=float, default=10.0, help="processor time of the training of a row")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, scans and augmentation")
    parser.add_argument("--timed-steps", type=int, default=8, help="steps that are timed before the training")
    parser.add_argument("--auxiliary-dir", type=Path, help="for the row with auxiliary scans")
    return parser.parse_args()


def settings_of(options: argparse.Namespace, work: Path, row: Row, steps: int) -> TrainSettings:
    """Settings of whole.toml with the changes of a row, in a folder of its own."""
    path = resource("configs", "train", "whole.toml")
    values = read_toml(path)
    values |= {"data": options.data, "work_dir": work, "fold": 0}
    if row.stage.get("auxiliary_probability"):
        values["auxiliary_dir"] = options.auxiliary_dir
    values["network"] = NETWORK | row.network
    values["whole"] = {**values["whole"], **STAGE, **row.stage, "steps": steps, "seed": options.seed}
    values["augment"] = {**values["augment"], **row.augment}
    if not values["augment"]["flip_probability"]:
        del values["mirror"]
    return build(TrainSettings, values, str(path))


def prepare(options: argparse.Namespace) -> None:
    """Prepare the scans and the groupwise template of all rows, unless an earlier call has done it."""
    row = ROWS["recipe"] if options.auxiliary_dir is None else ROWS["auxiliary scans"]
    settings = settings_of(options, options.work / SHARED, row, 1)
    with alone(options.work / SHARED / "lock"):
        prepare_scans(run_context(settings))
        prepare_groupwise(settings)


def train_row(options: argparse.Namespace, name: str) -> str:
    """Train and validate a row; its line of the table."""
    folder = name.replace(" ", "-").replace("/", "by") + (f"-seed{options.seed}" if options.seed else "")
    work, row = options.work / folder, ROWS[name]
    settings = settings_of(options, work, row, 1)
    link_shared(options, settings)
    run, path = run_context(settings), work / "row.json"
    plan = read_plan(path, options.minutes)
    if plan is None or plan.dice is None:
        scans = load_training(run)
        if plan is None:
            step_s = seconds_per_step(run, scans, options.timed_steps)
            steps = max(1, round(60 * options.minutes / step_s))
            plan = save(path, Plan(options.minutes, {WHOLE: step_s}, {WHOLE: steps}))
        run = run_context(settings_of(options, work, row, plan.steps[WHOLE]))
        plan = train(run, scans, plan, path)
        plan = save(path, replace(plan, dice=dice_of(run, scans)))
    parameters = sum(parameter.numel() for parameter in run.network.build().parameters())
    measured = f"{plan.steps[WHOLE]} | {plan.step_s[WHOLE]:.2f} | {plan.used_s / 60:.1f} | {plan.dice:.4f}"
    return f"| {name} | {parameters:,} | {measured} |"


def main() -> None:
    """Train the rows, and print their table."""
    options = arguments()
    if "auxiliary scans" in options.rows and options.auxiliary_dir is None:
        raise SystemExit("the row 'auxiliary scans' needs --auxiliary-dir, a folder of automatically labelled scans")
    torch.set_num_threads(1)
    prepare(options)
    print_table(train_row(options, name) for name in options.rows)


if __name__ == "__main__":
    main()
