"""Cascades of random networks label a scan as plain loops over their tiles do."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from tiny_networks import TINY

from slant.decision import decide
from slant.io.models import embedded_models, load_model
from slant.nets import predict
from slant.nets.assembly import Assembly, manifest_entries
from slant.nets.cascade import Cascade
from slant.nets.earlier import block_mean, prior_at
from slant.nets.inputs import InputScaling
from slant.nets.mirroring import Mirroring
from slant.nets.model import Model
from slant.nets.most_likely import Box, cast_ballots
from slant.nets.network import Network
from slant.nets.predict import Predictor, label_tile, tile_ballots, tile_votes
from slant.nets.prior import Prior
from slant.nets.registry import build_network, settings_of
from slant.nets.unet import ResidualSettings
from slant.nets.voxel_head import UNetSettings, VoxelNetwork
from slant.nets.weights import read_model, write_model
from slant.sparse_votes import SparseVotes
from slant.tiles import TileLayout
from slant.vote import VoteCounter, most_voters

CPU = torch.device("cpu")
PARTNERS = np.array([0, 2, 1, 3, 4], np.uint8)
SETTINGS, RESIDUAL = (kind(5, (4, 6), image_channels=2, head_channels=4) for kind in (UNetSettings, ResidualSettings))
FINE, COARSE = TileLayout((16, 20, 12), (10, 12, 12), (2, 2, 1)), TileLayout((8, 10, 6), (8, 6, 6), (1, 2, 1))
FIRST = Assembly("first", COARSE, "compact", replace(SETTINGS, stem=1), resolution_mm=2)
SECOND = Assembly("second", FINE, "residual", replace(RESIDUAL, earlier_channels=2), 1, "first")
THIRD = replace(SECOND, name="third", earlier="second", kind="compact")
ALONE = Assembly("", FINE, "compact", SETTINGS)
CASCADES = {
    "one assembly": (ALONE,),
    "one assembly with a name": (replace(ALONE, name="only"),),
    "one coarse assembly": (FIRST,),
    "two assemblies": (FIRST, SECOND),
    "two, of which one votes": (replace(FIRST, vote=False), SECOND),
    "three assemblies": (FIRST, SECOND, THIRD),
    "two, of which the second is coarser": (replace(ALONE, name="fine"), replace(FIRST, name="coarse")),
    "with mirror images": (replace(FIRST, mirror="alternate"), replace(SECOND, mirror="shared")),
}


@cache
def image() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.5, 1.5, FINE.shape).astype(np.float32)


@cache
def prior() -> Prior:
    return Prior(np.random.default_rng(1).integers(0, 120, (4, 5, 3, 5)).astype(np.uint8), FINE.shape)


def network(assembly: Assembly, tile: str) -> Network:
    torch.manual_seed(sum(map(ord, assembly.name + tile)))
    net = build_network(assembly.kind, assembly.settings).eval().requires_grad_(False)
    if isinstance(net, VoxelNetwork):
        torch.nn.init.normal_(net.head.weight)
    return net.half().float()  # as a file of weights stores it


def predictor(assembly: Assembly) -> Predictor:
    networks = {tile.name: network(assembly, tile.name) for tile in assembly.networks}  # threads share the random seed
    return Predictor(
        assembly.layout,
        prior_at(prior(), assembly.resolution_mm),
        networks.__getitem__,
        mirroring=None if assembly.mirror is None else Mirroring(PARTNERS, 15.0, assembly.mirror),
        resolution_mm=assembly.resolution_mm,
    )


def cascade(*assemblies: Assembly) -> Cascade:
    return Cascade(assemblies, tuple(map(predictor, assemblies)))


def votes_by_loops(*assemblies: Assembly) -> dict[str, SparseVotes]:
    """The votes of each assembly, one tile after the other; all tiles have the same number of ballots."""
    ballots = 255 // max(most_voters(assembly.layout) for assembly in assemblies)
    results: dict[str, SparseVotes] = {}
    for assembly in assemblies:
        ready = replace(predictor(assembly), earlier=results.get(assembly.earlier or "none"), ballots=ballots)
        counter = VoteCounter(assembly.layout, assembly.resolution_mm, ballots=ballots)
        for tile in assembly.layout:
            own = block_mean(image(), assembly.resolution_mm)
            counter.aggregate(tile_ballots(ready, tile, own, CPU), tile)
        results[assembly.name] = counter.finalize()
    return results


def assert_same(found: SparseVotes, expected: SparseVotes) -> None:
    for name in ("channels", "counts", "totals"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.voxel_mm == expected.voxel_mm


@pytest.mark.parametrize("name", CASCADES)
def test_a_cascade_votes_as_plain_loops_over_its_tiles(name: str) -> None:
    found, votes = cascade(*CASCADES[name]).vote(image(), CPU, 1), votes_by_loops(*CASCADES[name])
    voting = [votes[assembly.name] for assembly in CASCADES[name] if assembly.vote]
    assert_same(found, voting[0] if [own.voxel_mm for own in voting] == [1] else decide(voting, FINE.shape))
    assert found.shape == FINE.shape
    assert len(np.unique(found.winners)) > 2


@pytest.mark.parametrize("name", ["two assemblies", "with mirror images"])
def test_the_number_of_threads_does_not_change_the_votes(name: str) -> None:
    votes = [cascade(*CASCADES[name]).vote(image(), CPU, threads) for threads in (1, 3)]
    assert_same(*votes)


def test_one_assembly_votes_alike_whether_or_not_it_has_a_name() -> None:
    named = Cascade((replace(ALONE, name="only"),), (predictor(ALONE),))
    assert_same(named.vote(image(), CPU, 1), cascade(ALONE).vote(image(), CPU, 1))


@pytest.mark.parametrize("name", CASCADES)
@pytest.mark.parametrize("threads", [1, 3])
def test_the_last_votes_are_those_of_the_last_assembly_that_votes(name: str, threads: int) -> None:
    told: list[float] = []
    last = [assembly for assembly in CASCADES[name] if assembly.vote][-1]
    used, expected = cascade(*CASCADES[name]), votes_by_loops(*CASCADES[name])[last.name]
    found = used.last_votes(image(), CPU, threads, told.append)
    assert_same(found, expected)
    assert (found.voxel_mm, found.shape) == (last.resolution_mm, last.layout.shape)
    assert found.totals.max() == used.ballots * most_voters(last.layout)
    assert told[-1] == pytest.approx(1)
    assert len(told) == used.tile_count


# Ballots


def test_fractions_of_one_tile_follow_the_probabilities_of_its_two_most_likely_channels() -> None:
    assembly = replace(ALONE, layout=TileLayout(FINE.shape, FINE.shape, (1, 1, 1)))
    used, logits = cascade(assembly), np.zeros((*FINE.shape, 5))

    def recorded(network: Network, features: torch.Tensor, box: Box, own: Prior, *others: Any) -> np.ndarray:
        logits[box] = network.logits(features) + own.of_box(list(box), np.arange(5), CPU)
        return cast_ballots(network, features, box, own, *others)

    with patch.object(predict, "cast_ballots", recorded):
        found = used.vote(image(), CPU, 1)
    likely = np.sort(np.exp(logits), axis=-1)[..., :-3:-1]
    expected = likely / likely.sum(axis=-1, keepdims=True)
    assert used.ballots == found.totals.min() == 255
    order = np.argsort(-logits, axis=-1)[..., :2]
    np.testing.assert_array_equal(found.channels[..., :2], np.where(found.counts[..., :2] > 0, order, 0))
    np.testing.assert_allclose(found.counts[..., :2] / 255, expected, atol=1 / 255)
    assert not found.counts[..., 2:].any()
    assert len(np.unique(found.counts[..., 1])) > 64


def test_fractions_of_several_tiles_follow_their_mean_probability() -> None:
    """Where a tile prefers another channel only slightly, the sure tiles win."""
    divided, single = cascade(ALONE).vote(image(), CPU, 1), VoteCounter(FINE)
    for tile, channels in tile_votes(predictor(ALONE), image(), CPU, 1):
        single.aggregate(channels, tile)
    majority = single.finalize()
    assert 0.6 < (divided.winners == majority.winners).mean() < 1
    alone = majority.totals == 1
    np.testing.assert_array_equal(divided.winners[alone], majority.winners[alone])
    assert (majority.fraction[alone] == 1).all()
    assert 0.5 <= divided.fraction[alone].min() < 0.6


@pytest.mark.parametrize(
    ("assemblies", "expected"),
    [((ALONE,), 63), ((FIRST,), 127), ((FIRST, SECOND), 63), ((replace(FIRST, vote=False), SECOND), 63)],
)
def test_all_tiles_have_as_many_ballots_as_can_be_counted(assemblies: tuple[Assembly, ...], expected: int) -> None:
    assert cascade(*assemblies).ballots == expected


def test_a_tile_of_a_network_whose_softmax_is_not_a_probability_has_one_ballot() -> None:
    original = Assembly("", FINE, "slant2018", settings_of("slant2018", TINY["slant2018"]))
    ready, single = replace(predictor(original), prior=None), VoteCounter(FINE)
    used = Cascade((original,), (ready,))
    for tile in FINE:
        single.aggregate(label_tile(ready, tile, image(), CPU), tile)
    found = used.vote(image(), CPU, 1)
    assert used.ballots == 1
    assert found.totals.max() == most_voters(FINE) == 4
    assert_same(found, single.finalize())
    assert cascade(FIRST, original).ballots == 1


def test_every_assembly_changes_the_result() -> None:
    alone = cascade(FIRST).vote(image(), CPU, 1).winners
    both = cascade(FIRST, SECOND).vote(image(), CPU, 1).winners
    last = cascade(replace(FIRST, vote=False), SECOND).vote(image(), CPU, 1).winners
    assert not np.array_equal(alone, both)
    assert not np.array_equal(both, last)
    blind = Cascade((FIRST, SECOND), (replace(predictor(FIRST), prior=None), predictor(SECOND)))
    second = Cascade((replace(FIRST, vote=False), SECOND), blind.predictors)
    assert not np.array_equal(last, second.vote(image(), CPU, 1).winners)  # it sees another first result


def test_progress_counts_the_tiles_of_all_assemblies() -> None:
    told: list[float] = []
    used = cascade(FIRST, SECOND)
    used.vote(image(), CPU, 1, told.append)
    assert used.tile_count == 6
    assert told == pytest.approx([i / 6 for i in range(1, 7)])


def test_the_networks_of_a_model_are_those_of_each_assembly(tmp_path: Path) -> None:
    """A model read from its folder labels as its networks in memory do."""
    assemblies = CASCADES["with mirror images"]
    states = [[(tile.name, network(a, tile.name).state_dict()) for tile in a.networks] for a in assemblies]
    write_model(tmp_path, states, prior(), manifest_entries(assemblies))
    template = SimpleNamespace(mirror_x=15.0)
    inputs = SimpleNamespace(groupwise=None, template=template, scaling=InputScaling())
    partners = SimpleNamespace(mirrored_channels=PARTNERS)
    model = Model("toy", partners, inputs, read_model(tmp_path))
    assert not model.one_vote
    found = model.cascade(image()).vote(image(), CPU, 1)
    assert_same(found, cascade(*assemblies).vote(image(), CPU, 1))


# Mirror images


def test_tiles_beyond_the_middle_label_as_their_partners_label_the_mirror_image() -> None:
    assembly = replace(SECOND, mirror="shared")
    rng = np.random.default_rng(3)
    channels = rng.integers(0, 5, (8, 10, 6, 4)).astype(np.uint8)
    counts = np.full(channels.shape, 2, np.uint8)
    earlier = SparseVotes(channels, counts, np.full(channels.shape[:3], 8, np.uint8), 2)
    mirrored = SparseVotes(PARTNERS[channels[::-1]], counts, earlier.totals, 2)
    ready = replace(predictor(assembly), earlier=earlier)
    flipped = Prior(prior().steps[::-1][..., PARTNERS].copy(), FINE.shape)
    of_mirror_image = replace(ready, earlier=mirrored, mirroring=None, prior=flipped)
    tiles = {tile.name: tile for tile in FINE}
    for name, partner in (("2_1_1", "1_1_1"), ("2_2_1", "1_2_1")):
        labels = label_tile(ready, tiles[name], image(), CPU)
        of_partner = label_tile(of_mirror_image, tiles[partner], image()[::-1].copy(), CPU)
        np.testing.assert_array_equal(labels, PARTNERS[of_partner[::-1]])
        assert len(np.unique(labels)) > 2
    for name in ("1_1_1", "1_2_1"):  # up to the middle, a tile labels the scan itself
        plain = label_tile(replace(ready, mirroring=None), tiles[name], image(), CPU)
        np.testing.assert_array_equal(label_tile(ready, tiles[name], image(), CPU), plain)


def test_the_prior_of_the_mirror_image_is_on_the_grid_of_the_assembly() -> None:
    layout = TileLayout(COARSE.shape, (6, 10, 6), (2, 1, 1))
    ready = predictor(replace(FIRST, layout=layout, mirror="shared"))
    with patch.object(predict, "cast_ballots", wraps=predict.cast_ballots) as called:
        label_tile(ready, layout.tiles[1], block_mean(image(), 2), CPU)
    used = called.call_args.args[3]
    assert (used.shape, used.spacing, used.voxel_mm) == (COARSE.shape, 2, 2)
    np.testing.assert_array_equal(used.steps, prior().steps[::-1])


# Embedded models


@pytest.mark.parametrize("name", embedded_models())
def test_the_embedded_models_are_cascades_of_one_assembly(name: str) -> None:
    model = load_model(name)
    (assembly,) = model.assemblies
    assert (assembly.name, assembly.resolution_mm, assembly.earlier, assembly.vote) == ("", 1, None, True)
    assert assembly.template_shape == model.inputs.template.grid.shape
    assert type(model.networks.network(assembly.layout.tiles[-1].name)).__name__ == "ResidualUNet"
