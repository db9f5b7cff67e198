"""Net2Net: a wider or deeper network starts with the function of the small one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from phantoms import same_tensors

from slant.errors import TrainingError
from slant.nets.registry import build_network
from slant.nets.unet import UNetSettings, box_coordinate_channels
from slant.train.checkpoint import load_weights
from slant.train.transfer import net2net_growth

NARROW = UNetSettings(5, (4, 6, 8), image_channels=2, upsampled_channels=3, head_channels=6)
WIDE = UNetSettings(5, (5, 9, 12), image_channels=2, upsampled_channels=5, head_channels=8)
DEEP, WIDE_AND_DEEP = replace(NARROW, head_layers=1), replace(WIDE, head_layers=2)
SHAPE = (12, 16, 14)


def network(kind: str, settings: UNetSettings, seed: int):
    torch.manual_seed(seed)
    net = build_network(kind, settings)
    torch.nn.init.normal_(net.head.weight, std=1.0)
    for module in net.modules():
        if isinstance(module, torch.nn.InstanceNorm3d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    return net


def logits(net, image: torch.Tensor) -> torch.Tensor:
    coordinates = box_coordinate_channels((20, 28, 24), (2, 4, 6), SHAPE)
    return net.logits(net.decoder_head(net.backbone(image, coordinates), image).permute(0, 2, 3, 4, 1))


@pytest.mark.parametrize("kind", ["compact", "residual"])
@pytest.mark.parametrize(("larger", "atol"), [(WIDE, 1e-5), (DEEP, 0.1), (WIDE_AND_DEEP, 0.1)])
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


def test_weights_that_cannot_be_widened_are_refused() -> None:
    narrow, wide = network("compact", NARROW, 0), network("compact", WIDE, 1)
    assert same_tensors(net2net_growth(wide.state_dict(), network("compact", WIDE, 2)), wide.state_dict())
    for other in (narrow, network("residual", WIDE, 0), network("compact", replace(WIDE, outputs=4), 0)):
        with pytest.raises(TrainingError, match="belong to another network"):
            load_weights(other, net2net_growth(wide.state_dict(), other), "the weights")
