"""Training and inference give a network the same inputs: image, prior, coordinates and earlier result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from phantom_runs import phantom_field
from phantoms import COARSE, FIRST, OUTPUTS, SECOND, STILL, cascade_settings, phantom, scans_of
from torch import Tensor
from torch.nn import functional

from slant.grid import axis_aligned_grid
from slant.nets import predict
from slant.nets.earlier import block_mean
from slant.nets.network import Network, channels_last
from slant.nets.prior import Prior
from slant.sparse_votes import KEPT, SparseVotes
from slant.tiles import Tile
from slant.train import intensity, step
from slant.train.assembly_settings import AssemblySettings
from slant.train.atlas import atlas_of
from slant.train.context import RunContext, run_context, tile_context
from slant.train.data import Groupwise, TrainingScans, build_prior
from slant.train.earlier import predictor_of
from slant.train.groupwise import blocks, count_votes
from slant.train.on_device import scan_on
from slant.train.patches import Patches, patch_coordinates
from slant.train.stage_settings import GroupwiseSettings
from slant.volume import Volume

CPU = torch.device("cpu")
CELLS = (16, 20, 18)
COARSE_SECOND = replace(SECOND, layout=COARSE, resolution_mm=2)
ASSEMBLIES = {
    "2 mm": FIRST,
    "2 mm, blocks of 2 voxels": replace(FIRST, network=replace(FIRST.network, stem=2)),
    "2 mm, earlier result": COARSE_SECOND,
    "1 mm, earlier result": SECOND,
    "1 mm, earlier result, no blocks": replace(SECOND, network=replace(SECOND.network, stem=1)),
}


@pytest.fixture(autouse=True)
def field() -> Iterator[None]:
    with phantom_field():
        yield


def random_votes() -> SparseVotes:
    rng = np.random.default_rng(0)
    channels = rng.integers(0, OUTPUTS, (*CELLS, KEPT)).astype(np.uint8)
    counts = rng.integers(1, 4, channels.shape).astype(np.uint8)
    return SparseVotes(channels, counts, counts.sum(axis=-1, dtype=np.uint8), 2)


def smooth_displacement() -> Tensor:
    points = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(points, size=CELLS, mode="trilinear", align_corners=True)[0] * 1.5


def scans_with(prior: str) -> TrainingScans:
    """A scan whose labels are not part of the prior."""
    others = [phantom(i) for i in range(1, 4)]
    scan = replace(phantom(0), earlier=random_votes())
    if prior == "affine":
        return scans_of(scan, external_prior=build_prior(others))
    mean = Volume(np.ones(CELLS, np.float32), axis_aligned_grid(CELLS, 2.0, (0.5, 0.5, 0.5)))
    votes = count_votes([torch.from_numpy(blocks(other.channels.numpy())) for other in others], OUTPUTS)
    exact = GroupwiseSettings(prior_error_mm=0, affine_probability=0)
    return scans_of(scan, groupwise=Groupwise(mean, votes, {"p0": smooth_displacement()}, {"p0": ()}, exact))


def trained_on(run: RunContext, scans: TrainingScans, net: Network, tile: Tile) -> tuple[Tensor, Patches]:
    """Logits with the prior in the patches of a training step without augmentation, (B * 512, C), and the patches."""
    found = []

    def loss(logits: Tensor, _: object, __: object, drawn: Patches, ___: object) -> Tensor:
        found.append((logits.detach(), drawn))
        return logits.sum()

    context, (scan,) = tile_context(run, scans, tile), scans.manual
    with patch.object(step, "_view_loss", loss), patch.object(intensity, "vary_intensity", lambda image, *_: image):
        step.step_loss(net, (scan_on(scan, CPU),), atlas_of(scans, CPU), context, torch.Generator().manual_seed(0))
    return found[0]


def inferred(run: RunContext, scans: TrainingScans, net: Network, tile: Tile) -> Tensor:
    """(X, Y, Z, C) logits with the prior when the tile is labelled; NaN where it is not computed."""
    logits = torch.full((*run.assembly.layout.size, OUTPUTS), torch.nan)

    def everywhere(network: Network, features: Tensor, box, prior: Prior, *_: object) -> np.ndarray:
        channels = np.arange(OUTPUTS)
        logs = prior.of_box(list(box), channels, CPU)
        added = logs.flatten(0, 2) if network.prior else None
        values = network.logits_of(features.flatten(0, 2), torch.from_numpy(channels), added)
        logits[tuple(slice(s.start - n, s.stop - n) for s, n in zip(box, tile.start, strict=True))] = values.reshape(
            *features.shape[:3], -1
        )
        return np.zeros((1, *features.shape[:3]), np.uint8)

    (scan,) = scans.manual
    predictor = predictor_of(run, scans, scan, lambda _: net)
    with patch.object(predict, "cast_ballots", everywhere):
        predict.label_tile(predictor, tile, block_mean(scan.image.numpy(), run.assembly.resolution_mm), CPU)
    return logits


def run_of(folder: Path, assembly: AssemblySettings) -> RunContext:
    cascade = (FIRST,) if assembly.earlier is None else (FIRST, assembly)
    cascade = (assembly,) if assembly.name == "first" else cascade
    exact = (replace(one, earlier_error_mm=0.0, earlier_dropout=0.0) for one in cascade)
    return run_context(cascade_settings(folder, *exact, augment=STILL)).at(assembly.name)


@pytest.mark.parametrize("prior", ["affine", "deformed"])
@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("name", ASSEMBLIES)
def test_a_network_sees_the_same_in_training_and_inference(tmp_path: Path, name: str, added: bool, prior: str) -> None:
    """With the prior added to the logits; and without it, so that small errors of the other inputs would be seen."""
    run, scans = run_of(tmp_path, ASSEMBLIES[name]), scans_with(prior)
    if run.assembly.earlier is None:
        scans = replace(scans, manual=[replace(scan, earlier=None) for scan in scans.manual])
    torch.manual_seed(0)
    net = channels_last(run.network.build())
    torch.nn.init.normal_(net.head.weight, std=0.5)
    net.prior = added
    for tile in run.assembly.layout:
        logits, drawn = trained_on(run, scans, net, tile)
        everywhere = inferred(run, scans, net, tile)

        def difference(shift: int, drawn: Patches = drawn, logits: Tensor = logits, all_: Tensor = everywhere) -> float:
            """Largest difference of the log-probabilities if the patches were at other voxels."""
            x, y, z = patch_coordinates(replace(drawn, starts=drawn.starts + shift)).reshape(-1, 3).T
            other = torch.log_softmax(all_[x, y, z], dim=1)
            assert not other.isnan().any()
            return float((torch.log_softmax(logits, dim=1) - other).abs().max())

        # The prior of a model has 256 steps; coordinates at 1 mm are extrapolated at the border of the crop.
        tolerance = 1e-4 if run.network.settings.stride * run.assembly.resolution_mm > 1 else 0.02
        assert difference(0) < (0.05 if added else tolerance)
        assert difference(1) > (1 if added else 0.1)
