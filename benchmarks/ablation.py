"""What each part of the recipe brings, at the same number of steps: one network on boxes of the size of a tile, fold 0.

    python benchmarks/ablation.py DATA AUX WORK [--rows recipe "no prior" ...] [--steps 300] [--seeds 0]

DATA holds NAME_T1w.nii.gz with NAME_dseg.nii.gz, AUX scans labelled by machine, WORK the prepared scans and what
comes out; run again to continue. Every row trains the small network of narrow.toml from random weights, with its
augmentation and learning rate but fewer boxes a step and manual labels only, changed by what the row's name says; the
last rows start from the network of `recipe`. Mean Dice on the people held out, in template space, by eight tiles, or as
many as the name says: of their scans as they are, and with disturbances of disturbances.py at middle strength, by the
means of three groups; ``ablation/dice.tsv`` in WORK has each.
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
from disturbances import DISTURBANCES
from joblib import Parallel, delayed

from slant.config import build, read_toml
from slant.fusion import VoteCounter
from slant.grid import Shape
from slant.io.read import read_labels, read_scan
from slant.io.resources import load_protocol, resource
from slant.nets.network import Network
from slant.nets.predict import Predictor, tile_votes
from slant.nets.prior import Prior
from slant.nets.registry import KINDS, Kind, build_network
from slant.nets.unet import ResidualUNet, UNetSettings
from slant.tiles import Overlap, TileLayout
from slant.train.checkpoint import averaged_weights
from slant.train.data import LabelledScan, labelled_names
from slant.train.people import split
from slant.train.prepare import load_training, prepare_scans
from slant.train.settings import PretrainSettings, TileSettings, TrainSettings
from slant.train.stages import network_of, train_tiles, train_whole
from slant.train.validate import mean_dice_of
from slant.volume import LabelMap


class Unprimed(ResidualUNet):
    """The network without the prior added to its logits."""

    prior = False


Change = Callable[[TrainSettings], TrainSettings]
FEWER = "six of the twelve people"
RELABELLED = "the same, labelled by trained networks (relabel.py)"
CARRIED_ON = "as many steps more in one network"
ALL_POSSIBLE = "27 tiles, all regions possible in each"
MORE_STEPS = 216
SPATIAL = ("rotate_deg", "scale", "shift_mm", "elastic_mm")
AGE = ("ventricles_mm", "sulci_mm", "lesions")
INTENSITY = ("gamma", "bias", "contrast")
ARTEFACTS = ("noise", "ghost", "blur_mm", "thick_mm")
CLEAN = "as they are"
GROUPS = {
    CLEAN: (CLEAN,),
    "scanner": ("low contrast", "thick slices"),
    "mask": ("tight mask", "loose mask"),
    "age": ("wide ventricles",),
}
MIDDLE = 1
Scores = dict[str, float]
"""Mean Dice of the people held out, by disturbance."""


def augmented(factor: float, *names: str) -> Change:
    """Those augmentations times a factor."""

    def change(settings: TrainSettings) -> TrainSettings:
        given = {name: factor * getattr(settings.augment, name) for name in names}
        return replace(settings, augment=replace(settings.augment, **given))

    return change


def pretrained(settings: TrainSettings) -> TrainSettings:
    """Half of the steps on auxiliary scans, the other half mostly on manual ones."""
    half = settings.whole.steps // 2
    first = PretrainSettings(half, settings.whole.learning_rate, 0.0, crop=True, boxes=settings.whole.boxes)
    return replace(settings, pretrain=first, whole=replace(settings.whole, steps=half))


def mixed(settings: TrainSettings) -> TrainSettings:
    """A quarter of the steps on auxiliary scans."""
    return replace(settings, whole=replace(settings.whole, auxiliary=0.25))


def tiled(counts: Shape, overlap: Overlap) -> Change:
    """A network for each tile."""

    def change(settings: TrainSettings) -> TrainSettings:
        layout = replace(settings.layout, counts=counts, overlap=overlap, margin=6 if overlap == "vote" else 0)
        return replace(settings, layout=layout)

    return change


WHOLE: dict[str, Change] = {
    "recipe": lambda settings: settings,
    "half of the steps on auxiliary labels first": pretrained,
    "a quarter of the steps on auxiliary labels": mixed,
    RELABELLED: mixed,
    FEWER: lambda settings: settings,
    "no prior": lambda s: replace(s, network=replace(s.network, kind="unprimed")),
    "no augmentation": augmented(0, *SPATIAL, *AGE, *INTENSITY, *ARTEFACTS, "rough_mask"),
    "no turning, stretching, bending": augmented(0, *SPATIAL),
    "turning, stretching, bending twice as strong": augmented(2, *SPATIAL),
    "no ventricles, sulci, lesions": augmented(0, *AGE),
    "no gamma, bias, contrast": augmented(0, *INTENSITY),
    "gamma, bias, contrast twice as strong": augmented(2, *INTENSITY),
    "no noise, ghosts, blur, thick slices": augmented(0, *ARTEFACTS),
    "no rough masks": augmented(0, "rough_mask"),
    "left and right exchanged in half of the steps": lambda s: replace(s, augment=replace(s.augment, flip=0.5)),
}
TILES: dict[str, Change] = {
    "8 tiles, each in its own part": tiled((2, 2, 2), "trim"),
    "27 tiles, majority vote": tiled((3, 3, 3), "vote"),
    ALL_POSSIBLE: tiled((3, 3, 3), "vote"),
}


def arguments() -> argparse.Namespace:
    """Which rows, how long, and where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("auxiliary", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--relabelled", type=Path, help="what relabel.py made of AUX; only for its row")
    rows = [*WHOLE, CARRIED_ON, *TILES]
    parser.add_argument("--rows", nargs="+", choices=rows, help="by default all that the folders given allow")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    if RELABELLED in (given.rows or ()) and given.relabelled is None:
        parser.error(f"the row {RELABELLED!r} wants --relabelled, what relabel.py made of {given.auxiliary}")
    given.rows = given.rows or [row for row in rows if row != RELABELLED or given.relabelled]
    return given


def fewer_people(given: argparse.Namespace) -> tuple[Path, Path]:
    """A folder of the people held out and every second other one, and a table that keeps the former held out."""
    path = resource("configs", "train", "narrow.toml")
    whole = build(TrainSettings, {**read_toml(path), "data": given.data, "auxiliary": given.auxiliary, "fold": 0}, "")
    trained, held_out = split(whole, labelled_names(given.data))
    folder = given.work / "ablation" / "fewer-people"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*trained[::2], *held_out):
        for ending in ("_T1w.nii.gz", "_dseg.nii.gz"):
            if not (folder / f"{name}{ending}").is_symlink():
                (folder / f"{name}{ending}").symlink_to((given.data / f"{name}{ending}").resolve())
    table = folder / "scans.tsv"
    table.write_text("name\tfold\n" + "".join(f"{name}\t0\n" for name in held_out), "utf-8")
    return folder, table


def recipe(given: argparse.Namespace, row: str, seed: int) -> TrainSettings:
    """That of narrow.toml with boxes of the size of a tile and manual labels only, in a folder of the row's own."""
    path = resource("configs", "train", "narrow.toml")
    values = {**read_toml(path), "data": given.data, "fold": 0}
    if WHOLE.get(row) in (pretrained, mixed):
        values["auxiliary"] = given.relabelled if row == RELABELLED else given.auxiliary
    if row == FEWER:
        values["data"], values["scans"] = fewer_people(given)
    whole = {"steps": given.steps, "crop": True, "boxes": 144, "auxiliary": 0.0, "validate": 0, "average": 0.98}
    values["whole"] = {**values["whole"], **whole, "seed": seed}
    values["tile"] = {**values["tile"], "auxiliary": 0.0}
    work = given.work / "ablation" / f"{'-'.join(row.replace(',', '').split())}-{given.steps}-{seed}"
    settings = build(TrainSettings, {**values, "work": work}, str(path))
    for shared, own in (
        (given.work / "prepared", work / "prepared"),
        (given.work / f"labels-{values.get('auxiliary', Path()).name}", settings.run / "auxiliary"),
    ):
        shared.mkdir(parents=True, exist_ok=True)
        own.parent.mkdir(parents=True, exist_ok=True)
        if not own.is_symlink():
            own.symlink_to(shared.resolve(), target_is_directory=True)
    return settings


def spoil(given: argparse.Namespace, name: str, disturbance: str, folder: Path) -> None:
    """Write a scan of a person held out with a disturbance, and its labels."""
    target = folder / f"{name}-{disturbance.replace(' ', '-')}_dseg.nii.gz"
    if target.exists():
        return
    read = read_scan(given.data / f"{name}_T1w.nii.gz")
    truth = read_labels(given.data / f"{name}_dseg.nii.gz", read)
    known = np.where(np.isin(truth.data, load_protocol().ids), truth.data, 0).astype(np.uint8)
    change, strengths, _ = DISTURBANCES[disturbance]
    random = np.random.default_rng(crc32(f"{name} {disturbance}".encode()))
    scan, labels = change(read.volume, LabelMap(known, truth.grid), strengths[MIDDLE], random)
    matrix = scan.grid.ras_from_voxel
    nib.Nifti1Image(scan.data, matrix).to_filename(str(target).replace("_dseg", "_T1w"))
    nib.Nifti1Image(labels.data, matrix).to_filename(target)


def spoilt(given: argparse.Namespace, settings: TrainSettings) -> dict[str, list[LabelledScan]]:
    """The scans of the people held out, prepared, with each disturbance."""
    folder = given.work / "spoilt"
    folder.mkdir(parents=True, exist_ok=True)
    _, held_out = split(settings, labelled_names(settings.data))
    wanted = [(name, d) for group in GROUPS.values() for d in group if d != CLEAN for name in held_out]
    Parallel(n_jobs=-1)(delayed(spoil)(given, *job, folder) for job in wanted)
    whole = replace(settings.whole, auxiliary=0.0)
    own = replace(settings, data=folder, work=folder, fold=None, auxiliary=None, scans=None, pretrain=None, whole=whole)
    prepare_scans(own)
    found: dict[str, list[LabelledScan]] = {disturbance: [] for _, disturbance in wanted}
    for scan in load_training(own).manual:
        found[scan.name.split("-", 1)[1].replace("-", " ")].append(scan)
    return found


def dice(
    given: argparse.Namespace, settings: TrainSettings, layout: TileLayout, network: Callable[[str], Network]
) -> Scores:
    """Mean over the people held out, of the vote of a layout's tiles."""
    scans = load_training(settings)
    prior: Prior | None = scans.prior if network(layout.tiles[0].name).prior else None
    found = {}
    for disturbance, several in {CLEAN: scans.held_out, **spoilt(given, settings)}.items():
        scores = []
        for scan in several:
            votes = VoteCounter(layout)
            predictor, threads = Predictor(layout, prior, network), torch.get_num_threads()
            for tile, channels in tile_votes(predictor, scan.image.numpy(), torch.device("cpu"), threads):
                votes.aggregate(channels, tile)
            scores.append(mean_dice_of(votes.finalize().channels, scan.channels.numpy()))
        found[disturbance] = float(np.mean(scores))
    return found


def loaded(settings: TrainSettings, path: Path) -> Network:
    """The network of a checkpoint, with averaged weights."""
    network = build_network(*network_of(settings)).requires_grad_(False)
    network.load_state_dict(averaged_weights(path))
    return network


def of_whole(given: argparse.Namespace, settings: TrainSettings) -> Scores:
    """Train one network and judge it in eight tiles."""
    prepare_scans(settings)
    if settings.pretrain is not None:
        train_whole(settings, "pretrain")
    train_whole(settings)
    network = loaded(settings, settings.run / "whole.pt")
    return dice(given, settings, tiled((2, 2, 2), "trim")(settings).layout, lambda _: network)


def carried_on(given: argparse.Namespace, seed: int) -> Scores:
    """The network of `recipe`, trained on as one."""
    settings = recipe(given, CARRIED_ON, seed)
    more = replace(settings.whole, steps=MORE_STEPS, learning_rate=1e-3, decay=1.0, average=0.9)
    start = recipe(given, "recipe", seed).run / "whole.pt"
    return of_whole(given, replace(settings, whole=more, start=start))


def of_tiles(given: argparse.Namespace, row: str, seed: int) -> Scores:
    """Copies of the network of `recipe`, fine-tuned in their tiles."""
    settings = TILES[row](recipe(given, row, seed))
    prepare_scans(settings)
    steps = MORE_STEPS // len(settings.layout)
    tile = TileSettings(steps, learning_rate=1e-3, decay=1.0, boxes=144, average=0.9, seed=seed)
    settings = replace(settings, tile=tile)
    whole = settings.run / "whole.pt"
    if not whole.exists():
        whole.hardlink_to(recipe(given, "recipe", seed).run / "whole.pt")
    train_tiles(settings)
    networks = {t.name: loaded(settings, settings.run / settings.name / f"{t.name}.pt") for t in settings.layout}
    return dice(given, settings, settings.layout, networks.__getitem__)


def every_region(self: Prior, *_: object) -> object:
    """All channels, in place of those that were seen in a box."""
    return np.arange(self.steps.shape[3])


def keep(given: argparse.Namespace, row: str, seed: int, found: Scores) -> None:
    """Add a row's Dice to the table of all."""
    path = given.work / "ablation" / "dice.tsv"
    table = pd.DataFrame(
        [(row, given.steps, seed, d, round(v, 4)) for d, v in found.items()],
        columns=["row", "steps", "seed", "scans", "dice"],
    )
    table.to_csv(path, sep="\t", index=False, mode="a", header=not path.exists())


def main() -> None:
    """Print a row as soon as it is known."""
    given = arguments()
    KINDS["unprimed"] = Kind(UNetSettings, Unprimed)
    print(f"| | seed | {' | '.join(GROUPS)} |\n|---|--:|{'--:|' * len(GROUPS)}", flush=True)
    for row in given.rows:
        for seed in given.seeds:
            if row in WHOLE:
                found = of_whole(given, WHOLE[row](recipe(given, row, seed)))
            elif row == CARRIED_ON:
                found = carried_on(given, seed)
            elif row == ALL_POSSIBLE:
                with patch.object(Prior, "possible", every_region):
                    found = of_tiles(given, row, seed)
            else:
                found = of_tiles(given, row, seed)
            keep(given, row, seed, found)
            means = (np.mean([found[name] for name in group]) for group in GROUPS.values())
            print(f"| {row} | {seed} | {' | '.join(f'{m:.4f}' for m in means)} |", flush=True)


if __name__ == "__main__":
    main()
