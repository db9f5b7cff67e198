"""What does each part of the recipe contribute? One network on crops of the size of a tile, trained alike on fold 0.

    python experiments/ablation.py DATA AUX WORK [--rows recipe "no atlas prior" ...] [--steps 300] [--seeds 0]

DATA holds NAME_T1w.nii.gz with NAME_dseg.nii.gz, AUX scans with automatic labels, WORK the prepared scans and the
results. Every row trains the small network of narrow.toml from random weights, with its augmentation and learning rate
but fewer patches per step and manual labels only, changed as the name of the row says; the last rows start from the
network of the row *recipe*. Prints the mean Dice of the held-out subjects in template space, by the vote of eight
tiles or as many as the name says: of their unchanged scans, and the means of three groups of perturbations
(perturbations.py) at medium strength. WORK/ablation/dice.tsv gets the Dice under each perturbation. Run the same
command again to continue.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch
from zlib import crc32

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from ablation_rows import (
    ALL_POSSIBLE,
    FEWER_SUBJECTS,
    FINE_TUNING_STEPS,
    MORE_STEPS,
    RELABELLED,
    TILES,
    WHOLE,
    mixed,
    pretrained,
    tiled,
)
from joblib import Parallel, delayed
from perturbations import PERTURBATIONS

from slant.config import build, read_toml
from slant.io.read import read_labels, read_scan
from slant.io.resources import load_protocol, resource
from slant.nets.network import Network
from slant.nets.predict import Predictor, tile_votes
from slant.nets.prior import Prior
from slant.nets.registry import KINDS, Kind
from slant.nets.unet import ResidualUNet, UNetSettings
from slant.tiles import TileLayout
from slant.train.checkpoint import averaged_weights
from slant.train.context import RunContext, run_context
from slant.train.data import LabelledScan, TrainingScans, labelled_names
from slant.train.prepare import load_training, prepare_scans
from slant.train.settings import TrainSettings
from slant.train.splits import split
from slant.train.stage_settings import TileSettings
from slant.train.stages import train_tiles, train_whole
from slant.train.validate import mean_dice_of
from slant.volume import LabelMap
from slant.vote import VoteCounter


class WithoutPrior(ResidualUNet):
    """The residual network without the prior added to its logits."""

    prior = False


UNCHANGED = "unchanged"
GROUPS = {
    UNCHANGED: (UNCHANGED,),
    "scanner": ("low contrast", "thick slices"),
    "mask": ("tight mask", "loose mask"),
    "atrophy": ("wide ventricles",),
}
MEDIUM = 1
"""Index of the medium strength of a perturbation."""

Scores = dict[str, float]
"""Mean Dice of the held-out subjects, by perturbation."""


def arguments() -> argparse.Namespace:
    """Folders, rows and length of the training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("auxiliary", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--relabelled", type=Path, help="what relabel.py made of AUX, for its row")
    rows = [*WHOLE, MORE_STEPS, *TILES]
    parser.add_argument("--rows", nargs="+", choices=rows, help="default: all that the folders allow")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    if RELABELLED in (options.rows or ()) and options.relabelled is None:
        parser.error(f"the row {RELABELLED!r} needs --relabelled, the folder that relabel.py made of AUX")
    options.rows = options.rows or [row for row in rows if row != RELABELLED or options.relabelled]
    return options


def fewer_subjects(options: argparse.Namespace) -> tuple[Path, Path]:
    """A folder with the held-out subjects and every second other one, and a table of the folds."""
    path = resource("configs", "train", "narrow.toml")
    values = {**read_toml(path), "data": options.data, "auxiliary_dir": options.auxiliary, "fold": 0}
    trained, held_out = split(build(TrainSettings, values, str(path)), labelled_names(options.data))
    folder = options.work / "ablation" / "fewer-subjects"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*trained[::2], *held_out):
        for ending in ("_T1w.nii.gz", "_dseg.nii.gz"):
            if not (folder / f"{name}{ending}").is_symlink():
                (folder / f"{name}{ending}").symlink_to((options.data / f"{name}{ending}").resolve())
    table = folder / "scans.tsv"
    table.write_text("name\tfold\n" + "".join(f"{name}\t0\n" for name in held_out), "utf-8")
    return folder, table


def recipe(options: argparse.Namespace, row: str, seed: int) -> TrainSettings:
    """Settings of narrow.toml with crops of the size of a tile and manual labels only, in the folder of the row."""
    path = resource("configs", "train", "narrow.toml")
    values = {**read_toml(path), "data": options.data, "fold": 0}
    if WHOLE.get(row) in (pretrained, mixed):
        values["auxiliary_dir"] = options.relabelled if row == RELABELLED else options.auxiliary
    if row == FEWER_SUBJECTS:
        values["data"], values["scans"] = fewer_subjects(options)
    whole = {
        "steps": options.steps,
        "crop": True,
        "patches": 144,
        "auxiliary_probability": 0.0,
        "validate_every": 0,
        "ema_decay": 0.98,
    }
    values["whole"] = {**values["whole"], **whole, "seed": seed}
    values["tile"] = {**values["tile"], "auxiliary_probability": 0.0}
    work = options.work / "ablation" / f"{'-'.join(row.replace(',', '').split())}-{options.steps}-{seed}"
    settings = build(TrainSettings, {**values, "work_dir": work}, str(path))
    for shared, own in (
        (options.work / "prepared", work / "prepared"),
        (options.work / f"labels-{values.get('auxiliary_dir', Path()).name}", settings.run / "auxiliary"),
    ):
        shared.mkdir(parents=True, exist_ok=True)
        own.parent.mkdir(parents=True, exist_ok=True)
        if not own.is_symlink():
            own.symlink_to(shared.resolve(), target_is_directory=True)
    return settings


def perturb(options: argparse.Namespace, name: str, perturbation: str, folder: Path) -> None:
    """Write a perturbed scan of a held-out subject, and its labels."""
    target = folder / f"{name}-{perturbation.replace(' ', '-')}_dseg.nii.gz"
    if target.exists():
        return
    read = read_scan(options.data / f"{name}_T1w.nii.gz")
    manual = read_labels(options.data / f"{name}_dseg.nii.gz", read)
    known = np.where(np.isin(manual.data, load_protocol().ids), manual.data, 0).astype(np.uint8)
    chosen = PERTURBATIONS[perturbation]
    random = np.random.default_rng(crc32(f"{name} {chosen.seed_name}".encode()))
    scan, labels = chosen.apply(read.volume, LabelMap(known, manual.grid), chosen.strengths[MEDIUM], random)
    matrix = scan.grid.ras_from_voxel
    nib.Nifti1Image(scan.data, matrix).to_filename(str(target).replace("_dseg", "_T1w"))
    nib.Nifti1Image(labels.data, matrix).to_filename(target)


def perturbed_scans(options: argparse.Namespace, settings: TrainSettings) -> dict[str, list[LabelledScan]]:
    """The prepared scans of the held-out subjects, by perturbation."""
    folder = options.work / "perturbed"
    folder.mkdir(parents=True, exist_ok=True)
    _, held_out = split(settings, labelled_names(settings.data))
    jobs = [(name, p) for group in GROUPS.values() for p in group if p != UNCHANGED for name in held_out]
    Parallel(n_jobs=-1)(delayed(perturb)(options, *job, folder) for job in jobs)
    whole = replace(settings.whole, auxiliary_probability=0.0)
    own = replace(
        settings, data=folder, work_dir=folder, fold=None, auxiliary_dir=None, scans=None, pretrain=None, whole=whole
    )
    run = run_context(own)
    prepare_scans(run)
    found: dict[str, list[LabelledScan]] = {perturbation: [] for _, perturbation in jobs}
    for scan in load_training(run).manual:
        found[scan.name.split("-", 1)[1].replace("-", " ")].append(scan)
    return found


def dice(
    options: argparse.Namespace,
    settings: TrainSettings,
    scans: TrainingScans,
    layout: TileLayout,
    network: Callable[[str], Network],
) -> Scores:
    """Mean Dice of the vote of all tiles of a layout over the held-out subjects."""
    prior: Prior | None = scans.prior if network(layout.tiles[0].name).prior else None
    found = {}
    for perturbation, several in {UNCHANGED: scans.held_out, **perturbed_scans(options, settings)}.items():
        scores = []
        for scan in several:
            votes = VoteCounter(layout)
            predictor, threads = Predictor(layout, prior, network), torch.get_num_threads()
            for tile, channels in tile_votes(predictor, scan.image.numpy(), torch.device("cpu"), threads):
                votes.aggregate(channels, tile)
            scores.append(mean_dice_of(votes.finalize().winners, scan.channels.numpy()))
        found[perturbation] = float(np.mean(scores))
    return found


def trained_network(run: RunContext, path: Path) -> Network:
    """The network of a checkpoint, with averaged weights."""
    network = run.network.build().requires_grad_(False)
    network.load_state_dict(averaged_weights(path))
    return network


def whole_row(options: argparse.Namespace, settings: TrainSettings) -> Scores:
    """Train one network and evaluate it in eight tiles."""
    run = run_context(settings)
    prepare_scans(run)
    scans = load_training(run)
    for name in ("pretrain", "whole"):
        train_whole(run, scans, name)
    network = trained_network(run, run.checkpoint("whole"))
    return dice(options, settings, scans, tiled((2, 2, 2), "core")(settings).layout, lambda _: network)


def more_steps(options: argparse.Namespace, seed: int) -> Scores:
    """Continue to train the network of the row *recipe*."""
    settings = recipe(options, MORE_STEPS, seed)
    more = replace(settings.whole, steps=FINE_TUNING_STEPS, learning_rate=1e-3, lr_decay_fraction=1.0, ema_decay=0.9)
    start = recipe(options, "recipe", seed).run / "whole.pt"
    return whole_row(options, replace(settings, whole=more, init_from=start))


def tiles_row(options: argparse.Namespace, row: str, seed: int) -> Scores:
    """Fine-tune copies of the network of the row *recipe* in their tiles."""
    settings = TILES[row](recipe(options, row, seed))
    prepare_scans(run_context(settings))
    steps = FINE_TUNING_STEPS // len(settings.layout)
    tile = TileSettings(steps, learning_rate=1e-3, lr_decay_fraction=1.0, patches=144, ema_decay=0.9, seed=seed)
    settings = replace(settings, tile=tile)
    whole = settings.run / "whole.pt"
    if not whole.exists():
        whole.hardlink_to(recipe(options, "recipe", seed).run / "whole.pt")
    run = run_context(settings)
    scans = load_training(run)
    train_tiles(run, scans)
    networks = {t.name: trained_network(run, run.tile_checkpoint(t.name)) for t in run.assembly.layout}
    return dice(options, settings, scans, run.assembly.layout, networks.__getitem__)


def every_region(self: Prior, *_: object) -> object:
    """All channels, instead of those that occur in a box."""
    return np.arange(self.steps.shape[3])


def save(options: argparse.Namespace, row: str, seed: int, found: Scores) -> None:
    """Append the Dice of a row to dice.tsv."""
    path = options.work / "ablation" / "dice.tsv"
    table = pd.DataFrame(
        [(row, options.steps, seed, scans, round(value, 4)) for scans, value in found.items()],
        columns=["row", "steps", "seed", "scans", "dice"],
    )
    table.to_csv(path, sep="\t", index=False, mode="a", header=not path.exists())


def main() -> None:
    """Print each row as soon as it is known."""
    options = arguments()
    KINDS["residual-without-prior"] = Kind(UNetSettings, WithoutPrior)
    print(f"| | seed | {' | '.join(GROUPS)} |\n|---|--:|{'--:|' * len(GROUPS)}", flush=True)
    for row in options.rows:
        for seed in options.seeds:
            if row in WHOLE:
                found = whole_row(options, WHOLE[row](recipe(options, row, seed)))
            elif row == MORE_STEPS:
                found = more_steps(options, seed)
            elif row == ALL_POSSIBLE:
                with patch.object(Prior, "possible", every_region):
                    found = tiles_row(options, row, seed)
            else:
                found = tiles_row(options, row, seed)
            save(options, row, seed, found)
            means = (np.mean([found[name] for name in group]) for group in GROUPS.values())
            print(f"| {row} | {seed} | {' | '.join(f'{m:.4f}' for m in means)} |", flush=True)


if __name__ == "__main__":
    main()
