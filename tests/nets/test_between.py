"""What makes each kind between 2D and 3D: neighbours, nested skips, scores of views, joined planes, ResNet blocks."""

from __future__ import annotations

import pytest
import torch
from tiny_networks import SHAPE, backbone, tiny
from torch import Tensor, nn
from torch.nn import functional

from slant.errors import SettingsError
from slant.nets import fusion
from slant.nets.layers import Conv3d
from slant.nets.network import MemorySettings
from slant.nets.orthogonal import NestedUNet
from slant.nets.planes import PLANES, SlicewiseSettings
from slant.nets.registry import build_network, settings_of
from slant.nets.resnet import BLOCKS, BottleneckBlock
from slant.nets.unet import ResidualSettings

# Orthogonal


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_the_first_layer_sees_the_neighbours_of_a_slice_as_channels(radius: int) -> None:
    network = NestedUNet(3, (4, 6), "axial", radius)
    layer, x = network.encoders[0][0][0], torch.rand(1, 3, 6, 8, 7)
    padded = functional.pad(x, (radius, radius))
    neighbours = [padded[0, :, :, :, i : i + 7] for i in range(2 * radius + 1)]  # of every slice
    channels = torch.stack(neighbours, dim=1).flatten(0, 1).permute(3, 0, 1, 2)
    weight = layer.weight.permute(0, 1, 4, 2, 3).flatten(1, 2)
    expected = functional.conv2d(channels, weight, padding=1).permute(1, 2, 3, 0)
    torch.testing.assert_close(layer(x)[0], expected)


def test_each_node_joins_all_nodes_before_it_and_the_one_below() -> None:
    """The definition of U-Net++ (Zhou et al. 2018, equation 1), computed by recursion."""
    torch.manual_seed(0)
    network, x = NestedUNet(3, (2, 3, 4, 5), "coronal", 1), torch.rand(1, 3, 9, 4, 11)

    def node(level: int, column: int) -> Tensor:
        if column == 0:
            above = x if level == 0 else functional.max_pool3d(node(level - 1, 0), (2, 1, 2), ceil_mode=True)
            return network.encoders[level](above)
        row = [node(level, before) for before in range(column)]
        lifted = functional.interpolate(node(level + 1, column - 1), scale_factor=(2.0, 1.0, 2.0))
        lifted = lifted[:, :, : row[0].shape[2], :, : row[0].shape[4]]
        return network.nodes[level][column - 1](torch.cat([*row, lifted], dim=1))

    torch.testing.assert_close(network(x, MemorySettings()), node(0, 3))
    assert [len(row) for row in network.nodes] == [3, 2, 1]


# Fusion


@pytest.mark.parametrize("stem", [1, 2])
def test_the_scores_of_a_view_are_the_softmax_of_the_mean_logits_of_each_block(
    stem: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion, "_ROWS", 100)
    network, image = tiny("fusion", stem=stem), torch.rand(1, 1, *SHAPE)
    coordinates = torch.rand(1, 3, *(n // stem for n in SHAPE))
    for plane in PLANES:
        view = network.views[plane]
        nn.init.normal_(view.head.weight, std=3.0)
        features = view.decoder_head(view.backbone(image, coordinates), image)
        logits = functional.avg_pool3d(view.logits(features.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3), stem)
        scores = logits.softmax(dim=1)
        assert scores.amax(dim=1).mean() > 0.4  # they differ
        expected = network.sums[plane](scores.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
        torch.testing.assert_close(network._scores_of(plane)(image, coordinates), expected)


def test_a_fusion_network_takes_over_its_views_and_nothing_else() -> None:
    network, other = tiny("fusion"), tiny("fusion", seed=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    views = {plane: other.views[plane].state_dict() for plane in PLANES}
    assert {p: build_network("slicewise", s).state_dict().keys() for p, s in network.settings.slicewise.items()} == {
        plane: weights.keys() for plane, weights in views.items()
    }
    network.take_over(views)
    for name, value in network.state_dict().items():
        expected = other.state_dict() if name.startswith(network.frozen) else before
        assert torch.equal(value, expected[name]), name
    assert network.frozen == ("views.",)


def test_the_decision_depends_on_each_view() -> None:
    network, image = tiny("fusion"), torch.rand(1, 1, *SHAPE)
    before = backbone(network, image)
    for plane in PLANES:
        nn.init.normal_(network.views[plane].head.weight, std=3.0)
        after = backbone(network, image)
        assert not torch.allclose(after, before)
        before = after


# Adapted


def test_the_features_of_the_planes_are_added_to_those_of_the_3d_network() -> None:
    network, image = tiny("adapted"), torch.rand(1, 1, *SHAPE)
    coordinates = torch.rand(1, 3, *(n // 2 for n in SHAPE))
    inputs = network.inputs(image, coordinates, None)
    joined = network.run_levels(inputs, network.memory)
    for plane in PLANES:
        features = network.planes[plane].run_levels(inputs, network.memory)
        assert features.shape[1] == network.settings.slice_widths[0]
        joined = joined + network.adapt[plane](features)
    torch.testing.assert_close(network.backbone(image, coordinates), network.join(joined))


# ResNet encoders


@pytest.mark.parametrize(("name", "layers"), [("resnet10", 8), ("resnet18", 16), ("resnet34", 32), ("resnet50", 48)])
def test_a_resnet_encoder_has_the_layers_of_its_name(name: str, layers: int) -> None:
    """The name counts the convolutions of the blocks, the first convolution and the classifier."""
    network = tiny("residual", widths=[8, 8, 16, 16], encoder=name)
    convolutions = [m for m in network.encoders.modules() if isinstance(m, Conv3d)]
    shortcuts = [m for key, m in network.encoders.named_modules() if key.endswith("shortcut") and isinstance(m, Conv3d)]
    assert len(convolutions) - len(shortcuts) == layers == int(name.removeprefix("resnet")) - 2
    assert tuple(len(level) for level in network.encoders) == BLOCKS[name]
    bottlenecks = [m for m in network.modules() if isinstance(m, BottleneckBlock)]
    assert bool(bottlenecks) == (name == "resnet50")
    assert all(block.first[0].out_channels * 4 == block.expand[0].out_channels for block in bottlenecks)


def test_resnet10_is_the_default_encoder_with_four_levels() -> None:
    plain, named = (tiny("residual", widths=[4, 6, 8, 8], encoder=name) for name in (None, "resnet10"))
    weights = {name.replace("encoders.", "encoders.", 1): value for name, value in plain.state_dict().items()}
    renamed = {
        ".".join([*name.split(".")[:2], "0", *name.split(".")[2:]]) if name.startswith("encoders.") else name: value
        for name, value in weights.items()
    }
    named.load_state_dict(renamed)
    image = torch.rand(1, 1, *SHAPE)
    torch.testing.assert_close(backbone(named, image), backbone(plain, image))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("anisotropc", {}, "did you mean 'anisotropic'"),
        ("slicwise", {}, "did you mean 'slicewise'"),
        (
            "anisotropic",
            {"plane": "axal"},
            "plane is 'axal' .did you mean 'axial'.., expected .*'sagittal' or 'coronal'",
        ),
        ("residual", {"encoder": "resnet8"}, "encoder is 'resnet8' .did you mean 'resnet"),
        (
            "residual",
            {"encoder": "resnet18", "widths": [4, 6]},
            r"'resnet18' has 4 levels; .* as many widths, found \[4, 6\]",
        ),
        ("compact", {"encoder": "resnet18"}, "unknown key 'encoder'"),
        ("orthogonal", {"slice_radius": -1}, "slice_radius must be at least 0, found -1"),
        ("orthogonal", {"radius": 1}, "unknown key 'radius' .did you mean 'slice_radius'"),
        ("adapted", {"slice_widths": []}, r"slice_widths of a network must be positive integers, found \[\]"),
        ("fusion", {"score_channels": 0}, r"score_channels of a network must be positive integers, found \[0\]"),
        ("fusion", {"slice_widths": [4, 0]}, r"slice_widths of a network .* found \[4, 0\]"),
        (
            "fusion",
            {"earlier_channels": 2},
            "no result of an earlier assembly, found earlier_channels = 2; set it to 0",
        ),
    ],
)
def test_impossible_settings_name_the_nearest_possible_ones(kind: str, values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings_of(kind, {"outputs": 5, **values})


def test_impossible_settings_are_refused_in_python_too() -> None:
    with pytest.raises(SettingsError, match="plane must be sagittal, coronal, axial, found 'axal'"):
        SlicewiseSettings(5, plane="axal")
    with pytest.raises(SettingsError, match=r"encoder must be resnet10, .* or none, found 'resnet8'"):
        ResidualSettings(5, encoder="resnet8")
