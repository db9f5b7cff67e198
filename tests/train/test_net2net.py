"""Net2Net: a larger network starts with the function of the small one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from phantoms import same_tensors
from torch.nn import functional

from slant.errors import TrainingError
from slant.nets.layers import depth_to_space
from slant.nets.registry import build_network, settings_of
from slant.nets.unet import box_coordinate_channels
from slant.nets.voxel_head import UNetSettings
from slant.train.checkpoint import load_weights
from slant.train.net2net import net2net_growth

NARROW = UNetSettings(5, (5, 6, 8), image_channels=2, upsampled_channels=3, head_channels=6)
WIDE = UNetSettings(5, (7, 9, 12), image_channels=2, upsampled_channels=5, head_channels=8)
DEEP, WIDE_AND_DEEP = replace(NARROW, head_layers=1), replace(WIDE, head_layers=2)
EARLIER, WIDE_DEEP_EARLIER = replace(NARROW, earlier_channels=3), replace(WIDE_AND_DEEP, earlier_channels=2)
SHAPE = (12, 16, 14)


def network(kind: str, settings: UNetSettings, seed: int):
    torch.manual_seed(seed)
    net = build_network(kind, settings_of(kind, settings.as_dict()))
    torch.nn.init.normal_(net.head.weight, std=1.0)
    for module in net.modules():
        if isinstance(module, torch.nn.InstanceNorm3d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    return net


def earlier_result(net, size: tuple[int, int, int]) -> torch.Tensor | None:
    """The embedding of one channel per voxel, if the network takes it."""
    channels = torch.arange(size[0] * size[1] * size[2]).reshape(*size, 1) % 5
    return net.embed(channels, torch.ones(channels.shape)) if net.settings.earlier_channels else None


def logits(net, image: torch.Tensor) -> torch.Tensor:
    coordinates = box_coordinate_channels((20, 28, 24), (2, 4, 6), SHAPE)
    features = net.backbone(image, coordinates, earlier_result(net, (6, 8, 7)))
    return net.logits(net.decoder_head(features, image).permute(0, 2, 3, 4, 1))


@pytest.mark.parametrize("kind", ["compact", "residual"])
@pytest.mark.parametrize(
    ("larger", "atol"),
    [(WIDE, 1e-5), (DEEP, 0.1), (WIDE_AND_DEEP, 0.1), (EARLIER, 1e-5), (WIDE_DEEP_EARLIER, 0.1)],
)
def test_the_larger_network_starts_with_the_same_function_and_trains_all_channels(kind, larger, atol) -> None:
    narrow, wide = network(kind, NARROW, 0), network(kind, larger, 1)
    wide.load_state_dict(net2net_growth(narrow.state_dict(), wide))
    image = torch.rand(1, 1, *SHAPE)
    torch.testing.assert_close(logits(wide, image), logits(narrow, image), atol=atol, rtol=1e-5)
    optimizer = torch.optim.Adam(wide.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        logits(wide, image).square().mean().backward()
        optimizer.step()
    fresh = net2net_growth(narrow.state_dict(), network(kind, larger, 1))
    unchanged = [name for name, value in wide.state_dict().items() if torch.equal(value[-1:], fresh[name][-1:])]
    assert not [name for name in unchanged if name.endswith("weight")]


@pytest.mark.parametrize("kind", ["compact", "residual"])
def test_the_embedding_is_fresh_and_learns_as_soon_as_its_weights_are_not_zero(kind) -> None:
    net = network(kind, EARLIER, 1)
    fresh = net.embedding.weight.detach().clone()
    net.load_state_dict(net2net_growth(network(kind, NARROW, 0).state_dict(), net))
    assert torch.equal(net.embedding.weight, fresh)
    image, optimizer = torch.rand(1, 1, *SHAPE), torch.optim.SGD(net.parameters(), lr=0.1)
    gradients = []
    for _ in range(2):
        optimizer.zero_grad()
        logits(net, image).square().mean().backward()
        gradients.append(net.embedding.weight.grad.abs().max().item())
        optimizer.step()
    assert gradients[0] == 0 < gradients[1]


@pytest.mark.parametrize("kind", ["compact", "residual"])
@pytest.mark.parametrize("larger", [NARROW, WIDE, replace(NARROW, earlier_channels=3), WIDE_DEEP_EARLIER])
def test_without_blocks_a_network_does_at_a_voxel_what_it_did_at_a_block(kind, larger) -> None:
    blocks, voxels = network(kind, NARROW, 0), network(kind, replace(larger, stem=1), 1)
    voxels.load_state_dict(net2net_growth(blocks.state_dict(), voxels))
    small, coordinates = torch.rand(1, 1, 6, 8, 7), torch.rand(1, 3, 6, 8, 7)
    image = small.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    features, expected = (
        voxels.backbone(small, coordinates, earlier_result(voxels, (6, 8, 7))),
        blocks.backbone(image, coordinates),
    )
    torch.testing.assert_close(features[:, : NARROW.widths[0]], expected, atol=1e-4, rtol=1e-4)
    upsampled = functional.avg_pool3d(depth_to_space(blocks.unfold(expected)), 2)
    torch.testing.assert_close(voxels.unfold(features)[:, : NARROW.upsampled], upsampled, atol=1e-4, rtol=1e-4)
    for before, after in ((blocks.detail, voxels.detail), (blocks.head, voxels.head)):
        assert torch.equal(after.weight[: len(before.weight), : before.weight.shape[1]], before.weight)


def test_a_network_that_sees_more_channels_of_an_earlier_result_keeps_the_function() -> None:
    few, more = network("residual", EARLIER, 0), network("residual", replace(EARLIER, earlier_channels=5), 1)
    more.load_state_dict(net2net_growth(few.state_dict(), more))
    image = torch.rand(1, 1, *SHAPE)
    torch.testing.assert_close(logits(more, image), logits(few, image), atol=1e-5, rtol=1e-5)
    assert torch.equal(more.embedding.weight[:3], few.embedding.weight)


@pytest.mark.parametrize(
    ("smaller", "other", "found"),
    [
        (NARROW, replace(NARROW, outputs=6), "head.weight is"),
        (replace(NARROW, stem=1), NARROW, "unfold.weight is"),
        (EARLIER, NARROW, "unexpected: embedding.weight"),
        (replace(WIDE, earlier_channels=3), replace(NARROW, stem=1, earlier_channels=3), "mix.weight is"),
    ],
)
def test_weights_of_another_protocol_and_of_networks_that_see_more_are_refused(smaller, other, found) -> None:
    net = network("compact", other, 1)
    with pytest.raises(TrainingError, match=f"belong to another network.*{found}"):
        load_weights(net, net2net_growth(network("compact", smaller, 0).state_dict(), net), "the weights")


def test_weights_that_cannot_be_widened_are_refused() -> None:
    narrow, wide = network("compact", NARROW, 0), network("compact", WIDE, 1)
    assert same_tensors(net2net_growth(wide.state_dict(), network("compact", WIDE, 2)), wide.state_dict())
    for other in (narrow, network("residual", WIDE, 0), network("compact", replace(WIDE, outputs=4), 0)):
        with pytest.raises(TrainingError, match="belong to another network"):
            load_weights(other, net2net_growth(wide.state_dict(), other), "the weights")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("slicewise", {}),
        ("anisotropic", {}),
        ("orthogonal", {}),
        ("adapted", {}),
        ("residual", {"encoder": "resnet18"}),
    ],
)
def test_other_networks_are_not_widened(kind: str, changes: dict[str, str]) -> None:
    narrow, wide = (
        build_network(kind, settings_of(kind, {"outputs": 5, "widths": widths, **changes}))
        for widths in ([4, 5, 6, 6], [6, 7, 8, 8])
    )
    weights = narrow.state_dict()
    assert net2net_growth(weights, wide) is weights
    with pytest.raises(TrainingError, match="belong to another network"):
        load_weights(wide, net2net_growth(weights, wide), "the weights")
