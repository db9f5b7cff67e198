"""How should networks get the deformable atlas prior, and does MixUp help? Variants trained alike on fold 0.

    python experiments/deformable_prior.py CONFIG DATA WORK OUT [--variants affine logits coordinates ...] [--seed 0]

CONFIG is a training configuration with [groupwise] whose scans have been prepared in WORK (`slant train CONFIG --data
DATA --work-dir WORK --fold 0 --stages prepare --stages groupwise`). Every variant trains the small residual network
from random weights on crops of the size of a tile, with the same seed and augmentation, on one thread. The vote of all
tiles is then compared with the manual labels of the held-out subjects, in template space. Appends one row per variant
to the table OUT: variant, seed, steps, Dice of each scan, mean Dice, minutes of processor time of the training.

Variants
--------
affine       affine prior added to the logits, MNI305 coordinates as inputs
logits       deformable prior added to the logits, MNI305 coordinates
coordinates  the same with the coordinates of the groupwise template
inputs       nothing added to the logits; mean image and fractions of tissue classes and lobes as inputs at 2 mm
both         as coordinates, with these inputs as well
mixup        as coordinates, with MixUp of the inputs (Zhang et al. 2018; beta distribution of 0.4)
hidden       as coordinates, with MixUp of image and features at 2 mm (Verma et al. 2019)
flip         as coordinates, with left and right flipped in half of the steps
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
from slant.io.resources import load_protocol
from slant.nets import registry
from slant.nets.groupwise import SPACING, displacement_at
from slant.nets.predict import Predictor, tile_votes
from slant.nets.unet import ResidualUNet, box_coordinate_channels
from slant.train import atlas, loop, step
from slant.train.checkpoint import new_state
from slant.train.context import StageContext, run_context, whole_context
from slant.train.data import TrainingScans
from slant.train.groupwise import deformed_prior
from slant.train.network import NetworkChoice, task_classes
from slant.train.patches import EDGE, gather
from slant.train.prepare import load_training
from slant.train.settings import TrainSettings
from slant.train.stage_settings import StageSettings
from slant.train.validate import mean_dice_of
from slant.vote import VoteCounter

VARIANTS = ("affine", "logits", "coordinates", "inputs", "both", "mixup", "hidden", "flip")
SMALL = NetworkChoice("residual", (24, 32, 48, 64), image_channels=8, head_channels=24, upsampled_channels=16)
CPU = torch.device("cpu")


class ExtraInputs:
    """Mean image and fractions of tissue classes and lobes in the groupwise template, without a scan's own labels."""

    def __init__(self, scans: TrainingScans) -> None:
        groupwise = scans.groupwise
        classes = task_classes(load_protocol("braincolor"), ("tissue", "lobe"))
        self.maps = {}
        for name, own in groupwise.own.items():
            votes = groupwise.votes.float().reshape(-1, groupwise.votes.shape[-1])
            for voxel in [voxel for labels in own for voxel in labels.reshape(-1, SPACING**3).T]:
                votes.scatter_add_(1, voxel.long()[:, None], -torch.ones(len(votes), 1))
            fraction = (votes / votes.sum(dim=1, keepdim=True).clamp(min=1)).reshape(groupwise.votes.shape)
            parts = [torch.from_numpy(np.array(groupwise.mean.data))[..., None]]
            parts += [
                fraction.new_zeros(*fraction.shape[:3], int(of.max()) + 1).index_add_(3, of, fraction)
                for of in classes.values()
            ]
            self.maps[name] = torch.cat(parts, dim=3).permute(3, 0, 1, 2).contiguous()
        self.count = len(self.maps[name])

    def at(self, name: str, coordinates: Tensor) -> Tensor:
        """(1, K, X, Y, Z) values at (X, Y, Z, 3) template voxels."""
        sizes = torch.tensor(self.maps[name].shape[1:], dtype=torch.float32)
        unit = (((coordinates - 0.5) / SPACING) * (2 / (sizes - 1)) - 1).flip(-1)[None]
        return functional.grid_sample(self.maps[name][None], unit, padding_mode="border", align_corners=True)


class UNetWithExtraInputs(ResidualUNet):
    """The residual network with more input channels at 2 mm."""

    extra_channels = 0

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.encoders[0] = self.encoder(8 + 3 + self.extra_channels, settings.widths[0])


@dataclass(frozen=True)
class Variant:
    """One way to give networks the prior.

    Attributes
    ----------
    name : str
        One of `VARIANTS`.
    extras : ExtraInputs, optional
    """

    name: str
    extras: ExtraInputs | None = None

    def atlas_of(self, scans: TrainingScans, device: torch.device) -> atlas.Atlas:
        """The atlas that gives the prior of a training step, in place of `slant.train.atlas.atlas_of`."""
        variant = self

        class VariantAtlas(atlas.Atlas):
            def of_step(self, scan: Any, coordinates: Tensor, context: StageContext, *random: Any) -> atlas.StepPrior:
                found, seen = super().of_step(scan, coordinates, context, *random), context.seen
                if variant.name == "logits":
                    plain = box_coordinate_channels(seen.template_shape, seen.start, seen.shape)
                    found = replace(found, coordinates=plain)
                if variant.extras is None:
                    return found
                x, y, z, _ = coordinates.shape
                cells = found.cells
                if cells is None:
                    cells = coordinates.reshape(x // 2, 2, y // 2, 2, z // 2, 2, 3).mean(dim=(1, 3, 5))
                extra = variant.extras.at(scan.name, cells)
                return replace(found, coordinates=torch.cat([found.coordinates, extra], dim=1))

            def logits(self, *arguments: Any) -> Tensor:
                return torch.zeros(()) if variant.name == "inputs" else super().logits(*arguments)

        return VariantAtlas(**vars(atlas.atlas_of(scans, device)))

    def input_channels(self, name: str, displacement: np.ndarray) -> Any:
        """Function in place of `box_coordinate_channels` when a scan is labelled: all input channels at 2 mm."""
        field = torch.from_numpy(displacement)

        def channels(shape: Any, start: Any, size: Any, *_: Any) -> Tensor:
            plain = box_coordinate_channels(shape, start, size)
            base = plain if self.name in ("affine", "logits") else box_coordinate_channels(shape, start, size, field)
            if self.extras is None:
                return base
            cells = (plain[0].permute(1, 2, 3, 0) + 1) / 2 * (torch.tensor(shape) - 1)
            return torch.cat([base, self.extras.at(name, cells + displacement_at(field, cells))], dim=1)

        return channels


def hidden_loss(net: Any, scans: Any, *arguments: Any) -> Tensor:
    """`step_loss` of two scans with their features at 2 mm mixed instead of their inputs."""
    pairs: list[tuple[Tensor, Tensor, float]] = []
    lerp = torch.lerp

    def recorded(a: Tensor, b: Tensor, weight: float) -> Tensor:
        pairs.append((a, b, weight))
        return lerp(a, b, weight)

    def mixed(net: Any, image: Tensor, _: Tensor, starts: Tensor, *__: Any) -> Tensor:
        (a, b, weight), (coordinates_a, coordinates_b, _) = pairs
        m, edge = net.halo, EDGE
        features_a, features_b = net.backbone(a[None, None], coordinates_a), net.backbone(b[None, None], coordinates_b)
        near = gather(lerp(features_a, features_b, weight), (starts - m) // net.stride, (edge + 2 * m) // net.stride)
        out = net.decoder_head(near, gather(image, starts - m, edge + 2 * m))
        out = out[:, :, m : m + edge, m : m + edge, m : m + edge]
        return out.permute(0, 2, 3, 4, 1).reshape(-1, out.shape[1])

    with patch.object(step, "head_features_in_patches", mixed), patch.object(torch, "lerp", recorded):
        return step.step_loss(net, scans, *arguments)


def dice_of(network: ResidualUNet, settings: TrainSettings, scans: TrainingScans, variant: Variant) -> list[float]:
    """Dice of the vote of all tiles on each held-out scan."""
    found = []
    for scan in scans.held_out:
        displacement = scans.groupwise.displacements[scan.name].numpy()
        prior = {"affine": scans.prior, "inputs": None}.get(variant.name, deformed_prior(scans.groupwise, scan))
        layout = settings.cascade[0].layout
        votes, predictor = VoteCounter(layout), Predictor(layout, prior, lambda _: network)
        with patch("slant.nets.predict.box_coordinate_channels", variant.input_channels(scan.name, displacement)):
            for tile, channels in tile_votes(predictor, scan.image.numpy(), CPU, 1):
                votes.aggregate(channels, tile)
        found.append(mean_dice_of(votes.finalize().winners, scan.channels.numpy()))
    return found


def row_of(variant: Variant, settings: TrainSettings, scans: TrainingScans) -> list[object]:
    """Train one variant and evaluate it; its row of the table."""
    mixing, flip = variant.name in ("mixup", "hidden"), variant.name == "flip"
    augment = replace(settings.augment, flip_probability=0.5 * flip, mixup_alpha=0.4 * mixing)
    settings = replace(settings, augment=augment)
    if variant.extras is not None:
        UNetWithExtraInputs.extra_channels = variant.extras.count
        registry.KINDS["residual-with-extra-inputs"] = replace(registry.KINDS["residual"], network=UNetWithExtraInputs)
        settings = replace(settings, network=replace(SMALL, kind="residual-with-extra-inputs"))
    run, whole = run_context(settings), settings.whole
    used = replace(scans, auxiliary=[], external_prior=None)
    if variant.name == "affine":
        used = replace(used, groupwise=None)
    context, state = whole_context(run, used, whole), new_state(run.network, whole, None)
    start = time.process_time()
    loss = hidden_loss if variant.name == "hidden" else step.step_loss
    with patch.object(loop, "atlas_of", variant.atlas_of), patch.object(loop, "step_loss", loss):
        loop.train_stage(state, context, lambda _: True)
    minutes = (time.process_time() - start) / 60
    dice = dice_of(state.average, settings, scans, variant)
    return [
        variant.name,
        whole.seed,
        whole.steps,
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
    options = parser.parse_args()
    torch.set_num_threads(1)
    values = {**read_toml(options.config), "data": options.data, "work_dir": options.work, "fold": 0}
    whole = StageSettings(options.steps, patches=144, ema_decay=0.98, crop=True, seed=options.seed)
    settings = replace(build(TrainSettings, values, str(options.config)), network=SMALL, whole=whole, mirror=None)
    scans = load_training(run_context(settings))
    for name in options.variants:
        variant = Variant(name, ExtraInputs(scans) if name in ("inputs", "both") else None)
        row = row_of(variant, settings, scans)
        with options.out.open("a", encoding="utf-8") as out:
            out.write("\t".join(map(str, row)) + "\n")


if __name__ == "__main__":
    main()
