"""The earlier result in a training step: at the voxels of the features, mirrored with a flip, hidden at times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from phantom_runs import phantom_field
from phantoms import COARSE, FIRST, LEFT, MIRROR_X, OUTPUTS, RIGHT, SECOND, STILL, cascade_settings, phantom, scans_of
from torch import Tensor

from slant.grid import axis_aligned_grid
from slant.nets.earlier import mirrored_votes, votes_in_box
from slant.sparse_votes import KEPT, SparseVotes
from slant.train.assembly_settings import AssemblySettings
from slant.train.augment import flip_coordinates, random_coordinates
from slant.train.context import StageContext, run_context, tile_context, whole_context
from slant.train.data import Groupwise, build_prior
from slant.train.earlier import earlier_of_step, predictor_of
from slant.train.groupwise import blocks, count_votes, deformed_prior
from slant.train.on_device import scan_on
from slant.train.stage_settings import GroupwiseSettings
from slant.volume import Volume

CELLS = (16, 20, 18)
PARTNERS = np.arange(OUTPUTS, dtype=np.uint8)
PARTNERS[[LEFT, RIGHT]] = RIGHT, LEFT


@pytest.fixture(autouse=True)
def field() -> Iterator[None]:
    with phantom_field():
        yield


@pytest.fixture
def votes() -> SparseVotes:
    rng = np.random.default_rng(0)
    channels = rng.choice([0, LEFT, RIGHT, 7], (*CELLS, KEPT)).astype(np.uint8)
    counts = rng.integers(1, 4, channels.shape).astype(np.uint8)
    return SparseVotes(channels, counts, counts.sum(axis=-1, dtype=np.uint8), 2)


def context_of(
    folder: Path, assembly: AssemblySettings = SECOND, tile: int | None = None, **changes: Any
) -> StageContext:
    """The context of the whole grid, or of a tile, with an exact earlier result unless it is changed."""
    exact = replace(assembly, **{"earlier_error_mm": 0.0, "earlier_dropout": 0.0} | changes)
    run = run_context(cascade_settings(folder, FIRST, exact, augment=STILL)).at(assembly.name)
    if tile is None:
        return whole_context(run, scans_of(phantom(0)), replace(exact.whole, crop=False))
    return tile_context(run, scans_of(phantom(0)), exact.layout.tiles[tile])


def seen(votes: SparseVotes, context: StageContext, flip: bool = False, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The earlier result of a step without augmentation."""
    generator = torch.Generator().manual_seed(seed)
    coordinates = random_coordinates(context.seen, STILL, generator)
    if flip:
        coordinates = flip_coordinates(coordinates, MIRROR_X)
    scan = scan_on(replace(phantom(0), earlier=votes), coordinates.device)
    return earlier_of_step(scan, coordinates, context, flip, generator)


@pytest.mark.parametrize("tile", [None, 0, 1])
@pytest.mark.parametrize(
    "assembly",
    [
        SECOND,
        replace(SECOND, network=replace(SECOND.network, stem=1)),
        replace(SECOND, layout=COARSE, resolution_mm=2),
        replace(SECOND, layout=COARSE, resolution_mm=2, network=replace(SECOND.network, stem=1)),
    ],
    ids=["1 mm, blocks of 2", "1 mm", "2 mm, blocks of 2", "2 mm"],
)
def test_features_see_the_same_votes_in_training_and_inference(tmp_path, votes, assembly, tile: int | None) -> None:
    context = context_of(tmp_path, assembly, tile)
    found = seen(votes, context)
    expected = votes_in_box(votes, context.seen.start, context.seen.shape, context.feature_mm)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])
    assert found[1].dtype == torch.float32


def test_a_flip_exchanges_sides_and_channels(tmp_path: Path, votes: SparseVotes) -> None:
    context = context_of(tmp_path)
    found = seen(votes, context, flip=True)
    mirrored = mirrored_votes(votes, context.run.protocol.mirrored_channels)
    np.testing.assert_array_equal(mirrored.channels, PARTNERS[votes.channels[::-1]])
    expected = votes_in_box(mirrored, context.seen.start, context.seen.shape, context.feature_mm)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])
    assert not torch.equal(found[0], seen(votes, context)[0])


def test_a_hidden_result_is_zero_with_the_probability_that_is_set(tmp_path: Path, votes: SparseVotes) -> None:
    always = context_of(tmp_path, earlier_dropout=1.0)
    assert (seen(votes, always)[1] == 0).all()
    sometimes = context_of(tmp_path, earlier_dropout=0.5)
    hidden = [bool((seen(votes, sometimes, seed=seed)[1] == 0).all()) for seed in range(20)]
    assert 4 <= sum(hidden) <= 16


def test_the_places_of_the_result_have_a_random_error(tmp_path: Path, votes: SparseVotes) -> None:
    exact, channels = seen(votes, context_of(tmp_path))[0], []
    for error in (0.5, 4.0):
        wrong = context_of(tmp_path, earlier_error_mm=error)
        found = [float((seen(votes, wrong, seed=seed)[0] != exact).float().mean()) for seed in range(8)]
        channels.append(np.mean(found))
    assert 0 < channels[0] < channels[1]


# Priors of a scan that votes


def test_the_deformed_prior_of_a_scan_leaves_out_its_own_labels() -> None:
    scans = [phantom(i) for i in range(3)]
    mean = Volume(np.ones(CELLS, np.float32), axis_aligned_grid(CELLS, 2.0, (0.5, 0.5, 0.5)))
    labels = {scan.name: torch.from_numpy(blocks(scan.channels.numpy())) for scan in scans}
    zero, own = torch.zeros(3, *CELLS), {name: (voxels,) for name, voxels in labels.items()}
    votes = count_votes(list(labels.values()), OUTPUTS)
    every = Groupwise(mean, votes, dict.fromkeys(labels, zero), own, GroupwiseSettings())
    others = replace(every, votes=count_votes([labels["p1"], labels["p2"]], OUTPUTS), own=dict.fromkeys(labels, ()))
    without = deformed_prior(every, scans[0])
    np.testing.assert_array_equal(without.steps, deformed_prior(others, scans[0]).steps)
    new = replace(every, own={"p0": ()})
    assert not np.array_equal(without.steps, deformed_prior(new, scans[0]).steps)


def test_the_affine_prior_of_a_scan_leaves_out_its_own_labels(tmp_path: Path) -> None:
    scans = scans_of(phantom(0), phantom(1), auxiliary=(phantom(2),))
    run = run_context(cascade_settings(tmp_path))
    found = predictor_of(run, scans, scans.manual[0], lambda _: None).prior
    expected = build_prior([scans.manual[1], scans.auxiliary[0]])
    np.testing.assert_array_equal(found.steps, expected.steps)
    assert (found.shape, found.spacing, found.voxel_mm) == (CELLS, 2, 2)
    of_new_scan = predictor_of(run, scans, phantom(9), lambda _: None).prior
    np.testing.assert_array_equal(of_new_scan.steps, scans.prior.steps)
    external = replace(scans, external_prior=expected)
    np.testing.assert_array_equal(
        predictor_of(run, external, scans.manual[1], lambda _: None).prior.steps, expected.steps
    )
