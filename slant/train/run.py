"""Runs the stages of a training: prepare, groupwise, pretrain, whole, tiles, export, evaluate; each can be resumed."""

from __future__ import annotations

import sys

from slant.errors import SettingsError
from slant.report.curves import draw_curves
from slant.train.context import RunContext, run_context
from slant.train.export import export
from slant.train.prepare import load_training, prepare_groupwise, prepare_scans
from slant.train.settings import TrainSettings
from slant.train.stages import train_tiles, train_whole
from slant.train.transfer import select_tiles
from slant.train.validate import evaluate, mean_by_subject

STAGES = ("prepare", "groupwise", "pretrain", "whole", "tiles", "export", "evaluate")


def run_stages(
    settings: TrainSettings, stages: tuple[str, ...], tiles: tuple[str, ...], deadline: float | None
) -> bool:
    """Run the selected stages, all by default, in their order; whether all of them are finished.

    Parameters
    ----------
    stages : tuple of str
        Names from `STAGES`.
    tiles : tuple of str
        Names of the tiles to fine-tune; all by default.
    deadline : float, optional
        Value of `time.monotonic` at which training stops; another call resumes it.
    """
    selected = stages or STAGES
    run = run_context(settings, deadline)
    _check(run, tiles)
    if "prepare" in selected:
        prepare_scans(run)
    if "groupwise" in selected:
        prepare_groupwise(settings)
    needs_scans = not {"pretrain", "whole", "tiles", "export"}.isdisjoint(selected)
    if needs_scans and not _train_and_export(run, selected, tiles):
        return False
    if "evaluate" in selected and settings.fold is not None:
        for folder in sorted(settings.run.glob("model-*")):
            means = mean_by_subject(evaluate(settings, folder))
            subjects = ", ".join(f"{name} {dice:.4f}" for name, dice in means.items())
            sys.stdout.write(f"mean Dice of {folder.name} on held-out subjects: {means.mean():.4f} ({subjects})\n")
    return True


def _train_and_export(run: RunContext, selected: tuple[str, ...], tiles: tuple[str, ...]) -> bool:
    """Run the stages that need the prepared scans; whether all of them are finished."""
    scans = load_training(run)
    try:
        for name in ("pretrain", "whole"):
            if name in selected and not train_whole(run, scans, name):
                return False
        if "tiles" in selected and not train_tiles(run, scans, tiles):
            return False
    finally:
        draw_curves(run.settings.run)
    if "export" in selected:
        for folder in export(run, scans):
            sys.stdout.write(f"model  {folder}\n")
    return True


def _check(run: RunContext, tiles: tuple[str, ...]) -> None:
    """Check the settings before any work starts."""
    settings = run.settings
    if settings.groupwise is not None and not run.network.type.prior:
        raise SettingsError(
            f"[groupwise] makes a prior, but the network {run.network.kind!r} uses no prior; remove [groupwise] or "
            "choose another kind"
        )
    select_tiles(settings.layout, tiles)
    if not settings.data.is_dir():
        raise SettingsError(f"{settings.data} is not a folder; give the folder of labelled scans with --data FOLDER")
