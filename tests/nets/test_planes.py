"""Networks on slices: they are 2D networks, and a network across slices starts with the function of its 2D parent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_networks import SHAPE, backbone, tiny, voxel_features
from torch import Tensor, nn
from torch.nn import functional

from slant.nets.network import Network
from slant.nets.planes import PLANES, Plane, kernel_in

BETWEEN = ["slicewise", "anisotropic", "orthogonal", "adapted", "fusion"]
ORDER: dict[Plane, tuple[int, int, int]] = {"sagittal": (1, 2, 0), "coronal": (0, 2, 1), "axial": (0, 1, 2)}
"""Axes of the volume in the slices of each plane, and its normal."""


def random_norms(network: Network) -> Network:
    """The network with other than the initial weights of its normalization and of its zero layers."""
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 or "across" in name or "refine" in name:
            nn.init.normal_(parameter, 1.0 if "weight" in name and parameter.ndim == 1 else 0.0, 0.3)
    return network


def rectified(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.01)


def logits_of_2d_network(weights: dict[str, Tensor], image: Tensor, coordinates: Tensor, plane: Plane) -> Tensor:
    """Logits (S, outputs, A, B) of a 2D residual U-Net with three levels, in which a batch norm sees the stack.

    The image and the coordinates are (S, C, A, B) stacks of the S slices of a plane.
    """

    def kernel(name: str) -> Tensor:
        return weights[name].squeeze(2 + PLANES.index(plane))

    def conv(name: str, x: Tensor) -> Tensor:
        return functional.conv2d(x, kernel(f"{name}.weight"), weights.get(f"{name}.bias"), padding="same")

    def block(name: str, x: Tensor) -> Tensor:
        gain, shift = weights[f"{name}.1.weight"], weights[f"{name}.1.bias"]
        return functional.batch_norm(conv(f"{name}.0", x), None, None, gain, shift, training=True)

    def encoder(name: str, x: Tensor) -> Tensor:
        shortcut = conv(f"{name}.shortcut", x) if f"{name}.shortcut.weight" in weights else x
        return rectified(block(f"{name}.second", rectified(block(f"{name}.first", x))) + shortcut)

    x, skips = torch.cat([image, coordinates], dim=1), []
    for level in range(3):
        x = encoder(f"encoders.{level}", functional.max_pool2d(x, 2, ceil_mode=True) if level else x)
        skips.append(x)
    for level in (1, 0):
        height, width = skips[level].shape[2:]
        lifted = functional.interpolate(conv(f"lifts.{level}", x), scale_factor=2.0)[:, :, :height, :width]
        x = rectified(block(f"decoders.{level}", skips[level] + lifted))
    both = torch.cat([conv("unfold", x), rectified(conv("detail", image))], dim=1)
    mixed = rectified(conv("mix", both))
    return torch.einsum("sfab,cf->scab", mixed, weights["head.weight"]) + weights["head.bias"][:, None, None]


def of_volume(network: Network, image: Tensor, coordinates: Tensor) -> Tensor:
    """Logits (X, Y, Z, outputs) of a (1, 1, X, Y, Z) image."""
    features = network.decoder_head(network.backbone(image, coordinates), image)
    return network.logits(features[0].permute(1, 2, 3, 0))


@pytest.mark.parametrize("slices", [1, 5])
@pytest.mark.parametrize("plane", PLANES)
def test_a_stack_of_slices_is_labelled_by_a_2d_network(plane: Plane, slices: int) -> None:
    network = random_norms(tiny("slicewise", plane=plane, stem=1))
    a, b, normal = ORDER[plane]
    image, coordinates = torch.rand(slices, 1, 6, 9), torch.rand(slices, 3, 6, 9)
    expected = logits_of_2d_network(dict(network.named_parameters()), image, coordinates, plane)

    def volume(stack: Tensor) -> Tensor:
        """(1, C, X, Y, Z) volume of a (S, C, A, B) stack."""
        axes = [2 + [a, b, normal].index(axis) for axis in range(3)]
        return stack.permute(1, 2, 3, 0)[None].permute(0, 1, *axes)

    found = of_volume(network, volume(image), volume(coordinates)).permute(normal, 3, a, b)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(
    "changes", [{}, {"stem": 1}, {"widths": [4, 6, 8, 8], "encoder": "resnet18"}, {"head_layers": 1}]
)
def test_an_anisotropic_network_starts_with_the_function_of_its_2d_parent(
    plane: Plane, changes: dict[str, Any]
) -> None:
    network = random_norms(tiny("anisotropic", seed=1, plane=plane, **changes))
    parent = random_norms(tiny("slicewise", seed=2, plane=plane, **changes))
    assert network.settings.slicewise == {plane: parent.settings}
    stack = (24, 32, 24)
    for size in (stack, tuple(2 if axis == ORDER[plane][2] else n for axis, n in enumerate(stack))):
        image = torch.rand(1, 1, *size)
        expected = voxel_features(parent, image)
        assert not torch.allclose(voxel_features(network, image), expected, rtol=1e-2)
        network.take_over({plane: parent.state_dict()})
        torch.testing.assert_close(voxel_features(network, image), expected)
        random_norms(network)
    assert network.mix.weight.shape[2:] == (3, 3, 3)
    assert parent.mix.weight.shape[2:] == kernel_in(plane)


def test_convolutions_across_the_slices_join_them() -> None:
    image = torch.rand(1, 1, *SHAPE, requires_grad=True)
    seen = {}
    for kind in ("slicewise", "anisotropic"):
        network = random_norms(tiny(kind)).eval()
        for module in network.modules():
            if isinstance(module, nn.InstanceNorm3d):  # its statistics see all slices
                module.forward = lambda x: x
        (gradient,) = torch.autograd.grad(voxel_features(network, image)[:, :, 8].sum(), image)
        seen[kind] = torch.nonzero(gradient[0, 0].abs().sum(dim=(0, 1))).flatten().tolist()
    assert seen["slicewise"] == [8, 9]  # the slab of two slices
    assert set(range(2, 14)) <= set(seen["anisotropic"])


def test_only_kinds_with_2d_parents_take_weights_over() -> None:
    for kind in ("residual", "orthogonal", "slicewise"):
        assert not tiny(kind).settings.slicewise
        with pytest.raises(ValueError, match="takes over no weights of 2D networks"):
            tiny(kind).take_over({})


# All kinds between 2D and 3D


@pytest.mark.parametrize("kind", [*BETWEEN, "residual"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_network_of_mirrored_kernels_gives_the_mirrored_features_of_the_mirrored_image(kind: str, axis: int) -> None:
    network, image = random_norms(tiny(kind, stem=1)), torch.rand(1, 1, *SHAPE)
    coordinates = torch.rand(1, 3, *SHAPE)
    expected = of_volume(network, image, coordinates)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 5:
                parameter.copy_(parameter.flip(2 + axis))
    found = of_volume(network, image.flip(2 + axis), coordinates.flip(2 + axis))
    torch.testing.assert_close(found.flip(axis), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", BETWEEN)
def test_every_layer_of_a_network_is_trained(kind: str) -> None:
    network = random_norms(tiny(kind))
    network.logits(voxel_features(network, torch.rand(1, 1, *SHAPE))).square().sum().backward()
    unused = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert {name.split(".")[0] for name in unused} <= {"heads"}
    zero = {n for n, p in network.named_parameters() if p.grad is not None and not p.grad.any()}
    assert not {name for name in zero if not name.endswith("bias")}


@pytest.mark.parametrize("kind", BETWEEN)
def test_an_image_of_odd_size_has_features_everywhere(kind: str) -> None:
    network = tiny(kind, stem=1)
    assert backbone(network, torch.rand(1, 1, 7, 9, 11)).shape[2:] == (7, 9, 11)
