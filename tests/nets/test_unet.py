"""The compact and the residual U-Net: residual blocks, tasks, blocks of voxels, result of an earlier assembly."""

from __future__ import annotations

import hashlib

import pytest
import torch
from tiny_networks import SHAPE, TINY, VARIANTS, backbone, tiny, voxel_features
from torch import nn
from torch.nn import functional

from slant.nets.device import has_fast_bfloat16
from slant.nets.layers import concatenate_coarse_and_fine, depth_to_space, space_to_depth
from slant.nets.registry import build_network
from slant.nets.voxel_head import UNetSettings

KINDS = ["compact", "residual"]


@pytest.mark.parametrize(
    ("kind", "head_layers", "tensors", "weights", "logits"),
    [
        ("compact", 0, "2ef60cda6602a7b9", 636.3934179205089, 16.99106204209751),
        ("residual", 1, "6192d019daa6cd15", 823.9413673834524, 14.336572403813577),
    ],
)
def test_networks_without_newer_settings_keep_their_tensors_initial_weights_and_logits(
    kind: str, head_layers: int, tensors: str, weights: float, logits: float
) -> None:
    network = tiny(kind, head_layers=head_layers)
    image, coordinates = torch.rand(1, 1, *SHAPE), torch.rand(1, 3, *(n // 2 for n in SHAPE))
    state = network.state_dict()
    names_and_shapes = str([(name, tuple(value.shape)) for name, value in state.items()])
    assert hashlib.sha256(names_and_shapes.encode()).hexdigest().startswith(tensors)
    assert sum(value.double().abs().sum().item() for value in state.values()) == pytest.approx(weights, rel=1e-6)
    features = network.decoder_head(network.backbone(image, coordinates), image).permute(0, 2, 3, 4, 1)
    assert network.logits(features).double().abs().sum().item() == pytest.approx(logits, rel=1e-5)


# Residual blocks and tasks


def test_a_residual_block_adds_its_input() -> None:
    network = tiny("residual")
    block = network.encoders[1]
    nn.init.zeros_(block.second[1].weight)  # the convolutions add nothing then
    x = torch.rand(1, 4, 4, 4, 4) - 0.5
    torch.testing.assert_close(block(x), functional.leaky_relu(block.shortcut(x), 0.01))
    assert {name.partition(".")[0] for name in network.state_dict()} == {
        name.partition(".")[0] for name in tiny("compact").state_dict()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_are_learned_from_the_features_of_the_regions(kind: str) -> None:
    network = tiny(kind)
    features = voxel_features(network, torch.rand(1, 1, *SHAPE))
    tasks = network.tasks(features)
    assert {task: logits.shape[-1] for task, logits in tasks.items()} == {"tissue": 4, "brain": 2}
    tasks["tissue"].sum().backward()
    assert next(network.encoders.parameters()).grad is not None
    assert network.head.weight.grad is None


def test_networks_without_tasks_have_none() -> None:
    network = build_network("compact", UNetSettings(5, (4, 6)))
    assert network.tasks(torch.rand(3, 16)) == {}
    assert not [name for name in network.state_dict() if name.startswith("heads")]
    assert tiny("slant2018").tasks(torch.rand(3, 5)) == {}


# Blocks of voxels


@pytest.mark.parametrize("edge", [1, 2, 3])
def test_depth_to_space_is_the_inverse_of_space_to_depth_for_every_edge(edge: int) -> None:
    fine, image = torch.rand(2, 4, 6, 12, 18), torch.rand(2, 3, 6, 12, 18)
    coarse = space_to_depth(image, edge)
    assert coarse.shape == (2, 3 * edge**3, 6 // edge, 12 // edge, 18 // edge)
    assert torch.equal(coarse[:, 0], image[:, 0, ::edge, ::edge, ::edge])
    assert torch.equal(depth_to_space(coarse, edge), image)
    assert torch.equal(concatenate_coarse_and_fine(coarse, fine, edge), torch.cat([image, fine], dim=1))


@pytest.mark.parametrize("kind", KINDS)
def test_without_blocks_the_first_level_works_at_the_voxels_of_an_image_of_any_size(kind: str) -> None:
    network, image = tiny(kind, stem=1), torch.rand(1, 1, 7, 9, 11)
    assert (network.stride, network.multiple) == (1, 1)
    assert backbone(network, image).shape == (1, TINY[kind]["widths"][0], 7, 9, 11)
    assert network.logits(voxel_features(network, image)).shape == (7, 9, 11, 5)
    assert network.unfold.weight.shape[0] == network.settings.upsampled


@pytest.mark.skipif(not has_fast_bfloat16(), reason="this CPU has no instructions for bfloat16")
@pytest.mark.parametrize("variant", [name for name, (kind, _) in VARIANTS.items() if kind != "slant2018"])
def test_bfloat16_takes_the_faster_ways_through_all_variants(variant: str) -> None:
    kind, settings = VARIANTS[variant]
    network, image = tiny(kind, **settings), torch.rand(1, 1, *SHAPE)
    with torch.inference_mode():
        expected = voxel_features(network, image)
        found = voxel_features(network.to(torch.bfloat16), image.to(torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().mean() < 0.04 * expected.abs().mean()


# The result of an earlier assembly


def test_the_embedding_is_the_mean_of_the_vectors_of_the_channels_with_their_fractions_as_weights() -> None:
    network = tiny("compact", earlier_channels=3)
    channels = torch.randint(5, (2, 3, 4, 2), dtype=torch.uint8)
    fractions = torch.rand(2, 3, 4, 2)
    embedded = network.embed(channels, fractions)
    dense = (functional.one_hot(channels.long(), 5) * fractions[..., None]).sum(dim=3)
    torch.testing.assert_close(embedded, network.embedding(dense).permute(3, 0, 1, 2)[None])
    embedded[0, 1].sum().backward()
    expected = torch.zeros(3, 5)
    expected[1] = dense.sum(dim=(0, 1, 2))
    torch.testing.assert_close(network.embedding.weight.grad, expected)


def test_the_initial_embedding_has_channels_of_a_scale_of_one() -> None:
    network = build_network("compact", UNetSettings(133, (4,), earlier_channels=8))
    channels = torch.arange(133).reshape(7, 19, 1, 1)
    embedded = network.embed(channels, torch.ones(channels.shape)).detach()
    assert embedded.std().item() == pytest.approx(1, abs=0.1)


def test_the_earlier_result_changes_the_features_and_is_the_last_input() -> None:
    network = tiny("compact", stem=1, earlier_channels=3)
    image, coordinates, earlier = torch.rand(1, 1, *SHAPE), torch.rand(1, 3, *SHAPE), torch.rand(1, 3, *SHAPE)
    assert not torch.allclose(
        network.backbone(image, coordinates, earlier), network.backbone(image, coordinates, -earlier)
    )
    nn.init.zeros_(network.encoders[0][0][0].weight[:, 4:])
    assert torch.equal(network.backbone(image, coordinates, earlier), network.backbone(image, coordinates, -earlier))


@pytest.mark.parametrize(
    ("kind", "takes", "given"), [("residual", 3, 0), ("compact", 3, 2), ("residual", 0, 3), ("slant2018", 0, 3)]
)
def test_an_earlier_result_that_a_network_does_not_take_is_refused(kind: str, takes: int, given: int) -> None:
    network = tiny(kind, **({"earlier_channels": takes} if takes else {}))
    size = [n // network.stride for n in SHAPE]
    earlier = torch.rand(1, given, *size) if given else None
    with pytest.raises(ValueError, match=f"takes {takes} channels of an earlier result, found {given}"):
        network.backbone(torch.rand(1, 1, *SHAPE), torch.rand(1, 3, *size), earlier)


@pytest.mark.parametrize("kind", sorted(TINY))
def test_networks_that_take_no_earlier_result_do_not_embed_it(kind: str) -> None:
    with pytest.raises(ValueError, match="takes no result of an earlier assembly"):
        tiny(kind).embed(torch.zeros(2, 2, 2, 1, dtype=torch.uint8), torch.ones(2, 2, 2, 1))
