"""Runs the stages of a training: prepare, groupwise, pretrain, whole, tiles, export, evaluate; each can be resumed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from slant.errors import SettingsError
from slant.nets.registry import KINDS
from slant.report.curves import draw_curves
from slant.train.evaluate import evaluate, mean_by_subject
from slant.train.export import export
from slant.train.prepare import prepare_groupwise, prepare_scans
from slant.train.stages import network_of, train_tiles, train_whole
from slant.train.tile_order import select_tiles
from slant.train.validate import usable_devices

if TYPE_CHECKING:
    from slant.train.settings import TrainSettings

STAGES = ("prepare", "groupwise", "pretrain", "whole", "tiles", "export", "evaluate")


def run_stages(settings: TrainSettings, stages: tuple[str, ...], tiles: tuple[str, ...], until: float | None) -> bool:
    """Run the selected stages, all by default, in their order.

    Parameters
    ----------
    settings : TrainSettings
    stages : tuple of str
        Names from `STAGES`.
    tiles : tuple of str
        Names of the tiles to fine-tune; all by default.
    until : float, optional
        Value of `time.monotonic` at which training stops; another call resumes it.

    Returns
    -------
    bool
        Whether all selected stages are finished.
    """
    selected = stages or STAGES
    _check(settings, tiles)
    if "prepare" in selected:
        prepare_scans(settings)
    if "groupwise" in selected:
        prepare_groupwise(settings)
    try:
        for name in ("pretrain", "whole"):
            if name in selected and not train_whole(settings, name, until):
                return False
        if "tiles" in selected and not train_tiles(settings, tiles, until):
            return False
    finally:
        draw_curves(settings.run)
    if "export" in selected:
        for folder in export(settings):
            sys.stdout.write(f"model  {folder}\n")
    if "evaluate" in selected and settings.fold is not None:
        for folder in sorted(settings.run.glob("model-*")):
            means = mean_by_subject(evaluate(settings, folder))
            subjects = ", ".join(f"{name} {dice:.4f}" for name, dice in means.items())
            sys.stdout.write(f"mean Dice of {folder.name} on held-out subjects: {means.mean():.4f} ({subjects})\n")
    return True


def _check(settings: TrainSettings, tiles: tuple[str, ...]) -> None:
    """Check the settings before any work starts."""
    kind, _ = network_of(settings)
    if settings.groupwise is not None and not KINDS[kind].network.prior:
        raise SettingsError(
            f"[groupwise] makes a prior, but the network {kind!r} uses no prior; remove [groupwise] or choose another "
            "kind"
        )
    select_tiles(settings.layout, tiles)
    usable_devices(settings.devices)
    if not settings.data.is_dir():
        raise SettingsError(f"{settings.data} is not a folder; give the folder of labelled scans with --data FOLDER")
