"""What the deformable atlas prior brings, and how networks should be given it: each variant trained alike on fold 0.

    python experiments/deformable_prior.py CONFIG DATA WORK OUT [--variants affine logits coordinates ...] [--seed 0]

CONFIG is a training configuration with [groupwise]; its scans must have been prepared in WORK (`slant train CONFIG
--data DATA --work WORK --fold 0 --stages prepare --stages groupwise`). Every variant trains the small residual network
from random weights on boxes of the size of a tile, with the same seed and augmentation, on one thread; then the vote of
all tiles is compared with the manual labels of the three scans held out, in template space. A row is appended to OUT
for each: variant, seed, Dice, processor minutes.

Variants
--------
affine       affine prior added to the logits, template coordinates as inputs (as in version 0.1.0)
logits       deformable prior added to the logits, template coordinates
coordinates  the same with the coordinates of the groupwise template as inputs
inputs       no prior in the logits; mean image and shares of tissue classes and lobes as more inputs at 2 mm
both         deformable prior added to the logits, groupwise coordinates, and these inputs
mixup        coordinates, with input MixUp (beta distribution of 0.4)
hidden       coordinates, with MixUp of the features and the image
flip         coordinates, half of the steps with left and right exchanged
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from slant.config import build, read_toml
from slant.fusion import VoteCounter
from slant.io.resources import load_protocol
from slant.nets import predict, registry
from slant.nets.groupwise import SPACING, displacement_at
from slant.nets.predict import Predictor, tile_votes
from slant.nets.unet import ResidualUNet, coordinate_channels, place_channels
from slant.train import atlas, augment, loop, stages, step
from slant.train.checkpoint import new_state
from slant.train.data import LabelledScan
from slant.train.prepare import TrainingScans, load_training
from slant.train.settings import NetworkChoice, StageSettings, TrainSettings
from slant.train.step import Field, task_classes
from slant.train.validate import deformed_prior, mean_dice_of

VARIANTS = ("affine", "logits", "coordinates", "inputs", "both", "mixup", "hidden", "flip")
SMALL = NetworkChoice("residual", (24, 32, 48, 64), detail=8, mixed=24, coarse=16)


class Extras:
    """What beside coordinates is known at each cell of the groupwise template, without a scan's own labels."""

    def __init__(self, scans: TrainingScans, names: list[str]) -> None:
        groupwise = scans.groupwise
        classes = task_classes(load_protocol("braincolor"), ("tissue", "lobe"))
        self.maps = {}
        for name in names:
            votes = groupwise.votes.float()
            for own in groupwise.own[name]:
                flat = votes.reshape(-1, votes.shape[-1])
                for voxel in own.reshape(-1, SPACING**3).T:
                    flat.scatter_add_(1, voxel.long()[:, None], -torch.ones(len(flat), 1))
            total = votes.sum(dim=-1).clamp(min=1)
            parts = [torch.from_numpy(np.array(groupwise.mean.data))]
            for of in classes.values():
                summed = torch.zeros(*votes.shape[:3], int(of.max()) + 1).index_add_(3, of, votes)
                parts += list((summed / total[..., None]).unbind(-1))
            self.maps[name] = torch.stack(parts)
        self.count = len(parts)

    def at(self, name: str, cells: Tensor) -> Tensor:
        """(1, K, X, Y, Z) values at (X, Y, Z, 3) template voxels."""
        maps = self.maps[name]
        sizes = torch.tensor(maps.shape[1:], dtype=torch.float32)
        unit = (((cells - 0.5) / SPACING) * (2 / (sizes - 1)) - 1).flip(-1)[None]
        return functional.grid_sample(maps[None], unit, padding_mode="border", align_corners=True)


class WiderInput(ResidualUNet):
    """The residual network with more input channels at 2 mm."""

    extra = 0

    def __init__(self, settings: object) -> None:
        super().__init__(settings)
        self.encoders[0] = self.encoder(8 + 3 + self.extra, settings.widths[0])


def atlas_of(variant: str, extras: Extras | None) -> type[atlas.Atlas]:
    """The `Atlas` of a variant."""

    class Variant(atlas.Atlas):
        def of_step(self, scan: LabelledScan, places: Tensor, seen: Field, flip: bool, generator: torch.Generator):  # noqa: ANN202
            found = super().of_step(scan, places, seen, flip, generator)
            if variant == "logits":
                found = replace(found, place=place_channels(seen.template_shape, seen.start, seen.shape))
            if extras is not None:
                cells = found.cells
                if cells is None:
                    x, y, z, _ = places.shape
                    cells = places.reshape(x // 2, 2, y // 2, 2, z // 2, 2, 3).mean(dim=(1, 3, 5))
                found = replace(found, place=torch.cat([found.place, extras.at(scan.name, cells)], dim=1))
            return found

        def logits(self, *args: object) -> Tensor:
            return torch.zeros(()) if variant == "inputs" else super().logits(*args)

    return Variant


def hidden_loss(net, scans, source, how):  # noqa: ANN001, ANN201
    """`step_loss` of two scans whose features are mixed (Verma et al. 2019) rather than their images."""
    real, shares, images = step.mixed_in_boxes, [], []
    lerp = torch.lerp

    def noted(a: Tensor, b: Tensor, share: float) -> Tensor:
        images.append((a, b))
        shares.append(share)
        return lerp(a, b, share)

    def mixed(net, image, place, starts):  # noqa: ANN001, ANN202
        share = shares[0]
        (a, b), (place_a, place_b) = images
        m, edge = net.reach, step.boxes.EDGE
        features = lerp(net.trunk(a[None, None], place_a), net.trunk(b[None, None], place_b), share)
        near = step.boxes.gather(features, (starts - m) // net.stride, (edge + 2 * m) // net.stride)
        out = net.tail(near, step.boxes.gather(image, starts - m, edge + 2 * m))
        out = out[:, :, m : m + edge, m : m + edge, m : m + edge]
        return out.permute(0, 2, 3, 4, 1).reshape(-1, out.shape[1])

    step.mixed_in_boxes, torch.lerp = mixed, noted
    try:
        return step.step_loss(net, scans, source, how)
    finally:
        step.mixed_in_boxes, torch.lerp = real, lerp


def dice_of(network: ResidualUNet, settings: TrainSettings, scans: TrainingScans, variant: str, extras: Extras | None) -> list[float]:
    """Dice of the vote of all tiles on each scan held out."""
    found = []
    for scan in scans.held_out:
        prior, displacement = deformed_prior(scans, scan)
        coordinates = displacement
        if variant == "affine":
            prior, coordinates = scans.prior, None
        if variant == "inputs":
            prior = None
        if variant == "logits":
            coordinates = None

        def place(shape, start, size, given, name=scan.name, coordinates=coordinates, displacement=displacement):  # noqa: ANN001, ANN202, PLR0913
            base = place_channels(shape, start, size, None if coordinates is None else torch.from_numpy(coordinates))
            if extras is None:
                return base
            last = torch.tensor(shape) - 1
            cells = (place_channels(shape, start, size)[0].permute(1, 2, 3, 0) + 1) / 2 * last
            return torch.cat([base, extras.at(name, cells + displacement_at(torch.from_numpy(displacement), cells))], dim=1)

        predict.place_channels = place
        votes = VoteCounter(settings.layout)
        for tile, channels in tile_votes(Predictor(settings.layout, prior, lambda _: network), scan.image.numpy(), torch.device("cpu"), 1):
            votes.aggregate(channels, tile)
        found.append(mean_dice_of(votes.finalize().channels, scan.channels.numpy()))
    return found


def main() -> None:
    """Train the variants and append their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    values = {**read_toml(given.config), "data": given.data, "work": given.work, "fold": 0}
    settings = replace(build(TrainSettings, values, str(given.config)), network=SMALL)
    scans = load_training(settings)
    whole = StageSettings(given.steps, boxes=144, average=0.98, crop=True, seed=given.seed)
    for variant in given.variants:
        extras = Extras(scans, sorted(scans.groupwise.own)) if variant in ("inputs", "both") else None
        strength = replace(settings.augment, flip=0.5 * (variant == "flip"), mixup=0.4 * (variant in ("mixup", "hidden")))
        run = replace(settings, augment=strength, whole=whole)
        if extras is not None:
            WiderInput.extra = extras.count
            registry.KINDS["wider"] = replace(registry.KINDS["residual"], network=WiderInput)
            run = replace(run, network=replace(SMALL, kind="wider"))
        field = Field(*stages.WHOLE, run.layout.shape, np.arange(133), stages._mirror_x())  # noqa: SLF001
        lesson = replace(stages._lesson(run, field, whole), crop=stages.cropped(run))  # noqa: SLF001
        loop.Atlas = atlas_of(variant, extras)
        loop.step_loss = hidden_loss if variant == "hidden" else step.step_loss
        state = new_state(stages.network_of(run), whole, None)
        start = time.process_time()
        groupwise = None if variant == "affine" else scans.groupwise
        loop.train_stage(state, (scans.manual, []), lesson, lambda _: True, None, (groupwise, None))
        minutes = (time.process_time() - start) / 60
        dice = dice_of(state.average, run, scans, variant, extras)
        with given.out.open("a", encoding="utf-8") as out:
            row = [variant, given.seed, given.steps, *(f"{d:.4f}" for d in dice), f"{np.mean(dice):.4f}", f"{minutes:.1f}"]
            out.write("\t".join(map(str, row)) + "\n")


if __name__ == "__main__":
    augment.AugmentSettings()
    main()
