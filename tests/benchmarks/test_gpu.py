"""`gpu.sh` trains from a pack where ants, deepbet and others are missing, and leaves what can be used."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from phantoms import toy_settings

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
MISSING = ("ants", "deepbet", "jinja2", "monai", "nilearn", "psutil", "reportlab", "sklearn", "zlib_ng")
"""Packages that the other machine lacks."""

SITE = f"""
import sys
from importlib.machinery import PathFinder

class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = super().find_spec(name, path, target)
        hidden = name.partition(".")[0] in {MISSING!r} and spec is not None and "site-packages" in str(spec.origin)
        return None if hidden else spec

sys.meta_path[:] = [Installed if finder is PathFinder else finder for finder in sys.meta_path]
"""
"""`sitecustomize.py` that hides packages from every process."""


def module_of(name: str) -> ModuleType:
    """A module that is not part of the package."""
    with patch.object(sys, "path", [str(BENCHMARKS), *sys.path]):
        return importlib.import_module(name)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which packages are missing."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_training_imports_without_packages_that_it_does_not_use(environment: dict[str, str]) -> None:
    paths = os.pathsep.join([environment["PYTHONPATH"], str(BENCHMARKS), str(ROOT)])
    code = "import gpu_training, sys; sys.exit(bool({'ants', 'deepbet', 'nilearn'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], env={**environment, "PYTHONPATH": paths}, check=True)


def test_a_part_that_fails_or_hangs_does_not_stop_the_next(tmp_path: Path) -> None:
    gpu, results = module_of("gpu"), module_of("gpu_results")
    lines: list[str] = []
    options = results.Options(tmp_path, tmp_path, tmp_path, "cpu", 0.0, 1.0, (), 1)
    commands = {"machine": "raise ValueError('broken')", "tests": "import time; time.sleep(60)", "labels": "exit(3)"}
    real = subprocess.Popen

    def started(command: list[str], **named: object) -> subprocess.Popen[str]:
        return real([sys.executable, "-c", commands[command[2]]], **named)

    begun = time.monotonic()
    with patch.object(gpu.subprocess, "Popen", started), patch.object(gpu, "Delivery", lambda *_: lambda: None):
        failed = gpu.run_all(list(commands), options, begun + 30, Recorded(lines, lines.extend))
    assert failed == ["machine", "tests"]
    assert time.monotonic() - begun < 20
    text = "\n".join(lines)
    assert "ValueError: broken" in text
    assert "tests was stopped after 1 s" in text
    assert "labels: skipped" in text
    table = pd.read_csv(tmp_path / "results.tsv", sep="\t")
    assert table["quantity"].tolist() == list(commands)
    assert table["value"].tolist() == [1, -9, 3]


class Recorded:
    """A log that keeps its lines."""

    def __init__(self, lines: list[str], copy: object) -> None:
        self.lines, self.copy = lines, copy

    def __call__(self, text: str) -> None:
        """Keep a line."""
        self.lines.append(text)


def test_steps_are_measured_while_the_training_goes_on(tmp_path: Path) -> None:
    training, results = module_of("gpu_training"), module_of("gpu_results").Results(tmp_path)
    weight = torch.nn.Parameter(torch.ones(3))
    state = SimpleNamespace(step=4, optimizer=torch.optim.AdamW([weight]))
    meter = training.StepMeter(results, "cpu", 3)
    meter.first = state.step
    for _ in range(9):
        for _ in range(2):  # two steps between two calls, as on a GPU
            state.optimizer.zero_grad()
            weight.sum().backward()
            state.optimizer.step()
            state.step += 1
        assert meter.after_steps(state, lambda _: time.sleep(0.02) is None)
    table = pd.read_csv(results.path, sep="\t").set_index("quantity")
    assert table.loc["step", "note"] == "mean of 4 steps"
    assert {"step: backward pass", "step: optimizer", "step: rest", "step peak"} <= set(table.index)
    seconds = table.loc[[name for name in table.index if name.startswith("step: ")], "value"].astype(float)
    assert seconds.sum() == pytest.approx(float(table.loc["step, waiting after each part", "value"]), rel=0.05)
    assert float(table.loc["step", "value"]) < 0.01  # without what follows a step
    assert torch.Tensor.backward.__name__ == "backward"
    assert not state.optimizer._optimizer_step_pre_hooks


def test_training_ends_in_time_for_the_validation(tmp_path: Path) -> None:
    training, results = module_of("gpu_training"), module_of("gpu_results")
    options = results.Options(tmp_path, tmp_path, tmp_path, "cpu", 0.0, 1.0, (), 1)
    for quantity, seconds in (("whole deformation", 2.0), ("whole cpu first", 4.0)):
        results.Results(tmp_path).row("labels", quantity, seconds, "s")
    plan = training.Plan(options, time.monotonic() + 1000, scans=3)
    assert plan.end - plan.deadline == pytest.approx(training.EXPORT_S + 3 * 1.5 * 6)
    state, seen = SimpleNamespace(step=2), []

    def train_stage(state: SimpleNamespace, context: object, after: Callable[[object], bool], until: int) -> object:
        while state.step < until and after(state):
            state.step += 1
        return state

    def after_steps(current: SimpleNamespace) -> bool:
        seen.append(current.step)
        return True

    with patch.object(training.stages, "train_stage", train_stage), plan.applied():
        assert training.stages.train_stage(state, None, after_steps, until=7) is state
    assert (seen, plan.finished) == ([2, 3, 4, 5, 6], 5)
    plan.end = time.monotonic() + 1000
    with patch.object(training.stages, "train_stage", train_stage), plan.applied():
        plan.end = time.monotonic()
        state.step = 2
        training.stages.train_stage(state, None, after_steps, until=7)
    assert plan.finished == 0


def test_a_schedule_is_fitted_to_the_time_that_is_left(tmp_path: Path) -> None:
    training, results = module_of("gpu_training"), module_of("gpu_results")
    options = results.Options(tmp_path, tmp_path, tmp_path, "cpu", 0.0, 1.0, (), 1, fit_steps=True)
    plan, settings = training.Plan(options, time.monotonic() + 215, scans=0), toy_settings(tmp_path)
    measuring: list[bool] = []

    def run_stages(*_: object) -> bool:
        measuring.append(plan.only_measure)
        results.Results(tmp_path).row("training", "step", 0.5, "s")
        return False

    with patch.object(training.run, "run_stages", run_stages), patch.object(training, "checkpoint_steps", lambda _: 60):
        fitted = training._fitted(settings, plan)
    assert measuring == [True]
    assert (plan.only_measure, plan.measured) == (False, True)
    seconds = 215 - training.EXPORT_S - training.RESTART_S
    assert fitted.whole.steps == pytest.approx(60 + training.FITTED * seconds / 0.5, abs=2)


def test_wrong_arguments_are_explained(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for pack, out, message in (
        (tmp_path, tmp_path / "full", "not an empty"),
        (tmp_path / "no", tmp_path / "o", "make it"),
    ):
        command = ["bash", str(BENCHMARKS / "gpu.sh"), str(pack), str(out)]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert found.returncode == 1
        assert message in found.stderr
        assert "Traceback" not in found.stderr


@pytest.mark.slow
def test_everything_on_phantoms(tmp_path: Path, environment: dict[str, str]) -> None:
    from slant.cli import main
    from slant.io.models import load_model

    def slant(*arguments: str) -> None:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        assert ended.value.code in (None, 0)

    data, work, config = tmp_path / "data", tmp_path / "work", ROOT / "configs" / "train" / "phantom.toml"
    slant("phantoms", str(data), "--count", "3", "--voxel-mm", "3")
    text = config.read_text().replace("folds = 4", "folds = 3") + "\n[groupwise]\nrounds = 1\n"
    (tmp_path / "phantom.toml").write_text(text)
    options = ["--data", str(data), "--work-dir", str(work), "--fold", "0"]
    slant("train", str(tmp_path / "phantom.toml"), *options, "--stages", "prepare")
    pack = [sys.executable, str(BENCHMARKS / "pack_training.py"), str(tmp_path / "phantom.toml"), *options]
    subprocess.run([*pack, str(tmp_path / "pack.tar")], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    common = ["--device", "cpu", "--minutes", "30", "--step-count", "2", "--work-dir", str(tmp_path / "unpacked")]

    def gpu(out: str, *more: str) -> None:
        command = ["bash", str(BENCHMARKS / "gpu.sh"), str(tmp_path / "pack.tar"), str(tmp_path / out), *common, *more]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout + found.stderr

    gpu("out", "--parts", "machine", "unpack", "tests", "segment", "training")

    out = tmp_path / "out"
    names = sorted(path.name for path in out.iterdir())
    assert len(names) <= 8
    assert {"gpu.log", "results.tsv", "whole.tsv", "curves.png", "model-whole.tar"} <= set(names)
    assert "segment: skipped" in (out / "gpu.log").read_text()
    assert "failed: nothing" in (out / "gpu.log").read_text()
    module_of("pieces").join(out, tmp_path / "whole.pt")
    steps = torch.load(tmp_path / "whole.pt", weights_only=True)["step"]
    table = pd.read_csv(out / "results.tsv", sep="\t").set_index("quantity")["value"]
    assert int(table["steps in all"]) == steps > 0
    assert 0 <= float(table["mean Dice"]) <= 1
    assert len(pd.read_csv(out / "whole.tsv", sep="\t")) == steps
    with tarfile.open(out / "model-whole.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    assert load_model(str(tmp_path / "model-whole")).name == "whole"

    gpu("labels", "--parts", "labels", "--models", str(tmp_path / "model-whole"))

    table = pd.read_csv(tmp_path / "labels" / "results.tsv", sep="\t").set_index("quantity")["value"]
    assert float(table["model-whole template_labels differing"]) == float(table["model-whole labels differing"]) == 0
