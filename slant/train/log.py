"""Logging of a training stage: progress bar, table of steps, TensorBoard events and checkpoints."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from tensorboardX import SummaryWriter
from tqdm import tqdm

from slant.files import write_atomic
from slant.train.checkpoint import State, identity_of, save_checkpoint
from slant.train.context import StageContext
from slant.train.loop import learning_rate
from slant.train.stage_settings import StageSettings
from slant.train.validate import held_out_dice

SAVE_SECONDS = 120
"""Seconds between two checkpoints."""


@contextmanager
def logged_stage(path: Path, state: State, context: StageContext) -> Iterator[Callable[[State], bool]]:
    """Context manager that yields the function which `train_stage` calls after one or more steps, and saves at the end.

    Parameters
    ----------
    path : Path
        File of the checkpoint, ``.../NAME.pt``. The table is ``NAME.tsv`` in the same folder; the events are in
        ``tensorboard/NAME``.
    """
    stage, identity, deadline = context.stage, identity_of(context), context.run.deadline
    saved, table, first = time.monotonic(), path.with_suffix(".tsv"), state.step
    hours = _earlier_hours(table, first)
    purge_step = first + 1 if first else None  # discards the events that an interrupted run wrote after its checkpoint
    with (
        tqdm(total=stage.steps, initial=first, desc=path.stem, unit="step", file=sys.stderr) as bar,
        closing(SummaryWriter(str(path.parent / "tensorboard" / path.stem), purge_step=purge_step)) as events,
    ):
        begun = time.monotonic()

        def after_steps(state: State) -> bool:
            nonlocal saved, begun
            new = range(int(bar.n), state.step)
            step_hours = (time.monotonic() - begun) / 3600 / max(1, len(new))
            hours.extend((hours[-1] if hours else 0.0) + step_hours * i for i in range(1, len(new) + 1))
            bar.update(len(new))
            bar.set_postfix(loss=f"{np.mean(state.losses[-20:]):.3f}", refresh=False)
            for step in new:
                events.add_scalar("loss", state.losses[step], step + 1)
                events.add_scalar("learning_rate", learning_rate(step, stage), step + 1)
            if stage.validate_every and (state.step % stage.validate_every == 0 or state.step == stage.steps):
                score = held_out_dice(state.average, context)
                if score is not None:
                    state.scores.append((state.step, round(score, 5)))
                    events.add_scalar("val_dice", score, state.step)
            if time.monotonic() - saved > SAVE_SECONDS:
                save_checkpoint(path, state, identity)
                write_table(table, state, stage, hours)
                saved = time.monotonic()
            begun = time.monotonic()  # what is between two calls is training; validations and checkpoints do not count
            return deadline is None or begun < deadline

        yield after_steps
    save_checkpoint(path, state, identity)
    write_table(table, state, stage, hours)


def _earlier_hours(path: Path, count: int) -> list[float]:
    """The hours of the first steps in a table of steps, which does not exist or ends earlier if a run was interrupted.

    Steps without hours get those of the last step that has them.
    """
    found: list[float] = []
    if path.is_file():
        table = pd.read_csv(path, sep="\t")
        if "hours" in table:
            found = table["hours"].tolist()[:count]
    return found + [found[-1] if found else 0.0] * (count - len(found))


def write_table(path: Path, state: State, stage: StageSettings, hours: list[float]) -> None:
    """Write the table of steps: ``step``, ``loss``, ``learning_rate``, ``hours`` and ``val_dice``.

    ``hours`` are those of all steps so far, without validation; ``val_dice`` is empty if it was not measured.
    """
    steps = np.arange(1, len(state.losses) + 1)
    scores = dict(state.scores)
    table = pd.DataFrame(
        {
            "step": steps,
            "loss": state.losses,
            "learning_rate": [learning_rate(int(step) - 1, stage) for step in steps],
            "hours": hours,
            "val_dice": [scores.get(int(step), np.nan) for step in steps],
        }
    )
    write_atomic(path, table.to_csv(sep="\t", index=False, float_format="%.6g"))
