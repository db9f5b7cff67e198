"""All kinds of networks: common behaviour, registry, the original network, and memory in training."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from tiny_networks import LAYOUT, ORIGINAL, SHAPE, TINY, VARIANTS, backbone, tiny, voxel_features
from torch import Tensor, nn
from torch.nn import functional

from slant.errors import SettingsError
from slant.nets.layers import fast_inference
from slant.nets.network import MemorySettings, Network, NetworkSettings
from slant.nets.predict import Predictor, label_tile, tile_votes
from slant.nets.prior import Prior
from slant.nets.registry import KINDS, build_network, settings_of
from slant.nets.voxel_head import UNetSettings
from slant.tiles import TileLayout


@pytest.fixture(params=VARIANTS)
def network(request: pytest.FixtureRequest) -> Network:
    kind, settings = VARIANTS[request.param]
    network = tiny(kind, **settings)
    for name, parameter in network.named_parameters():
        if name.startswith("refine"):
            nn.init.normal_(parameter, std=0.1)
    return network


# All kinds


def test_each_kind_returns_one_logit_per_region_and_voxel(network: Network) -> None:
    features = voxel_features(network, torch.rand(1, 1, *SHAPE))
    assert network.logits(features).shape == (*SHAPE, 5)
    assert (network.halo % network.stride, network.multiple % network.stride) == (0, 0)
    assert (network.stride, network.multiple) == (network.settings.stride, network.settings.multiple)


def test_logits_of_selected_channels_agree_with_all_logits(network: Network) -> None:
    features = voxel_features(network, torch.rand(1, 1, *SHAPE)).flatten(0, 2).detach()
    channels = torch.tensor([0, 2, 4])
    expected = network.logits(features)[:, channels]
    torch.testing.assert_close(network.logits_of(features, channels), expected)
    prior = torch.rand(len(features), 3)
    torch.testing.assert_close(network.logits_of(features, channels, prior.clone()), prior + expected)


def test_the_decoder_head_on_a_box_with_halo_agrees_with_the_whole_image(network: Network) -> None:
    image, r, s = torch.rand(1, 1, *SHAPE), network.halo, network.stride
    features = backbone(network, image)
    whole = network.decoder_head(features, image)[:, :, 4:12, 8:16, 4:12]
    box = [slice(a - r, b + r) for a, b in ((4, 12), (8, 16), (4, 12))]
    near = features[:, :, *(slice(part.start // s, part.stop // s) for part in box)]
    part = network.decoder_head(near, image[:, :, *box])[:, :, r : r + 8, r : r + 8, r : r + 8]
    torch.testing.assert_close(part, whole)
    torch.testing.assert_close(network.inner_head(near, image[:, :, *box]), whole)


def test_inference_agrees_with_the_forward_pass_of_training(network: Network) -> None:
    """Inference takes other ways through convolutions and normalization."""
    image = torch.rand(1, 1, *SHAPE)
    expected = voxel_features(network, image)
    with torch.inference_mode():
        torch.testing.assert_close(voxel_features(network, image), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_inference_takes_the_faster_ways_through_the_layers(dtype: torch.dtype) -> None:
    x = torch.ones(1, dtype=dtype)
    assert not fast_inference(x)
    with torch.inference_mode():
        assert fast_inference(x) == torch.backends.mkldnn.is_available()
        assert not fast_inference(x.double())
        assert not fast_inference(x.to("meta"))


@pytest.mark.parametrize(
    "memory",
    [MemorySettings(gradient_checkpointing=True), MemorySettings(offload_activations=True), MemorySettings(True, True)],
)
def test_gradients_are_identical_with_less_memory(network: Network, memory: MemorySettings) -> None:
    names = list(network.state_dict())
    image, weight = torch.rand(1, 1, *SHAPE), torch.rand(*SHAPE, 5)

    def step() -> tuple[Tensor, list[Tensor | None]]:
        network.zero_grad()
        loss = (network.logits(voxel_features(network, image)) * weight).sum()
        loss.backward()
        return loss.detach(), [None if p.grad is None else p.grad.clone() for p in network.parameters()]

    loss, gradients = step()
    network.memory = memory
    other_loss, others = step()
    assert torch.equal(loss, other_loss)
    for name, one, other in zip(names, gradients, others, strict=True):
        assert (one is None and other is None) or torch.equal(one, other), name
    assert sum(one is not None for one in gradients) > len(names) // 2
    assert list(network.state_dict()) == names


def test_gradient_checkpointing_stores_fewer_activations(network: Network) -> None:
    image, stored = torch.rand(1, 1, *SHAPE), {}
    for memory in (MemorySettings(), MemorySettings(gradient_checkpointing=True)):
        network.memory, sizes = memory, {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.update({t.data_ptr(): t.numel()}), t)[1], lambda t: t
        ):
            output = voxel_features(network, image)
        stored[memory.gradient_checkpointing] = sum(sizes.values())
        del output
    assert stored[True] < stored[False] / 2


# The registry


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            "compct",
            {"outputs": 5},
            "unknown kind of network 'compct' .did you mean 'compact'.*known kinds: compact, resi",
        ),
        ("nothing", {}, "unknown kind of network 'nothing'; known kinds"),
        ("compact", {"outputs": 5, "width": [4]}, "unknown key 'width' .did you mean 'widths'.."),
        ("slant2018", {"tasks": {"brain": 2}}, "unknown key 'tasks'"),
        ("compact", {}, "outputs"),
        ("compact", {"outputs": "5"}, "outputs"),
        ("compact", {"outputs": 0}, r"outputs of a network must be positive integers, found \[0\]"),
        ("residual", {"outputs": 5, "widths": []}, "widths of a network"),
        ("residual", {"outputs": 5, "widths": [4, -1]}, r"widths of a network .* found \[4, -1\]"),
        ("slant2018", {"widths": [2, 4]}, r"must be 5 numbers, found \[2, 4\]"),
        ("residual", {"outputs": 5, "stem": 4}, "stem must be 2 .blocks .* or 1 .no blocks., found 4"),
        ("compact", {"outputs": 5, "stem": 0}, "stem must be 2 .* found 0"),
        ("compact", {"outputs": 5, "earlier_channels": -1}, "earlier_channels must be at least 0, found -1"),
        ("slant2018", {"stem": 1}, "unknown key 'stem'"),
        ("compact", {"outputs": 5, "tasks": {"brain": 1}}, "task 'brain' has 1 classes"),
        ("compact", {"outputs": 5, "tasks": {"keys": 2}}, "cannot be called 'keys'"),
        ("compact", {"outputs": 5, "tasks": {"a.b": 2}}, "cannot be called 'a.b'"),
    ],
)
def test_invalid_settings_are_named(kind: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings_of(kind, values)


@pytest.mark.parametrize("variant", VARIANTS)
def test_settings_survive_conversion_to_plain_values(variant: str) -> None:
    kind, changed = VARIANTS[variant]
    settings = settings_of(kind, {**TINY[kind], **changed})
    plain = json.loads(json.dumps(settings.as_dict()))
    assert settings_of(kind, plain) == settings
    assert plain.items() >= changed.items()


def test_settings_that_older_manifests_lack_are_omitted_if_they_have_their_defaults() -> None:
    """So that manifests, and with them the identities of models, stay the same."""
    older = {"outputs", "widths", "image_channels", "head_channels", "tasks", "upsampled_channels", "head_layers"}
    assert set(UNetSettings(5).as_dict()) == older
    assert set(UNetSettings(5, stem=1, earlier_channels=2).as_dict()) == older | {"stem", "earlier_channels"}


def test_settings_of_another_kind_are_refused() -> None:
    with pytest.raises(SettingsError, match="'slant2018' network needs Slant2018Settings, found UNetSettings"):
        build_network("slant2018", UNetSettings(5))
    with pytest.raises(SettingsError, match="'compact' network needs UNetSettings, found NetworkSettings"):
        build_network("compact", NetworkSettings(5))


# The original


def test_the_original_network_has_the_published_parameters_and_names() -> None:
    with torch.device("meta"):
        network = build_network("slant2018", settings_of("slant2018", {"outputs": 133}))
    assert sum(p.numel() for p in network.parameters()) == 19_920_783
    encoders = [f"ec{i}.{j}.{part}" for i in range(8) for j in (0, 1) for part in ("weight", "bias")]
    decoders = [f"dc{i}.0.{part}" for i in range(9, -1, -1) for part in ("weight", "bias")]
    assert list(network.state_dict()) == encoders + decoders
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["dc8.0.weight"] == (768, 256, 3, 3, 3)
    assert shapes["dc3.0.weight"] == (133, 133, 2, 2, 2)
    assert shapes["dc0.0.weight"] == (64, 133, 1, 1, 1)


def original_forward(weights: dict[str, Tensor], image: Tensor) -> Tensor:
    """The computation of the released code in train mode, for a (1, 1, Z, X, Y) image."""

    def ec(i: int, x: Tensor) -> Tensor:
        x = functional.conv3d(x, weights[f"ec{i}.0.weight"], weights[f"ec{i}.0.bias"], padding=1)
        mean, var = x.mean(dim=(0, 2, 3, 4), keepdim=True), x.var(dim=(0, 2, 3, 4), unbiased=False, keepdim=True)
        gain, shift = (weights[f"ec{i}.1.{part}"].reshape(1, -1, 1, 1, 1) for part in ("weight", "bias"))
        return functional.relu((x - mean) / (var + 1e-5).sqrt() * gain + shift)

    def dc(i: int, x: Tensor) -> Tensor:
        weight, bias = weights[f"dc{i}.0.weight"], weights[f"dc{i}.0.bias"]
        stride, padding = (2, 0) if weight.shape[2] == 2 else (1, 1)
        return functional.relu(functional.conv_transpose3d(x, weight, bias, stride, padding))

    syn0 = ec(1, ec(0, image))
    syn1 = ec(3, ec(2, functional.max_pool3d(syn0, 2)))
    syn2 = ec(5, ec(4, functional.max_pool3d(syn1, 2)))
    e7 = ec(7, ec(6, functional.max_pool3d(syn2, 2)))
    d7 = dc(7, dc(8, torch.cat([dc(9, e7), syn2], 1)))
    d4 = dc(4, dc(5, torch.cat([dc(6, d7), syn1], 1)))
    return dc(1, dc(2, torch.cat([dc(3, d4), syn0], 1)))


@pytest.mark.parametrize("training", [True, False])
def test_the_original_network_agrees_with_the_released_code(training: bool) -> None:
    network, image = tiny("slant2018").train(training), torch.rand(1, 1, *SHAPE) * 255
    for name, value in network.named_parameters():
        if ".1." in name:
            nn.init.uniform_(value, 0.5, 1.5)
    expected = original_forward(dict(network.named_parameters()), image)
    torch.testing.assert_close(voxel_features(network, image), expected[0].permute(1, 2, 3, 0))
    assert expected.min() == 0


def test_tiles_of_the_original_are_rescaled_and_transposed_as_by_its_loader() -> None:
    network, tile = tiny("slant2018"), LAYOUT.tiles[3]
    image = np.random.default_rng(0).normal(3, 2, LAYOUT.shape).astype(np.float32)
    part = image[tile.box]
    loaded = np.transpose((part - part.min()) / (part.max() - part.min()) * 255, (2, 0, 1))
    with torch.no_grad():
        expected = original_forward(network.state_dict(), torch.from_numpy(loaded.copy())[None, None]).argmax(dim=1)[0]
    predictor = Predictor(LAYOUT, None, lambda _: network.requires_grad_(False), ORIGINAL)
    labels = label_tile(predictor, tile, image, torch.device("cpu"))
    np.testing.assert_array_equal(labels, expected.permute(1, 2, 0).numpy())
    assert len(np.unique(labels)) > 1


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_votes_of_odd_tiles_do_not_depend_on_the_number_of_threads(kind: str) -> None:
    layout = TileLayout((20, 28, 24), (13, 17, 15), (2, 2, 2))
    network = tiny(kind).requires_grad_(False)
    prior = Prior(np.random.default_rng(0).integers(0, 255, (5, 7, 6, 5), dtype=np.uint8), layout.shape)
    predictor = Predictor(layout, prior if network.prior else None, lambda _: network, ORIGINAL)
    image = np.random.default_rng(1).random(layout.shape, dtype=np.float32)
    one, two = (
        {tile.name: votes for tile, (votes,) in tile_votes(predictor, image, torch.device("cpu"), threads)}
        for threads in (1, 2)
    )
    assert {votes.shape for votes in one.values()} == {layout.size}
    assert all(votes.tobytes() == two[name].tobytes() for name, votes in one.items())
