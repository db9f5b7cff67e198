"""Cascades of random networks label a scan as plain loops over their tiles do."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch

from slant.decision import decide
from slant.io.models import embedded_models, load_model
from slant.nets import predict
from slant.nets.assembly import Assembly, manifest_entries
from slant.nets.cascade import BALLOTS, Cascade
from slant.nets.earlier import block_mean, prior_at
from slant.nets.inputs import InputScaling
from slant.nets.mirroring import Mirroring
from slant.nets.model import Model
from slant.nets.network import Network
from slant.nets.predict import Predictor, label_tile, tile_ballots, tile_votes
from slant.nets.prior import Prior
from slant.nets.registry import build_network
from slant.nets.unet import ResidualSettings
from slant.nets.voxel_head import UNetSettings
from slant.nets.weights import read_model, write_model
from slant.sparse_votes import SparseVotes
from slant.tiles import TileLayout
from slant.vote import Vote, VoteCounter, most_voters

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
    torch.nn.init.normal_(net.head.weight)
    return net


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


def by_loops(*assemblies: Assembly) -> Vote:
    """The votes of all assemblies, one tile after the other."""
    results: dict[str, SparseVotes] = {}
    for assembly in assemblies:
        ready = replace(predictor(assembly), earlier=results.get(assembly.earlier or "none"))
        counter = VoteCounter(assembly.layout, assembly.resolution_mm, sparse=True)
        for tile in assembly.layout:
            own = block_mean(image(), assembly.resolution_mm)
            counter.aggregate(label_tile(ready, tile, own, CPU), tile)
        results[assembly.name] = counter.finalize().sparse
    return decide([results[assembly.name] for assembly in assemblies if assembly.vote], FINE.shape)


@pytest.mark.parametrize("name", CASCADES)
def test_a_cascade_labels_as_plain_loops_over_its_tiles(name: str) -> None:
    found, expected = cascade(*CASCADES[name]).vote(image(), CPU, 1), by_loops(*CASCADES[name])
    np.testing.assert_array_equal(found.channels, expected.channels)
    np.testing.assert_array_equal(found.fraction, expected.fraction)
    assert found.channels.shape == FINE.shape
    assert len(np.unique(found.channels)) > 2


@pytest.mark.parametrize("name", ["two assemblies", "with mirror images"])
def test_the_number_of_threads_does_not_change_the_labels(name: str) -> None:
    votes = [cascade(*CASCADES[name]).vote(image(), CPU, threads) for threads in (1, 3)]
    np.testing.assert_array_equal(votes[0].channels, votes[1].channels)
    np.testing.assert_array_equal(votes[0].fraction, votes[1].fraction)


def test_one_assembly_labels_as_the_vote_of_its_tiles_whether_or_not_it_has_a_name() -> None:
    counter = VoteCounter(FINE)
    for tile, channels in tile_votes(predictor(ALONE), image(), CPU, 1):
        counter.aggregate(channels, tile)
    expected = counter.finalize()
    named = Cascade((replace(ALONE, name="only"),), (predictor(ALONE),))
    for found in (cascade(ALONE).vote(image(), CPU, 1), named.vote(image(), CPU, 1)):
        np.testing.assert_array_equal(found.channels, expected.channels)
        np.testing.assert_array_equal(found.fraction, expected.fraction)


def votes_of_the_last(*assemblies: Assembly) -> SparseVotes:
    """Sparse votes of the last assembly that votes, whose tiles have several ballots, one tile after the other."""
    last = [assembly for assembly in assemblies if assembly.vote][-1]
    results: dict[str, SparseVotes] = {}
    for assembly in assemblies:
        ballots = BALLOTS // most_voters(assembly.layout) if assembly is last else 1
        ready = replace(predictor(assembly), earlier=results.get(assembly.earlier or "none"), ballots=ballots)
        counter = VoteCounter(assembly.layout, assembly.resolution_mm, sparse=True, ballots=ballots)
        for tile in assembly.layout:
            counter.aggregate(tile_ballots(ready, tile, block_mean(image(), assembly.resolution_mm), CPU), tile)
        results[assembly.name] = counter.finalize().sparse
    return results[last.name]


@pytest.mark.parametrize("name", CASCADES)
@pytest.mark.parametrize("threads", [1, 3])
def test_sparse_votes_are_those_of_the_last_assembly_that_votes(name: str, threads: int) -> None:
    told: list[float] = []
    used, expected = cascade(*CASCADES[name]), votes_of_the_last(*CASCADES[name])
    found = used.sparse_votes(image(), CPU, threads, told.append)
    for part in ("channels", "counts", "totals"):
        np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))
    last = [assembly for assembly in CASCADES[name] if assembly.vote][-1]
    assert (found.voxel_mm, found.shape) == (last.resolution_mm, last.layout.shape)
    assert found.totals.max() == BALLOTS
    assert told[-1] == pytest.approx(1)
    assert len(told) == used.tile_count


def test_fractions_of_sparse_votes_follow_the_probabilities() -> None:
    """The winners are hardly others than those of single votes, but most fractions lie between."""
    found, single = cascade(ALONE).sparse_votes(image(), CPU, 1), cascade(ALONE).vote(image(), CPU, 1)
    assert (found.channels[..., 0] == single.channels).mean() > 0.8
    one_tile = found.totals == found.totals.min()
    assert (single.fraction[one_tile] == 1).all()
    assert 0.1 < (found.counts[..., 0] < found.totals)[one_tile].mean() < 1
    no_tie = one_tile & (found.counts[..., 0] > found.counts[..., 1])
    np.testing.assert_array_equal(found.channels[..., 0][no_tie], single.channels[no_tie])


def test_every_assembly_changes_the_result() -> None:
    alone = cascade(FIRST).vote(image(), CPU, 1).channels
    both = cascade(FIRST, SECOND).vote(image(), CPU, 1).channels
    last = cascade(replace(FIRST, vote=False), SECOND).vote(image(), CPU, 1).channels
    assert not np.array_equal(alone, both)
    assert not np.array_equal(both, last)
    blind = Cascade((FIRST, SECOND), (replace(predictor(FIRST), prior=None), predictor(SECOND)))
    second = Cascade((replace(FIRST, vote=False), SECOND), blind.predictors)
    assert not np.array_equal(last, second.vote(image(), CPU, 1).channels)  # it sees another first result


def test_progress_counts_the_tiles_of_all_assemblies() -> None:
    told: list[float] = []
    used = cascade(FIRST, SECOND)
    used.vote(image(), CPU, 1, told.append)
    assert used.tile_count == 6
    assert told == pytest.approx([i / 6 for i in range(1, 7)])


def test_the_networks_of_a_model_are_those_of_each_assembly(tmp_path: Path) -> None:
    """A model read from its folder labels as its networks in memory do."""
    assemblies = CASCADES["with mirror images"]
    states = [
        [(tile.name, network(a, tile.name).half().float().state_dict()) for tile in a.networks] for a in assemblies
    ]
    write_model(tmp_path, states, prior(), manifest_entries(assemblies))
    template = SimpleNamespace(mirror_x=15.0)
    inputs = SimpleNamespace(groupwise=None, template=template, scaling=InputScaling())
    partners = SimpleNamespace(mirrored_channels=PARTNERS)
    model = Model("toy", partners, inputs, read_model(tmp_path))
    assert not model.one_vote
    found = model.cascade(image()).vote(image(), CPU, 1)
    np.testing.assert_array_equal(found.channels, cascade(*assemblies).vote(image(), CPU, 1).channels)


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
