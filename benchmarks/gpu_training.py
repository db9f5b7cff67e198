"""The part `training` of `gpu.py`: time of a step, training until the time is over, export and validation."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from gpu_meter import StepMeter
from gpu_parts import DONE, FAILED, names_of, prepared_of
from gpu_results import Options, Results, deliver
from pack_training import UNLABELLED
from unlabelled_scans import label_scans
from unpack_training import description_of, settings_of

from slant import pipeline
from slant.config import SegmentSettings
from slant.io.models import load_model
from slant.train import run, stages
from slant.train.checkpoint import State
from slant.train.settings import TrainSettings
from slant.train.validate import mean_dice_of

EXPORT_S = 10.0
"""Seconds for the last checkpoint, the curves and the export."""

STOP_S = 3.0
"""Seconds by which the part ends before it would be stopped."""

LABEL_S = 20.0
"""Seconds for the validation of a scan, if they were not measured."""

RESTART_S = 5.0
"""Seconds for continuing with another schedule."""

FITTED = 0.95
"""Fraction of the time left for which steps are planned."""

Continue = Callable[[State], bool]


@dataclass
class Plan:
    """When the training must end, so that there is time for export and validation.

    Attributes
    ----------
    end : float
        Value of `time.monotonic` at which all must be done.
    """

    options: Options
    end: float
    scans: int
    begun: float = field(default_factory=time.monotonic)
    finished: int | None = None
    only_measure: bool = False
    measured: bool = False

    @property
    def results(self) -> Results:
        """The table of results."""
        return Results(self.options.out)

    @property
    def deadline(self) -> float:
        """When the last step must end."""
        device, results = self.options.device, self.results
        seconds = [results.number("labels", f"whole {what}") for what in (f"{device} first", "deformation")]
        own = results.number("training", "labelling a scan")
        if None in seconds and own is not None:
            seconds = [own]
        label = LABEL_S if None in seconds else 1.5 * sum(s for s in seconds if s is not None)
        reserve = EXPORT_S + self.scans * label
        return self.end - min(reserve, 0.5 * (self.end - time.monotonic()))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Measure the steps of every stage, end them in time, and load the scans only once."""
        train_stage, load = vars(stages)["train_stage"], vars(run)["load_training"]
        loaded: list[Any] = []

        def load_once(context: Any) -> Any:
            if not loaded:
                start = time.monotonic()
                loaded.append(load(context))
                self.results.row("training", "loading the scans", time.monotonic() - start, "s")
            return loaded[0]

        def train(state: State, context: Any, after_steps: Continue, **more: Any) -> State:
            deadline, first = self.deadline, state.step
            print(f"from step {first}, for at most {deadline - time.monotonic():.0f} s", flush=True)
            meter = StepMeter(self.results, self.options.device, self.options.step_count)
            if self.measured:
                meter.phases.clear()
            meter.first = first

            def following(current: State) -> bool:
                measuring = bool(meter.phases) or not self.only_measure
                return after_steps(current) and measuring and time.monotonic() < deadline

            try:
                trained: State = train_stage(
                    state, context, lambda current: meter.after_steps(current, following), **more
                )
                return trained
            finally:
                meter.waiting.close()
                self.finished = state.step - first

        with patch.object(stages, "train_stage", train), patch.object(run, "load_training", load_once):
            yield


def training(options: Options, start: float) -> int:
    """Train in the time that is left, export the model of the steps so far, and validate it.

    Parameters
    ----------
    start : float
        Value of `time.monotonic` at which the process began.
    """
    results, settings = Results(options.out), settings_of(options.work, options.device)
    _, held_out = names_of(settings)
    plan, known = Plan(options, start + options.seconds - STOP_S, len(held_out)), description_of(options.work)
    if known[UNLABELLED]:
        begun = time.monotonic()
        mean = label_scans(settings, known[UNLABELLED], known["label_with"], options.device)
        note = f"{len(known[UNLABELLED])} scans by {known['label_with']}, mean vote fraction {mean:.4f}"
        results.row("training", "labelling a scan", (time.monotonic() - begun) / len(known[UNLABELLED]), "s", note)
    if settings.groupwise is not None:
        run.run_stages(settings, ("groupwise",), (), None)
        results.row("training", "groupwise template and registrations", time.monotonic() - plan.begun, "s")
    with plan.applied():
        if options.fit_steps:
            settings = _fitted(settings, plan)
        run.run_stages(settings, ("pretrain", "whole"), (), plan.end - EXPORT_S)
        steps = checkpoint_steps(settings)
        results.row("training", "steps now", plan.finished if plan.finished is not None else 0, "steps")
        results.row("training", "steps in all", steps, "steps", f"of {_stage_of(settings).steps}")
        deliver(settings.run / "whole.tsv", options.out)
        deliver(settings.run / "curves.png", options.out)
        run.run_stages(_ended(settings, options, steps), ("export",), (), None)
    archive = options.work / "model-whole.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(settings.run / "model-whole", "model-whole")
    deliver(archive, options.out)
    return validate(settings, held_out, plan)


def _fitted(settings: TrainSettings, plan: Plan) -> TrainSettings:
    """The settings with as many steps of the stage whole as there is time for, after a few that are measured."""
    plan.only_measure = True
    run.run_stages(settings, ("pretrain", "whole"), (), plan.end - EXPORT_S)
    plan.only_measure, plan.measured = False, True
    seconds = plan.results.number("training", "step")
    if seconds is None:  # the stage is finished, or there was no time to measure it
        return settings
    left = plan.deadline - time.monotonic() - RESTART_S
    steps = checkpoint_steps(settings) + max(1, int(FITTED * left / seconds))
    plan.results.row("training", "steps of the schedule", steps, "steps", f"{left:.0f} s left")
    return replace(settings, whole=replace(_stage_of(settings), steps=steps))


def checkpoint_steps(settings: TrainSettings) -> int:
    """Number of steps of the checkpoint of the stage whole."""
    return int(torch.load(settings.run / "whole.pt", map_location="cpu", weights_only=True)["step"])


def _stage_of(settings: TrainSettings) -> Any:
    return settings.cascade[0].whole


def _ended(settings: TrainSettings, options: Options, steps: int) -> TrainSettings:
    """The settings as if the stage ended here, so that its model can be exported, with the first weights named."""
    source = description_of(options.work)["init_from"]
    stage = replace(_stage_of(settings), steps=min(steps, _stage_of(settings).steps))
    return replace(settings, whole=stage, init_from=None if source is None else Path(source))


def validate(settings: TrainSettings, names: list[str], plan: Plan) -> int:
    """Label the held-out scans with the exported model, and measure Dice in template space."""
    from slant.nets.groupwise import deform
    from slant.train.data import load_stored

    options = plan.options
    scores: list[float] = []
    model = load_model(str(settings.run / "model-whole"))
    for name in names:
        if time.monotonic() > plan.end - EXPORT_S / 2:
            print(f"no time is left to validate {', '.join(names[len(scores) :])}")
            return FAILED
        prepared = prepared_of(settings, name)
        if model.inputs.groupwise is not None:
            prepared = replace(prepared, deformation=deform(prepared.image, model.inputs.groupwise))
        found = pipeline.label(prepared, model, SegmentSettings(device=options.device)).template_labels
        path = settings.work_dir / "prepared" / f"{name}.labels.npz"
        reference = load_stored(path, "prepared scan", "prepare", ("channels",))["channels"]
        channels = model.protocol.channels_from_ids(found.data, unknown="error").astype(np.uint8)
        scores.append(mean_dice_of(channels, reference))
        plan.results.row("training", f"Dice of {name}", scores[-1], "", "held out, in template space")
    if scores:
        plan.results.row("training", "mean Dice", float(np.nanmean(scores)), "", f"{len(scores)} held-out scans")
    return DONE
