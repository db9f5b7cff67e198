"""The most likely channel of each voxel, computed in blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slant.nets import most_likely as module
from slant.nets.most_likely import most_likely
from slant.nets.prior import Prior, quantize
from slant.nets.unet import CompactUNet, UNetSettings

SHAPE, CHANNELS = (40, 36, 28), 6
BOX = (slice(3, 30), slice(0, 21), slice(5, 27))
START = (4, 2, 0)
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


def features() -> torch.Tensor:
    return torch.randn(*(s.stop - s.start for s in BOX), 4, generator=torch.Generator().manual_seed(1))


def test_blocks_give_the_labels_of_the_whole_box(network: CompactUNet) -> None:
    prior = prior_of(random_frequencies())
    box = [slice(s.start + first, s.stop + first) for s, first in zip(BOX, START, strict=True)]
    logits = network.logits(features()) + prior.of_box(box, np.arange(CHANNELS), CPU)
    found = most_likely(network, features(), BOX, START, prior)
    assert np.mean(found == logits.argmax(-1).numpy()) > 0.9999
    assert len(np.unique(found)) == CHANNELS


def test_without_a_prior_all_channels_compete(network: CompactUNet) -> None:
    found = most_likely(network, features(), BOX, START)
    np.testing.assert_array_equal(found, network.logits(features()).argmax(-1).numpy())


def test_the_labels_of_a_voxel_do_not_depend_on_the_box(network: CompactUNet) -> None:
    prior, part = prior_of(random_frequencies()), (slice(5, 20), slice(7, 19), slice(2, 11))
    whole = most_likely(network, features(), BOX, START, prior)
    box = tuple(slice(s.start + p.start, s.start + p.stop) for s, p in zip(BOX, part, strict=True))
    np.testing.assert_array_equal(most_likely(network, features()[part], box, START, prior), whole[part])


def test_a_region_that_is_not_possible_near_a_block_is_not_found_there(network: CompactUNet) -> None:
    frequencies = np.zeros((10, 9, 7, CHANNELS))
    frequencies[..., 0] = 1
    frequencies[:2, ..., 3] = 0.5
    network.head.bias[:] = torch.tensor([0.0, 60.0, 0.0, 60.0, 0.0, 0.0])  # channel 1 is likely but not possible
    found = most_likely(network, features(), BOX, START, prior_of(frequencies))
    template_x = np.arange(BOX[0].start + START[0], BOX[0].stop + START[0])
    assert (found[template_x < 8] == 3).all()
    assert not found[template_x >= 32].any()
    assert set(np.unique(found)) == {0, 3}


def test_blocks_without_a_possible_region_are_not_computed(
    network: CompactUNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    frequencies = np.zeros((10, 9, 7, CHANNELS))
    frequencies[..., 0] = 1
    monkeypatch.setattr(network, "logits_of", None)
    assert not most_likely(network, features(), BOX, START, prior_of(frequencies)).any()


def test_channels_of_the_mirror_image_become_those_of_their_partners(network: CompactUNet) -> None:
    partners = np.array([0, 2, 1, 4, 3, 5], np.uint8)
    logits = network.logits(features())[..., torch.from_numpy(partners.astype(np.int64))]
    np.testing.assert_array_equal(
        most_likely(network, features(), BOX, START, None, partners), logits.argmax(-1).numpy()
    )


def test_larger_blocks_give_the_same_labels(network: CompactUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = prior_of(random_frequencies())
    small = most_likely(network, features(), BOX, START, prior)
    monkeypatch.setattr(module, "EDGE", module.GPU_EDGE)
    np.testing.assert_array_equal(most_likely(network, features(), BOX, START, prior), small)
