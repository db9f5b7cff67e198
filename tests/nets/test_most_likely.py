"""The most likely channel of each voxel, computed in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from slant.nets import most_likely as module
from slant.nets.most_likely import cast_ballots
from slant.nets.prior import Prior, quantize
from slant.nets.unet import CompactUNet
from slant.nets.voxel_head import UNetSettings

SHAPE, CHANNELS = (40, 36, 28), 6
BOX = (slice(7, 34), slice(2, 23), slice(5, 27))
CPU = torch.device("cpu")


@pytest.fixture
def network() -> CompactUNet:
    torch.manual_seed(0)
    network = CompactUNet(UNetSettings(CHANNELS, (4, 6), head_channels=4))
    torch.nn.init.normal_(network.head.weight, std=1.0)
    return network.requires_grad_(False)


def prior_of(frequencies: np.ndarray) -> Prior:
    return Prior(quantize(frequencies), SHAPE)


def random_frequencies() -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(CHANNELS), size=(10, 9, 7))


def most_likely(*arguments: Any) -> np.ndarray:
    """The single ballot of each voxel."""
    (labels,) = cast_ballots(*arguments)
    return labels


def features() -> torch.Tensor:
    return torch.randn(*(s.stop - s.start for s in BOX), 4, generator=torch.Generator().manual_seed(1))


def test_blocks_give_the_labels_of_the_whole_box(network: CompactUNet) -> None:
    prior = prior_of(random_frequencies())
    logits = network.logits(features()) + prior.of_box(list(BOX), np.arange(CHANNELS), CPU)
    found = most_likely(network, features(), BOX, prior)
    assert np.mean(found == logits.argmax(-1).numpy()) > 0.9999
    assert len(np.unique(found)) == CHANNELS


def test_without_a_prior_all_channels_compete(network: CompactUNet) -> None:
    found = most_likely(network, features(), BOX)
    np.testing.assert_array_equal(found, network.logits(features()).argmax(-1).numpy())


def test_the_labels_of_a_voxel_do_not_depend_on_the_box(network: CompactUNet) -> None:
    prior, part = prior_of(random_frequencies()), (slice(5, 20), slice(7, 19), slice(2, 11))
    whole = most_likely(network, features(), BOX, prior)
    box = tuple(slice(s.start + p.start, s.start + p.stop) for s, p in zip(BOX, part, strict=True))
    np.testing.assert_array_equal(most_likely(network, features()[part], box, prior), whole[part])


def test_a_region_that_is_not_possible_near_a_block_is_not_found_there(network: CompactUNet) -> None:
    frequencies = np.zeros((10, 9, 7, CHANNELS))
    frequencies[..., 0] = 1
    frequencies[:2, ..., 3] = 0.5
    network.head.bias[:] = torch.tensor([0.0, 60.0, 0.0, 60.0, 0.0, 0.0])  # channel 1 is likely but not possible
    found = most_likely(network, features(), BOX, prior_of(frequencies))
    template_x = np.arange(BOX[0].start, BOX[0].stop)
    assert (found[template_x < 8] == 3).all()
    assert not found[template_x >= 32].any()
    assert set(np.unique(found)) == {0, 3}


def test_blocks_without_a_possible_region_are_not_computed(
    network: CompactUNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    frequencies = np.zeros((10, 9, 7, CHANNELS))
    frequencies[..., 0] = 1
    monkeypatch.setattr(network, "logits_of", None)
    assert not most_likely(network, features(), BOX, prior_of(frequencies)).any()


def test_channels_of_the_mirror_image_become_those_of_their_partners(network: CompactUNet) -> None:
    partners = np.array([0, 2, 1, 4, 3, 5], np.uint8)
    logits = network.logits(features())[..., torch.from_numpy(partners.astype(np.int64))]
    np.testing.assert_array_equal(most_likely(network, features(), BOX, None, partners), logits.argmax(-1).numpy())


@pytest.mark.parametrize("ballots", [2, 4, 7, 255])
def test_ballots_are_divided_by_probability_between_the_two_most_likely_channels(
    network: CompactUNet, ballots: int
) -> None:
    prior = prior_of(random_frequencies())
    found = cast_ballots(network, features(), BOX, prior, None, ballots)
    logits = network.logits(features()) + prior.of_box(list(BOX), np.arange(CHANNELS), CPU)
    values, order = logits.topk(2, dim=-1)
    second = (torch.sigmoid(values[..., 1] - values[..., 0]) * ballots).numpy()
    assert found.shape == (3, *order.shape[:3])
    np.testing.assert_array_equal(found[:2], np.moveaxis(order.numpy(), -1, 0))
    np.testing.assert_allclose(found[2], second, atol=0.501 if ballots % 2 else 0.5)
    assert {*np.unique(found[2])} == {*range(ballots // 2 + 1)}


@pytest.mark.parametrize("ballots", [2, 3, 7, 14, 63, 255])
@pytest.mark.parametrize("difference", [0.0, 1e-6, 1e-3])
def test_the_first_channel_has_no_fewer_ballots_than_the_second(
    network: CompactUNet, ballots: int, difference: float
) -> None:
    """Also if two logits are equal and the number of ballots is odd."""
    torch.nn.init.zeros_(network.head.weight)
    network.head.bias[:] = torch.tensor([-5.0, 1.0, -5.0, -5.0, 1.0 + difference, -5.0])
    first, second, count = cast_ballots(network, features(), BOX, None, None, ballots)
    assert {*np.unique(first), *np.unique(second)} == {1, 4}
    assert (first != second).all()
    assert (count == ballots // 2).all()
    assert (first == 4).all() or difference == 0


def test_the_ballots_of_a_voxel_without_another_possible_region_are_for_the_background(network: CompactUNet) -> None:
    frequencies = np.zeros((10, 9, 7, CHANNELS))
    frequencies[..., 0] = 1
    assert not cast_ballots(network, features(), BOX, prior_of(frequencies), None, 9).any()


def test_larger_blocks_give_the_same_labels(network: CompactUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = prior_of(random_frequencies())
    small = most_likely(network, features(), BOX, prior)
    monkeypatch.setattr(module, "EDGE", module.GPU_EDGE)
    np.testing.assert_array_equal(most_likely(network, features(), BOX, prior), small)
