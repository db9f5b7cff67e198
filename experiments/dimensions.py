"""Which way between 2D and 3D is best at equal time? One network per row, from random weights, trained on fold 0.

    python experiments/dimensions.py DATA AUX WORK [--rows residual anisotropic ...] [--minutes 60]

DATA holds NAME_T1w.nii.gz with NAME_dseg.nii.gz, AUX scans with automatic labels, WORK the prepared scans and the
results. Every row gets the same processor time on one thread: its steps are timed first, their number follows, and the
learning rate falls to 0 with the last one. Rows that begin with 2D networks divide their time between both stages. All
use the layout, the deformable atlas prior and the augmentation of whole.toml, but half of the steps see slices of up to
5 mm, and half of the steps are on auxiliary scans.

Prints the parameters, the steps and their processor seconds, the minutes that the training really took, and the mean
Dice of the held-out subjects in template space. WORK/ROW/fold0/model-whole is the model of a row, for
benchmarks/thick_slices.py; with another --seed it is in WORK/ROW-seedSEED. Rows can run at the same time in several
processes of about 5 GB; run the same command again to continue.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from slant.config import build, read_toml
from slant.io.resources import resource
from slant.train.checkpoint import averaged_weights, new_state
from slant.train.context import RunContext, run_context, whole_context
from slant.train.data import TrainingScans
from slant.train.export import export
from slant.train.loop import train_stage
from slant.train.prepare import load_training, prepare_groupwise, prepare_scans
from slant.train.settings import TrainSettings
from slant.train.slices import slicewise_run
from slant.train.stages import train_slices, train_whole
from slant.train.transfer import freeze
from slant.train.validate import held_out_dice

SHARED = "shared"
"""Folder in WORK of what all rows use: the prepared scans and the groupwise template of the fold."""

SLICES, WHOLE = "slices", "whole"

STAGE = {
    "learning_rate": 3e-3,
    "lr_decay_fraction": 0.7,
    "patches": 144,
    "ema_decay": 0.98,
    "auxiliary_probability": 0.5,
    "validate_every": 0,
    "crop": True,
}
AUGMENT = {"slice_thickness_probability": 0.5, "slice_thickness_plane": "axial", "slice_thickness_mm": 5.0}


@dataclass(frozen=True)
class Row:
    """A network and how it is trained.

    Attributes
    ----------
    network : dict
        The table ``[network]``.
    slices : float
        Fraction of the time in which the 2D networks are trained first; 0: there are none.
    folds : int
        Folds of the training subjects, for each of which the 2D networks are trained without it; 0: none.
    """

    network: dict[str, Any]
    slices: float = 0.0
    folds: int = 0

    def seconds(self, minutes: float) -> dict[str, float]:
        """Seconds of each stage in a number of minutes."""
        seconds = {SLICES: 60 * minutes * self.slices, WHOLE: 60 * minutes * (1 - self.slices)}
        return {stage: share for stage, share in seconds.items() if share}


ROWS = {
    "residual": Row({"kind": "residual"}),
    "resnet18": Row({"kind": "residual", "encoder": "resnet18"}),
    "slicewise": Row({"kind": "slicewise"}),
    "anisotropic": Row({"kind": "anisotropic"}),
    "anisotropic-from-2d": Row({"kind": "anisotropic"}, slices=0.5),
    "orthogonal": Row({"kind": "orthogonal"}),
    "fusion": Row({"kind": "fusion"}, slices=0.7, folds=2),
    "fusion-without-folds": Row({"kind": "fusion"}, slices=0.7),
    "adapted": Row({"kind": "adapted"}),
}


@dataclass(frozen=True)
class Plan:
    """What is known of a row, kept in ``row.json`` in its folder.

    Attributes
    ----------
    minutes : float
        Time that the row was given.
    step_s : dict of str to float
        Processor seconds of a step of each stage; of ``slices``, of one step of every 2D network.
    steps : dict of str to int
        Number of steps of each stage.
    used_s : float
        Processor seconds that the training has taken so far.
    dice : float, optional
        Mean Dice of the held-out subjects, if the row is finished.
    """

    minutes: float
    step_s: dict[str, float] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    used_s: float = 0.0
    dice: float | None = None


def arguments() -> argparse.Namespace:
    """Folders, rows and their time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("auxiliary", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--minutes", type=float, default=60.0, help="processor time of the training of a row")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, scans and augmentation")
    parser.add_argument("--timed-steps", type=int, default=8, help="steps that are timed before the training")
    return parser.parse_args()


def settings_of(options: argparse.Namespace, work: Path, row: Row, steps: dict[str, int]) -> TrainSettings:
    """Settings of whole.toml with the network and the stages of a row, in a folder of its own."""
    path = resource("configs", "train", "whole.toml")
    values = read_toml(path)
    values |= {"data": options.data, "auxiliary_dir": options.auxiliary, "work_dir": work, "fold": 0}
    values["network"] = row.network
    values["whole"] = {**values["whole"], **STAGE, "steps": steps[WHOLE], "seed": options.seed}
    if row.slices:
        values["slices"] = {**values["whole"], "steps": steps[SLICES], "folds": row.folds}
    values["augment"] = {**values["augment"], **AUGMENT}
    return build(TrainSettings, values, str(path))


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock of a file, after other processes have released it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prepare(options: argparse.Namespace) -> None:
    """Prepare the scans and the groupwise template of all rows, unless an earlier call has done it."""
    work = options.work / SHARED
    ready = work / "ready"
    with alone(work / "lock"):
        if not ready.exists():
            settings = settings_of(options, work, ROWS["residual"], {WHOLE: 1})
            prepare_scans(run_context(settings))
            prepare_groupwise(settings)
            ready.touch()


def link_shared(options: argparse.Namespace, settings: TrainSettings) -> None:
    """Link what all rows use into the folder of a row."""
    shared = options.work / SHARED
    settings.split.mkdir(parents=True, exist_ok=True)
    for own in (settings.work_dir / "prepared", settings.split / "groupwise", settings.split / "auxiliary"):
        if not own.is_symlink():
            target = shared / own.relative_to(settings.work_dir)
            own.symlink_to(target.resolve(), target_is_directory=True)


def seconds_per_step(run: RunContext, scans: TrainingScans, count: int) -> float:
    """Mean processor seconds of some steps of a network that starts from random weights, after a first one."""
    stage = replace(run.assembly.whole, steps=count + 1)
    state = new_state(run.network, stage, None)
    freeze(state.net, run.network.type.frozen)
    clock: list[float] = []

    def after_step(_: object) -> bool:
        clock.append(time.process_time())
        return True

    train_stage(state, whole_context(run, scans, stage), after_step)
    return (clock[-1] - clock[0]) / count


def plan_of(options: argparse.Namespace, row: Row, run: RunContext, scans: TrainingScans) -> Plan:
    """Time the steps of a row and divide its minutes."""
    step_s = {WHOLE: seconds_per_step(run, scans, options.timed_steps)}
    if row.slices:
        runs = [slicewise_run(run, plane) for plane in run.network.settings.slicewise]
        times = [seconds_per_step(own, scans, options.timed_steps) for own in runs]
        step_s[SLICES] = sum(times) * (1 + row.folds)
    return Plan(options.minutes, step_s, steps_in(row.seconds(options.minutes), step_s))


def steps_in(seconds: dict[str, float], step_s: dict[str, float]) -> dict[str, int]:
    """Number of steps of each stage in its seconds, at least one."""
    return {stage: max(1, round(seconds[stage] / step_s[stage])) for stage in seconds}


def read_plan(path: Path, minutes: float) -> Plan | None:
    """The plan of an earlier call; None if there is none."""
    if not path.is_file():
        return None
    plan = Plan(**json.loads(path.read_text("utf-8")))
    if plan.minutes != minutes:
        raise SystemExit(
            f"{path.parent} was planned with --minutes {plan.minutes:g}, found {minutes:g}; give the same, another "
            "WORK, or delete this folder to train the row again"
        )
    return plan


def save(path: Path, plan: Plan) -> Plan:
    """Write a plan, and return it."""
    path.write_text(json.dumps(vars(plan), indent=2) + "\n", "utf-8")
    return plan


def train(run: RunContext, scans: TrainingScans, plan: Plan, path: Path) -> Plan:
    """Train the stages of a row, and add the time to its plan, also if the training is interrupted."""
    start_s = time.process_time()
    try:
        if SLICES in plan.steps:
            train_slices(run, scans)
        train_whole(run, scans)
    finally:
        plan = save(path, replace(plan, used_s=plan.used_s + time.process_time() - start_s))
    return plan


def train_row(options: argparse.Namespace, name: str) -> str:
    """Train, export and validate a row; its line of the table."""
    row, work = ROWS[name], options.work / (f"{name}-seed{options.seed}" if options.seed else name)
    settings = settings_of(options, work, row, {SLICES: 1, WHOLE: 1})
    link_shared(options, settings)
    run, path = run_context(settings), work / "row.json"
    plan = read_plan(path, options.minutes)
    if plan is None or plan.dice is None:
        scans = load_training(run)
        plan = plan or save(path, plan_of(options, row, run, scans))
        run = run_context(settings_of(options, work, row, plan.steps))
        plan = train(run, scans, plan, path)
        export([run], scans)
        plan = save(path, replace(plan, dice=dice_of(run, scans)))
    parameters = sum(parameter.numel() for parameter in run.network.build().parameters())
    steps, seconds = (
        " + ".join(f"{values[stage]:{form}}" for stage in (SLICES, WHOLE) if stage in values)
        for values, form in ((plan.steps, "d"), (plan.step_s, ".2f"))
    )
    return f"| {name} | {parameters:,} | {steps} | {seconds} | {plan.used_s / 60:.1f} | {plan.dice:.4f} |"


def dice_of(run: RunContext, scans: TrainingScans) -> float | None:
    """Mean Dice of the held-out subjects in template space, with the averaged weights."""
    network = run.network.build().requires_grad_(False)
    network.load_state_dict(averaged_weights(run.checkpoint(WHOLE)))
    return held_out_dice(network, whole_context(run, scans, run.assembly.whole))


def print_table(rows: Iterator[str]) -> None:
    """Print each row as soon as it is known."""
    print("| row | parameters | steps | seconds per step | minutes | Dice |\n|---|--:|--:|--:|--:|--:|", flush=True)
    for row in rows:
        print(row, flush=True)


def main() -> None:
    """Train the rows, and print their table."""
    options = arguments()
    torch.set_num_threads(1)
    prepare(options)
    print_table(train_row(options, name) for name in options.rows)


if __name__ == "__main__":
    main()
