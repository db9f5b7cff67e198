"""The 2D networks from which a 3D network starts: whether settings allow them, their files, and who takes them over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from slant.errors import SettingsError
from slant.nets.network import NetworkSettings
from slant.nets.registry import KINDS
from slant.train.checkpoint import averaged_weights
from slant.train.context import FoldViews, PlaneWeights, RunContext
from slant.train.data import TrainingScans
from slant.train.network import NetworkSpec
from slant.train.splits import subject_folds


def check_slices(run: RunContext) -> None:
    """Check that the network of an assembly starts from 2D networks if, and only if, it has them.

    Raises
    ------
    SettingsError
        If it cannot start in the way that the settings ask for.
    """
    _check_start(run)
    _check_folds(run)
    if run.network.type.frozen and run.assembly.tile.init == "scratch":
        raise SettingsError(
            f"[{run.assembly.table('tile')}] init = 'scratch' would discard the trained 2D networks of the kind "
            f"{run.network.kind!r}; use 'whole' or 'neighbour'"
        )


def _check_start(run: RunContext) -> None:
    kind, table = run.network.kind, f"[{run.assembly.table('slices')}]"
    source = run.assembly.init_from or run.settings.init_from
    if run.assembly.slices is None:
        if run.network.type.frozen and source is None:
            raise SettingsError(
                f"the network {kind!r} needs trained 2D networks; add {table} with steps, or start from a trained "
                f"{kind!r} network with --init-from"
            )
        return
    if not run.network.settings.slicewise:
        known = [name for name, other in KINDS.items() if other.settings.slicewise is not NetworkSettings.slicewise]
        raise SettingsError(
            f"{table} trains the 2D networks from which a network starts, but the kind {kind!r} has none; remove "
            f"{table}, or choose one of the kinds {', '.join(known)}"
        )
    if source is not None:
        raise SettingsError(
            f"found {table} and init_from = {source}, expected one of them: a network starts from its 2D networks or "
            f"from other weights; remove {table} or init_from (--init-from)"
        )
    later = [other for other in run.settings.cascade if other.earlier == run.assembly.name and other.earlier_folds]
    if later:
        raise SettingsError(
            f"{later[0].title}earlier_folds = {later[0].earlier_folds} needs networks that have not seen a scan, but "
            f"those of {run.assembly.name!r} start from 2D networks that have; set earlier_folds = 0 or remove {table}"
        )


def _check_folds(run: RunContext) -> None:
    slices = run.assembly.slices
    if slices is None or not slices.folds:
        return
    folds = f"[{run.assembly.table('slices')}] folds = {slices.folds}"
    if not run.network.type.frozen:
        raise SettingsError(
            f"{folds} is for networks that keep their 2D networks, but the kind {run.network.kind!r} trains theirs "
            "further, on all scans; set folds = 0"
        )
    if run.settings.augment.mixup_alpha:
        raise SettingsError(
            f"{folds} needs steps on one scan, but [augment] mixup_alpha = {run.settings.augment.mixup_alpha:g} mixes "
            "two; set one of both to 0"
        )
    if run.settings.unlabelled is not None:
        raise SettingsError(
            f"{folds} is not possible in a second round, whose networks start from those of the first; set folds = 0 "
            "or remove unlabelled (--unlabelled)"
        )


def slicewise_run(run: RunContext, plane: str) -> RunContext:
    """The context in which the 2D network of a plane is trained."""
    return replace(run, network=NetworkSpec("slicewise", run.network.settings.slicewise[plane]))


def slices_checkpoint(run: RunContext, plane: str, fold: int | None = None) -> Path:
    """File of the checkpoint of the 2D network of a plane, trained without a fold of the subjects or on all of them."""
    stage = f"slices-{plane}"
    if fold is None or run.assembly.slices is None:
        return run.checkpoint(stage)
    return run.out_of_fold(run.assembly.slices.folds, fold, stage)


def weights_of_slices(run: RunContext, fold: int | None = None) -> PlaneWeights:
    """The averaged weights of the trained 2D networks by plane; they have not seen the fold, if one is given.

    Raises
    ------
    ModelError
        If one is not trained up to its last step.
    """
    steps = 0 if run.assembly.slices is None else run.assembly.slices.steps
    return {
        plane: averaged_weights(slices_checkpoint(run, plane, fold), steps) for plane in run.network.settings.slicewise
    }


def initial_weights_from_slices(run: RunContext) -> dict[str, Tensor]:
    """The weights of a network that has taken over its trained 2D networks; the others are random."""
    torch.manual_seed((run.assembly.pretrain or run.assembly.whole).seed)
    network = run.network.build()
    network.take_over(weights_of_slices(run))
    return network.state_dict()


def folds_of_slices(run: RunContext, scans: TrainingScans) -> list[list[str]]:
    """The names of the manual scans of each fold of the stage ``slices``; empty without folds.

    Raises
    ------
    SettingsError
        If there are fewer subjects than folds.
    """
    slices = run.assembly.slices
    if slices is None or not slices.folds:
        return []
    names = [scan.name for scan in scans.manual]
    return subject_folds(run.settings, names, slices.folds, f"[{run.assembly.table('slices')}] folds")


def fold_views(run: RunContext, scans: TrainingScans) -> FoldViews | None:
    """The 2D networks that the steps of a stage use; None if these are the same for all scans.

    Raises
    ------
    ModelError
        If one is not trained up to its last step.
    """
    folds = folds_of_slices(run, scans) if run.network.type.frozen else []
    if not folds:
        return None
    unseen: dict[str, PlaneWeights] = {}
    for fold, names in enumerate(folds):
        unseen |= dict.fromkeys(names, weights_of_slices(run, fold))
    return FoldViews(weights_of_slices(run), unseen)
