"""With `--mirror` every tile labels the scan and its mirror image, and votes for both."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch

from slant.errors import SettingsError
from slant.io.models import model_folder
from slant.nets.assembly import Assembly, read_assemblies
from slant.nets.cascade import Cascade
from slant.nets.inputs import InputScaling
from slant.nets.mirroring import Mirroring
from slant.nets.model import Model
from slant.nets.predict import Predictor, label_tile, tile_ballots
from slant.nets.prior import Prior
from slant.nets.registry import build_network
from slant.nets.voxel_head import UNetSettings
from slant.sparse_votes import SparseVotes
from slant.tiles import TileLayout
from slant.vote import VoteCounter, most_ballots, most_voters

CPU = torch.device("cpu")
PARTNERS, MIRROR_X = np.array([0, 2, 1, 3, 4], np.uint8), 15.5
SHAPE = (16, 20, 12)
SETTINGS = UNetSettings(5, (4, 6), image_channels=2, head_channels=4)
LAYOUTS = {
    "9 votes": TileLayout(SHAPE, (10, 12, 12), (3, 3, 1)),
    "4 votes": TileLayout(SHAPE, (10, 12, 12), (2, 2, 1)),
    "1 vote": TileLayout(SHAPE, (10, 12, 12), (2, 2, 1), "core"),
}
BALLOTS_OF_VIEW = {"9 votes": 14, "4 votes": 31, "1 vote": 127}


@cache
def image() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.5, 1.5, SHAPE).astype(np.float32)


def prior() -> Prior:
    return Prior(np.random.default_rng(1).integers(0, 120, (4, 5, 3, 5)).astype(np.uint8), SHAPE)


def displacement() -> np.ndarray:
    return np.random.default_rng(2).normal(0, 1, (3, 8, 10, 6)).astype(np.float32)


def assembly(layout: TileLayout) -> Assembly:
    return Assembly("", layout, "compact", SETTINGS, mirror="alternate")


def predictor(layout: TileLayout) -> Predictor:
    """Every second tile labels the mirror image; a random network for each tile."""
    networks = {}
    for i, tile in enumerate(layout):
        torch.manual_seed(i)
        networks[tile.name] = build_network("compact", SETTINGS).eval().requires_grad_(False)
        torch.nn.init.normal_(networks[tile.name].head.weight)
    mirroring = Mirroring(PARTNERS, MIRROR_X)
    return Predictor(layout, prior(), networks.__getitem__, displacement=displacement(), mirroring=mirroring)


def both(used: Predictor) -> Predictor:
    return replace(used, mirroring=Mirroring(PARTNERS, MIRROR_X, "both"))


def of_mirror_image(used: Predictor) -> Predictor:
    """Labels the mirror image as if it were a scan, with mirrored prior and displacement."""
    mirrored = used.displacement[:, ::-1].copy()
    mirrored[0] = np.float32(MIRROR_X - 15) - mirrored[0]
    flipped = Prior(used.prior.steps[::-1][..., PARTNERS].copy(), SHAPE)
    return replace(used, mirroring=None, prior=flipped, displacement=mirrored)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_tile_votes_on_the_scan_and_on_its_mirror_image(name: str) -> None:
    """The vote is that of all tiles on the scan and of all tiles on the mirror image, counted by hand."""
    layout, ballots = LAYOUTS[name], BALLOTS_OF_VIEW[name]
    used = replace(predictor(layout), ballots=ballots)
    on_scan, on_mirror_image = replace(used, mirroring=None), of_mirror_image(used)
    counts = np.zeros((5, *SHAPE))
    for tile in layout:
        own = tile_ballots(on_scan, tile, image(), CPU)
        mirrored = tile_ballots(on_mirror_image, layout.mirror_of(tile), image()[::-1].copy(), CPU)
        mirrored = mirrored[:, ::-1]
        mirrored[:2] = PARTNERS[mirrored[:2]]
        assert not np.array_equal(own, mirrored)
        np.testing.assert_array_equal(
            tile_ballots(used, tile, image(), CPU), mirrored if sum(map(int, tile.name.split("_"))) % 2 else own
        )
        core = tuple(slice(a, b) for a, b in zip(tile.core_start, tile.core_stop, strict=True))
        for first, second, part in (own[:, *tile.core_within], mirrored[:, *tile.core_within]):
            for channel in range(5):
                counts[channel][core] += (first == channel) * (ballots - part) + (second == channel) * part
    assert counts.sum(axis=0).max() == 2 * ballots * most_voters(layout)
    found = Cascade((assembly(layout),), (both(predictor(layout)),)).vote(image(), CPU, 1)
    np.testing.assert_array_equal(found.winners, counts.argmax(axis=0))
    np.testing.assert_array_equal(found.fraction, (counts.max(axis=0) / counts.sum(axis=0)).astype(np.float32))


def test_where_one_tile_votes_the_more_probable_label_wins_and_not_the_lower_one() -> None:
    layout = LAYOUTS["1 vote"]
    used = predictor(layout)
    views = {"own": replace(used, mirroring=None), "both": both(used)}
    lower = higher = 0
    vote = Cascade((assembly(layout),), (both(used),)).vote(image(), CPU, 1).winners
    for tile in layout:
        own, mirrored = tile_ballots(views["both"], tile, image(), CPU)
        np.testing.assert_array_equal(own, label_tile(views["own"], tile, image(), CPU))
        found, where = vote[tile.box][tile.core_within], (own != mirrored)[tile.core_within]
        first, second = own[tile.core_within][where], mirrored[tile.core_within][where]
        lower += int((found[where] == np.minimum(first, second)).sum())
        higher += int((found[where] == np.maximum(first, second)).sum())
    assert min(lower, higher) > 0.3 * (lower + higher) > 100


def symmetric(used: Predictor) -> Predictor:
    """With a prior and a displacement that are their own mirror images."""
    steps, mirrored = used.prior.steps, used.displacement[:, ::-1].copy()
    mirrored[0] = np.float32(MIRROR_X - 15) - mirrored[0]
    steps = np.maximum(steps, steps[::-1][..., PARTNERS])
    return replace(used, prior=Prior(steps, SHAPE), displacement=(used.displacement + mirrored) / 2)


def mirrored_result(votes: SparseVotes) -> tuple[np.ndarray, np.ndarray]:
    return PARTNERS[votes.channels[::-1, ..., 0]], votes.counts[::-1]


def test_a_mirrored_scan_has_the_mirrored_result() -> None:
    layout = LAYOUTS["9 votes"]
    used = symmetric(predictor(layout))
    results = []
    for one in (both(used), used):
        cascade = Cascade((assembly(layout),), (one,))
        scan, mirrored = (cascade.last_votes(x, CPU, 1) for x in (image(), image()[::-1].copy()))
        channels, counts = mirrored_result(mirrored)
        no_tie = scan.counts[..., 0] > scan.counts[..., 1]
        assert 0.5 < no_tie.mean() < 1
        results.append(
            (np.array_equal(scan.channels[no_tie, 0], channels[no_tie]), np.array_equal(scan.counts, counts))
        )
    assert results == [(True, True), (False, False)], "only if every tile labels both"


def test_the_number_of_threads_does_not_change_the_labels_and_progress_counts_tiles() -> None:
    layout = LAYOUTS["4 votes"]
    cascade = Cascade((assembly(layout),), (both(predictor(layout)),))
    told: list[float] = []
    one, three = cascade.vote(image(), CPU, 1, told.append), cascade.vote(image(), CPU, 3)
    assert (one.channels.tobytes(), one.counts.tobytes()) == (three.channels.tobytes(), three.counts.tobytes())
    assert told == [0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("name", LAYOUTS)
def test_mirror_images_share_the_ballots_of_a_tile(name: str) -> None:
    layout = LAYOUTS[name]
    cascade = Cascade((assembly(layout),), (both(predictor(layout)),))
    assert cascade.ballots == BALLOTS_OF_VIEW[name]
    found, vote = cascade.last_votes(image(), CPU, 1), cascade.vote(image(), CPU, 1)
    assert found.channels.tobytes() == vote.channels.tobytes()
    assert found.counts.tobytes() == vote.counts.tobytes()
    assert found.totals.max() == 2 * BALLOTS_OF_VIEW[name] * most_voters(layout)


def test_assemblies_of_a_cascade_have_the_same_number_of_ballots() -> None:
    """So that each has the weight of its tiles in the decision."""
    used = [replace(assembly(LAYOUTS[name]), name=name) for name in ("4 votes", "1 vote")]
    cascade = Cascade(tuple(used), tuple(both(predictor(one.layout)) for one in used))
    with patch("slant.nets.cascade.VoteCounter", wraps=VoteCounter) as counters:
        cascade.vote(image(), CPU, 1)
        cascade.last_votes(image(), CPU, 1)
    numbers = [(call.kwargs["ballots"], call.kwargs["views"]) for call in counters.call_args_list]
    assert numbers == [(31, 2)] * 4


# Tiles without a mirrored tile


def test_a_tile_without_a_mirrored_tile_votes_twice_on_the_scan() -> None:
    layout = TileLayout((15, 12, 12), (10, 12, 12), (3, 1, 1))  # tiles begin at 0, 3 and 5
    used = both(replace(predictor(layout), prior=None, displacement=None))
    scan = image()[:15, :12]
    views = {tile.name: tile_ballots(used, tile, scan, CPU) for tile in layout}
    for tile in layout:
        first, second = views[tile.name]
        np.testing.assert_array_equal(first, label_tile(replace(used, mirroring=None), tile, scan, CPU))
        assert np.array_equal(first, second) == (tile.name == "2_1_1")


def test_a_prior_whose_mirrored_cells_do_not_coincide_gives_the_votes_of_the_scan() -> None:
    layout = TileLayout((15, 12, 12), (10, 12, 12), (2, 1, 1))
    steps = np.random.default_rng(1).integers(0, 120, (4, 3, 3, 5)).astype(np.uint8)
    used = both(replace(predictor(layout), prior=Prior(steps, layout.shape), displacement=None))
    for tile in layout:
        first, second = tile_ballots(used, tile, image()[:15, :12], CPU)
        np.testing.assert_array_equal(first, second)


# Models


def model(*assemblies: Assembly) -> Model:
    networks = SimpleNamespace(assemblies=assemblies, prior=None, network=lambda name, position: (name, position))
    inputs = SimpleNamespace(groupwise=None, template=SimpleNamespace(mirror_x=MIRROR_X), scaling=InputScaling())
    return Model("toy", SimpleNamespace(mirrored_channels=PARTNERS), inputs, networks)


def test_a_model_whose_tiles_alternate_can_label_both() -> None:
    alternating = model(assembly(LAYOUTS["4 votes"]))
    modes = [alternating.cascade(image(), mirror=mirror).predictors[0].mirroring.mirror for mirror in (False, True)]
    assert modes == ["alternate", "both"]


@pytest.mark.parametrize(
    ("assemblies", "message"),
    [
        ({"": None}, r"found none in the model toy; leave --mirror out, use slant27 or whole, or train"),
        ({"first": "alternate", "second": None}, r"found none in the model toy, assembly second; leave"),
        ({"": "shared"}, r'--mirror adds nothing to the model toy, which has mirror = "shared".*leave --mirror out'),
    ],
)
def test_other_models_are_refused(assemblies: dict, message: str) -> None:
    found = model(*(replace(assembly(LAYOUTS["4 votes"]), name=n, mirror=m) for n, m in assemblies.items()))
    found.cascade(image())
    with pytest.raises(SettingsError, match=message):
        found.cascade(image(), mirror=True)
    with pytest.raises(SettingsError, match=message):
        found.check_mirror()


@pytest.mark.parametrize(("name", "accepted"), [("slant27", True), ("whole", True), ("slant8", False)])
def test_the_embedded_models(name: str, accepted: bool) -> None:
    assemblies = read_assemblies(json.loads((model_folder(name) / "manifest.json").read_text("utf-8")))
    VoteCounter(assemblies[0].layout, ballots=most_ballots(assemblies[0].layout, 2), views=2)  # not too many votes
    with nullcontext() if accepted else pytest.raises(SettingsError, match="found none in the model toy"):
        model(*assemblies).check_mirror()
