"""Runs the stages of a training in their order, see `STAGES`; each can be resumed."""

from __future__ import annotations

import sys

from slant.errors import SettingsError
from slant.report.curves import draw_curves
from slant.train.context import RunContext, run_context
from slant.train.export import export
from slant.train.prepare import load_training, prepare_groupwise, prepare_scans
from slant.train.second_round import first_model, pseudo_label, second_round, unlabelled_scans
from slant.train.settings import TrainSettings
from slant.train.slices import check_slices
from slant.train.stages import train_out_of_fold, train_slices, train_tiles, train_whole
from slant.train.transfer import check_tiles, select_tiles
from slant.train.validate import evaluate, mean_by_subject

STAGES = ("prepare", "groupwise", "slices", "pretrain", "whole", "tiles", "export", "evaluate")


def run_stages(
    settings: TrainSettings, stages: tuple[str, ...], tiles: tuple[str, ...], deadline: float | None
) -> bool:
    """Run the selected stages, all by default, in their order; whether all of them are finished.

    With ``settings.unlabelled``, the model of the first round then labels these scans, and the same stages run again
    with them in a second round.

    The stages ``slices``, ``pretrain``, ``whole`` and ``tiles`` train one assembly of a cascade after the other.

    Parameters
    ----------
    stages : tuple of str
        Names from `STAGES`.
    tiles : tuple of str
        Names of the tiles to fine-tune, ``TILE`` or ``ASSEMBLY/TILE``; all by default.
    deadline : float, optional
        Value of `time.monotonic` at which training stops; another call resumes it.
    """
    selected = stages or STAGES
    first = run_context(settings, deadline)
    _check([first.at(assembly.name) for assembly in settings.cascade], tiles)
    if not _run_round(first, selected, tiles):
        return False
    if settings.unlabelled is None:
        return True
    if not first_model(settings).is_dir():
        sys.stdout.write(f"the second round begins when {first_model(settings)} is exported\n")
        return True
    folder = pseudo_label(settings, settings.unlabelled, deadline)
    return folder is not None and _run_round(run_context(second_round(first, folder), deadline), selected, tiles)


def _run_round(first: RunContext, selected: tuple[str, ...], tiles: tuple[str, ...]) -> bool:
    """Run the selected stages of one round; whether all of them are finished."""
    settings = first.settings
    runs = [first.at(assembly.name) for assembly in settings.cascade]
    if "prepare" in selected:
        prepare_scans(first)
    if "groupwise" in selected:
        prepare_groupwise(settings)
    training = tuple(name for name in ("slices", "pretrain", "whole", "tiles") if name in selected)
    if training and not all(_train(run, training, tiles) for run in runs):
        return False
    if "export" in selected:
        for folder in export(runs, load_training(first)):
            sys.stdout.write(f"model  {folder}\n")
    if "evaluate" in selected and settings.fold is not None:
        for folder in sorted(settings.run.glob("model-*")):
            means = mean_by_subject(evaluate(settings, folder))
            subjects = ", ".join(f"{name} {dice:.4f}" for name, dice in means.items())
            sys.stdout.write(f"mean Dice of {folder.name} on held-out subjects: {means.mean():.4f} ({subjects})\n")
    return True


def _train(run: RunContext, selected: tuple[str, ...], tiles: tuple[str, ...]) -> bool:
    """Run the stages that train an assembly, unless only tiles of others are; whether all of them are finished."""
    if tiles and not select_tiles(run.assembly, tiles):  # they belong to other assemblies
        return True
    scans = load_training(run)
    try:
        if "slices" in selected and not train_slices(run, scans):
            return False
        for name in ("pretrain", "whole"):
            if name in selected and not train_whole(run, scans, name):
                return False
        later = [other for other in run.settings.cascade if other.earlier == run.assembly.name]
        for folds in sorted({other.earlier_folds for other in later} - {0}):
            if "whole" in selected and not train_out_of_fold(run, scans, folds):
                return False
        return "tiles" not in selected or train_tiles(run, scans, tiles)
    finally:
        draw_curves(run.folder)


def _check(runs: list[RunContext], tiles: tuple[str, ...]) -> None:
    """Check the settings before any work starts."""
    settings = runs[0].settings
    for run in runs:
        if settings.groupwise is not None and not run.network.type.prior:
            raise SettingsError(
                f"[groupwise] makes a prior, but the network {run.network.kind!r} uses no prior; remove [groupwise] or "
                "choose another kind"
            )
        check_slices(run)
    check_tiles(settings.cascade, tiles)
    if settings.unlabelled is not None:
        unlabelled_scans(settings.unlabelled)
    if not settings.data.is_dir():
        raise SettingsError(f"{settings.data} is not a folder; give the folder of labelled scans with --data FOLDER")
