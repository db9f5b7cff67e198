"""How networks should be given the deformable atlas prior, and whether MixUp helps: variants trained alike on fold 0.

    python experiments/deformable_prior.py CONFIG DATA WORK OUT [--variants affine logits coordinates ...] [--seed 0]

CONFIG is a training configuration with [groupwise], whose scans have been prepared in WORK (`slant train CONFIG --data
DATA --work WORK --fold 0 --stages prepare --stages groupwise`). Every variant trains the small residual network from
random weights on patches of the size of a tile, with the same seed and augmentation, on one thread; then the vote of
all tiles is compared with the manual labels of the scans held out, in template space. A row is appended to OUT for
each: variant, seed, steps, Dice of each scan and mean, minutes of processor time of the training.

Variants
--------
affine       affine prior added to the logits, MNI305 coordinates as inputs
logits       deformable prior added to the logits, MNI305 coordinates
coordinates  the same with the coordinates of the groupwise template
inputs       no prior in the logits; mean image and shares of tissue classes and lobes as more inputs at 2 mm
both         as coordinates, with these inputs too
mixup        as coordinates, with MixUp of the inputs (Zhang et al. 2018; beta distribution of 0.4)
hidden       as coordinates, with MixUp of image and features at 2 mm (Verma et al. 2019)
flip         as coordinates, left and right exchanged in half of the steps
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from slant.config import build, read_toml
from slant.fusion import VoteCounter
from slant.io.resources import load_protocol
from slant.nets import registry
from slant.nets.groupwise import SPACING, displacement_at
from slant.nets.predict import Predictor, tile_votes
from slant.nets.unet import ResidualUNet, place_channels
from slant.train import atlas, loop, stages, step
from slant.train.boxes import EDGE, gather
from slant.train.checkpoint import new_state
from slant.train.prepare import TrainingScans, load_training
from slant.train.settings import NetworkChoice, StageSettings, TrainSettings
from slant.train.step import Field, task_classes
from slant.train.validate import deformed_prior, mean_dice_of

VARIANTS = ("affine", "logits", "coordinates", "inputs", "both", "mixup", "hidden", "flip")
SMALL = NetworkChoice("residual", (24, 32, 48, 64), detail=8, mixed=24, coarse=16)
CPU = torch.device("cpu")


class Extras:
    """What is known at each cell of the groupwise template beside coordinates, without a scan's own labels."""

    def __init__(self, scans: TrainingScans) -> None:
        groupwise = scans.groupwise
        classes = task_classes(load_protocol("braincolor"), ("tissue", "lobe"))
        self.maps = {}
        for name, own in groupwise.own.items():
            votes = groupwise.votes.float().reshape(-1, groupwise.votes.shape[-1])
            for voxel in [voxel for labels in own for voxel in labels.reshape(-1, SPACING**3).T]:
                votes.scatter_add_(1, voxel.long()[:, None], -torch.ones(len(votes), 1))
            share = (votes / votes.sum(dim=1, keepdim=True).clamp(min=1)).reshape(groupwise.votes.shape)
            parts = [torch.from_numpy(np.array(groupwise.mean.data))[..., None]]
            parts += [
                share.new_zeros(*share.shape[:3], int(of.max()) + 1).index_add_(3, of, share) for of in classes.values()
            ]
            self.maps[name] = torch.cat(parts, dim=3).permute(3, 0, 1, 2).contiguous()
        self.count = len(self.maps[name])

    def at(self, name: str, places: Tensor) -> Tensor:
        """(1, K, X, Y, Z) values at (X, Y, Z, 3) template voxels."""
        sizes = torch.tensor(self.maps[name].shape[1:], dtype=torch.float32)
        unit = (((places - 0.5) / SPACING) * (2 / (sizes - 1)) - 1).flip(-1)[None]
        return functional.grid_sample(self.maps[name][None], unit, padding_mode="border", align_corners=True)


class WiderInput(ResidualUNet):
    """The residual network with more input channels at 2 mm."""

    extra = 0

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.encoders[0] = self.encoder(8 + 3 + self.extra, settings.widths[0])


@dataclass(frozen=True)
class Variant:
    """One way to give networks the prior.

    Attributes
    ----------
    name : str
        Of `VARIANTS`.
    extras : Extras, optional
    """

    name: str
    extras: Extras | None = None

    def atlas(self) -> type[atlas.Atlas]:
        """The prior of a training step."""
        variant = self

        class Changed(atlas.Atlas):
            def of_step(self, scan: Any, places: Tensor, seen: Field, *how: Any) -> atlas.StepPrior:
                found = super().of_step(scan, places, seen, *how)
                if variant.name == "logits":
                    found = replace(found, place=place_channels(seen.template_shape, seen.start, seen.shape))
                if variant.extras is None:
                    return found
                x, y, z, _ = places.shape
                cells = found.cells
                if cells is None:
                    cells = places.reshape(x // 2, 2, y // 2, 2, z // 2, 2, 3).mean(dim=(1, 3, 5))
                return replace(found, place=torch.cat([found.place, variant.extras.at(scan.name, cells)], dim=1))

            def logits(self, *of: Any) -> Tensor:
                return torch.zeros(()) if variant.name == "inputs" else super().logits(*of)

        return Changed

    def place(self, name: str, displacement: np.ndarray) -> Any:
        """What makes the input channels at 2 mm of a box of a scan that is labelled."""
        moved = torch.from_numpy(displacement)

        def channels(shape: Any, start: Any, size: Any, _: Any = None) -> Tensor:
            plain = place_channels(shape, start, size)
            base = plain if self.name in ("affine", "logits") else place_channels(shape, start, size, moved)
            if self.extras is None:
                return base
            cells = (plain[0].permute(1, 2, 3, 0) + 1) / 2 * (torch.tensor(shape) - 1)
            return torch.cat([base, self.extras.at(name, cells + displacement_at(moved, cells))], dim=1)

        return channels


def hidden_loss(net: Any, scans: Any, source: Any, how: Any) -> Tensor:
    """`step_loss` of two scans whose features at 2 mm are mixed rather than what they are computed from."""
    pairs: list[tuple[Tensor, Tensor, float]] = []
    lerp = torch.lerp

    def noted(a: Tensor, b: Tensor, share: float) -> Tensor:
        pairs.append((a, b, share))
        return lerp(a, b, share)

    def mixed(net: Any, image: Tensor, _: Tensor, starts: Tensor) -> Tensor:
        (a, b, share), (place_a, place_b, _) = pairs
        m, edge = net.reach, EDGE
        features = lerp(net.trunk(a[None, None], place_a), net.trunk(b[None, None], place_b), share)
        near = gather(features, (starts - m) // net.stride, (edge + 2 * m) // net.stride)
        out = net.tail(near, gather(image, starts - m, edge + 2 * m))[:, :, m : m + edge, m : m + edge, m : m + edge]
        return out.permute(0, 2, 3, 4, 1).reshape(-1, out.shape[1])

    with patch.object(step, "mixed_in_boxes", mixed), patch.object(torch, "lerp", noted):
        return step.step_loss(net, scans, source, how)


def dice_of(network: ResidualUNet, settings: TrainSettings, scans: TrainingScans, variant: Variant) -> list[float]:
    """Dice of the vote of all tiles on each scan held out."""
    found = []
    for scan in scans.held_out:
        prior, displacement = deformed_prior(scans, scan)
        prior = {"affine": scans.prior, "inputs": None}.get(variant.name, prior)
        votes, predictor = VoteCounter(settings.layout), Predictor(settings.layout, prior, lambda _: network)
        with patch("slant.nets.predict.place_channels", variant.place(scan.name, displacement)):
            for tile, channels in tile_votes(predictor, scan.image.numpy(), CPU, 1):
                votes.aggregate(channels, tile)
        found.append(mean_dice_of(votes.finalize().channels, scan.channels.numpy()))
    return found


def row_of(variant: Variant, settings: TrainSettings, scans: TrainingScans) -> list[object]:
    """Train one variant and judge it."""
    mixing, flip = variant.name in ("mixup", "hidden"), variant.name == "flip"
    run = replace(settings, augment=replace(settings.augment, flip=0.5 * flip, mixup=0.4 * mixing))
    if variant.extras is not None:
        WiderInput.extra = variant.extras.count
        registry.KINDS["wider"] = replace(registry.KINDS["residual"], network=WiderInput)
        run = replace(run, network=replace(SMALL, kind="wider"))
    field = Field(*stages.WHOLE, run.layout.shape, np.arange(133), stages._mirror_x())
    lesson = replace(stages._lesson(run, field, run.whole), crop=stages.cropped(run))
    state = new_state(stages.network_of(run), run.whole, None)
    start = time.process_time()
    groupwise = None if variant.name == "affine" else scans.groupwise
    loss = hidden_loss if variant.name == "hidden" else step.step_loss
    with patch.object(loop, "Atlas", variant.atlas()), patch.object(loop, "step_loss", loss):
        loop.train_stage(state, (scans.manual, []), lesson, lambda _: True, None, (groupwise, None))
    minutes = (time.process_time() - start) / 60
    dice = dice_of(state.average, run, scans, variant)
    return [
        variant.name,
        run.whole.seed,
        run.whole.steps,
        *(f"{d:.4f}" for d in [*dice, np.mean(dice)]),
        f"{minutes:.1f}",
    ]


def main() -> None:
    """Train the variants and append their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("config", "data", "work", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    values = {**read_toml(given.config), "data": given.data, "work": given.work, "fold": 0}
    whole = StageSettings(given.steps, boxes=144, average=0.98, crop=True, seed=given.seed)
    settings = replace(build(TrainSettings, values, str(given.config)), network=SMALL, whole=whole)
    scans = load_training(settings)
    for name in given.variants:
        variant = Variant(name, Extras(scans) if name in ("inputs", "both") else None)
        row = row_of(variant, settings, scans)
        with given.out.open("a", encoding="utf-8") as out:
            out.write("\t".join(map(str, row)) + "\n")


if __name__ == "__main__":
    main()
