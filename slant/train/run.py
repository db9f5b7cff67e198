"""A training run: prepare, groupwise, pretrain, whole brain, tiles, export, evaluate, each resumable on its own."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from slant.errors import SettingsError
from slant.nets.registry import KINDS
from slant.report.curves import draw_curves
from slant.train.evaluate import evaluate, mean_by_person
from slant.train.export import export
from slant.train.prepare import prepare_groupwise, prepare_scans
from slant.train.stages import network_of, train_tiles, train_whole
from slant.train.tiling import chosen
from slant.train.validate import usable_devices

if TYPE_CHECKING:
    from slant.train.settings import TrainSettings

STAGES = ("prepare", "groupwise", "pretrain", "whole", "tiles", "export", "evaluate")


def run_stages(settings: TrainSettings, stages: tuple[str, ...], tiles: tuple[str, ...], until: float | None) -> bool:
    """Do the stages asked for, all by default, in their order; True when they are done.

    Parameters
    ----------
    settings : TrainSettings
    stages : tuple of str
        Of `STAGES`.
    tiles : tuple of str
        Tiles to fine-tune; all by default.
    until : float, optional
        `time.monotonic` at which training stops, to be continued by another call.
    """
    wanted = stages or STAGES
    _check(settings, tiles)
    if "prepare" in wanted:
        prepare_scans(settings)
    if "groupwise" in wanted:
        prepare_groupwise(settings)
    try:
        for name in ("pretrain", "whole"):
            if name in wanted and not train_whole(settings, name, until):
                return False
        if "tiles" in wanted and not train_tiles(settings, tiles, until):
            return False
    finally:
        draw_curves(settings.run)
    if "export" in wanted:
        for folder in export(settings):
            sys.stdout.write(f"model  {folder}\n")
    if "evaluate" in wanted and settings.fold is not None:
        for folder in sorted(settings.run.glob("model-*")):
            means = mean_by_person(evaluate(settings, folder))
            people = ", ".join(f"{name} {dice:.4f}" for name, dice in means.items())
            sys.stdout.write(f"mean Dice of {folder.name} on people held out: {means.mean():.4f} ({people})\n")
    return True


def _check(settings: TrainSettings, tiles: tuple[str, ...]) -> None:
    """Refuse what cannot work before hours of work."""
    kind, _ = network_of(settings)
    if settings.groupwise is not None and not KINDS[kind].network.prior:
        raise SettingsError(
            f"[groupwise] makes a prior, but the network {kind!r} takes no prior; leave one of them out"
        )
    chosen(settings.layout, tiles)
    usable_devices(settings.devices)
    if not settings.data.is_dir():
        raise SettingsError(f"there is no folder {settings.data}; say where the labelled scans are: --data FOLDER")
