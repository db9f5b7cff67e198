"""Measures the steps of a training while it goes on."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from gpu_parts import peak_gib
from gpu_results import Results
from torch import Tensor

from slant.train import loop, step
from slant.train.checkpoint import State

WARM_UP = 10
"""Least number of training steps before the first that is measured."""

Continue = Callable[[State], bool]


class StepMeter:
    """Measures steps of a training while it goes on: first as they are, then with a wait after each of their parts.

    Parameters
    ----------
    device : str
        Torch name of the device on which the steps are computed.
    count : int
        Least number of steps for each mean, after `WARM_UP` steps.
    """

    def __init__(self, results: Results, device: str, count: int) -> None:
        self.results, self.device = results, device
        self.phases = [(WARM_UP, self._begin), (count, self._report_plain), (count, self._report_parts)]
        self.seconds: dict[str, float] = defaultdict(float)
        self.first, self.begun, self.inside = 0, time.monotonic(), 0.0
        self.waiting = ExitStack()

    def wait(self) -> None:
        """Wait until the GPU has done what it was told."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)

    def after_steps(self, state: State, following: Continue) -> bool:
        """Call the function that follows one or more steps; its time does not count. Whether the training goes on."""
        is_over = bool(self.phases) and state.step - self.first >= self.phases[0][0]
        if is_over:
            self.wait()
            _, report = self.phases.pop(0)
            report(state, time.monotonic() - self.begun - self.inside)
        start = time.monotonic()
        more = following(state)
        self.inside += time.monotonic() - start
        if is_over:
            self.first, self.begun, self.inside = state.step, time.monotonic(), 0.0
        return more

    def _begin(self, state: State, seconds: float) -> None:
        self.results.row("training", "first steps", seconds / (state.step - self.first), "s", "mean, warm-up included")
        peak_gib(self.device)

    def _report_plain(self, state: State, seconds: float) -> None:
        count = state.step - self.first
        self.results.row("training", "step", seconds / count, "s", f"mean of {count} steps")
        peak, what = peak_gib(self.device)
        self.results.row("training", "step peak", peak, "GiB", what)
        self._watch(state)

    def _report_parts(self, state: State, seconds: float) -> None:
        self.waiting.close()
        count = state.step - self.first
        self.results.row("training", "step, waiting after each part", seconds / count, "s", f"mean of {count} steps")
        parts = dict(self.seconds)
        if "augmentation" in parts and "forward pass" in parts:
            parts["forward pass"] -= parts["augmentation"]
        parts["rest"] = seconds - sum(parts.values())
        for part, total in parts.items():
            self.results.row("training", f"step: {part}", total / count, "s")

    def _watch(self, state: State) -> None:
        """From now on, measure the parts of a step; those that are not found are counted to the others."""
        for module, name, part in ((step, "view_of", "augmentation"), (loop, "step_loss", "forward pass")):
            if hasattr(module, name):
                changed = self._timed(part, getattr(module, name))
                self.waiting.enter_context(patch.object(module, name, changed))
        backward = self._timed("backward pass", Tensor.backward)
        self.waiting.enter_context(patch.object(Tensor, "backward", backward))
        starts: list[float] = []

        def before(*_: object) -> None:
            self.wait()
            starts.append(time.monotonic())

        def after(*_: object) -> None:
            self.wait()
            self.seconds["optimizer"] += time.monotonic() - starts.pop()

        for handle in (state.optimizer.register_step_pre_hook(before), state.optimizer.register_step_post_hook(after)):
            self.waiting.callback(handle.remove)

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            self.wait()
            start = time.monotonic()
            out = function(*arguments, **named)
            self.wait()
            self.seconds[part] += time.monotonic() - start
            return out

        return timed
