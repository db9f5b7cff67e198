"""The compact network, its prior, inference over tiles, and model folders on disk."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from slant.errors import DeviceError, ModelError
from slant.nets.device import choose_device, has_fast_bfloat16, inference_dtype
from slant.nets.layers import depth_to_space, space_to_depth
from slant.nets.predict import FOREGROUND_MARGIN, Predictor, label_tile, tile_votes
from slant.nets.prior import FLOOR, Prior, interpolation_matrix, quantize
from slant.nets.unet import CompactUNet, box_coordinate_channels
from slant.nets.voxel_head import UNetSettings
from slant.nets.weights import MANIFEST, WEIGHTS, read_model, write_model
from slant.tiles import TileLayout
from slant.vote import VoteCounter

LAYOUT = TileLayout((20, 28, 24), (12, 16, 14), (2, 2, 2))
SETTINGS = UNetSettings(5, (4, 6, 8))


def random_network(seed: int = 0) -> CompactUNet:
    torch.manual_seed(seed)
    network = CompactUNet(SETTINGS)
    torch.nn.init.normal_(network.head.weight, std=2.0)
    return network.requires_grad_(False)


def random_prior(seed: int = 0) -> Prior:
    rng = np.random.default_rng(seed)
    return Prior(quantize(rng.dirichlet(np.ones(5), size=(5, 7, 6))), LAYOUT.shape)


def random_image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(LAYOUT.shape, dtype=np.float32)


def votes(threads: int) -> dict[str, np.ndarray]:
    network = random_network()
    predictor = Predictor(LAYOUT, random_prior(), lambda _: network)
    return {t.name: v for t, (v,) in tile_votes(predictor, random_image(), torch.device("cpu"), threads)}


def test_space_to_depth_turns_blocks_into_channels_and_depth_to_space_is_its_inverse() -> None:
    image = torch.arange(2 * 4 * 6 * 8, dtype=torch.float32).reshape(1, 2, 4, 6, 8)
    channels = space_to_depth(image)
    assert channels.shape == (1, 16, 2, 3, 4)
    assert set(channels[0, :8, 1, 2, 3].tolist()) == set(image[0, 0, 2:4, 4:6, 6:8].flatten().tolist())
    back = depth_to_space(torch.arange(16.0).reshape(1, 16, 1, 1, 1))
    assert back[0, 0].flatten().tolist() == list(range(8))


def test_coordinate_channels_of_a_tile_are_a_part_of_those_of_the_whole_grid() -> None:
    whole = box_coordinate_channels((20, 28, 24), (0, 0, 0), (20, 28, 24))
    part = box_coordinate_channels((20, 28, 24), (4, 6, 8), (12, 16, 14))
    assert torch.allclose(whole[:, :, 2:8, 3:11, 4:11], part)
    assert whole.abs().max() < 1


@pytest.mark.parametrize("shape", [(12, 16, 14), (10, 22, 18)])
def test_features_have_the_shape_of_the_image_also_for_odd_levels(shape: tuple[int, int, int]) -> None:
    network, image = random_network(), torch.rand(1, 1, *shape)
    features = network.decoder_head(network.backbone(image, box_coordinate_channels(shape, (0, 0, 0), shape)), image)
    assert features.shape == (1, SETTINGS.head_channels, *shape)
    assert network.logits(features[0].permute(1, 2, 3, 0)).shape == (*shape, 5)


def test_interpolation_weights_sum_to_one_and_select_a_cell_at_its_centre() -> None:
    weights = interpolation_matrix(0, 20, 5)
    assert torch.allclose(weights.sum(dim=1), torch.ones(20))
    assert torch.allclose(weights[[1, 2]].mean(dim=0), torch.tensor([1.0, 0, 0, 0, 0]), atol=0.07)
    assert weights[0].tolist() == [1, 0, 0, 0, 0]
    assert torch.allclose(weights[4:12], interpolation_matrix(4, 8, 5))


def test_quantization_error_is_at_most_half_a_step() -> None:
    frequency = np.geomspace(FLOOR, 1, 50).reshape(1, 1, 1, 50)
    prior = Prior(quantize(frequency), (4, 4, 4))
    logs = prior.log_frequency_at((slice(None),) * 3, np.arange(50)).numpy()
    assert np.abs(logs - np.log(frequency)).max() <= -np.log(FLOOR) / 255 / 2 + 1e-6


def test_possible_channels_are_those_found_near_a_tile() -> None:
    steps = np.zeros((5, 7, 6, 5), np.uint8)
    steps[0, 0, 0, 3] = 9
    prior = Prior(steps, LAYOUT.shape)
    assert prior.possible((0, 0, 0), (8, 8, 8)).tolist() == [0, 3]
    assert prior.possible((16, 20, 20), (20, 28, 24)).tolist() == [0]


def test_prior_of_another_grid_is_refused() -> None:
    with pytest.raises(ModelError, match="needs uint8 cells"):
        Prior(np.zeros((5, 7, 5, 5), np.uint8), LAYOUT.shape)


def test_the_prior_of_a_tile_is_a_part_of_the_interpolated_prior() -> None:
    prior, channels = random_prior(), np.array([0, 2, 4])
    logs = prior.log_frequency_at((slice(None),) * 3, channels)
    x, y, z = (interpolation_matrix(0, n, c) for n, c in zip(LAYOUT.shape, (5, 7, 6), strict=True))
    whole = torch.einsum("ijkc,xi,yj,zk->xyzc", logs, x, y, z)
    for tile in LAYOUT:
        found = prior.of_box(tile.box, channels, torch.device("cpu"))
        assert torch.allclose(found, whole[tile.box], atol=1e-5), tile.name


def test_votes_do_not_depend_on_the_number_of_threads() -> None:
    one, two = votes(1), votes(3)
    assert set(one) == {tile.name for tile in LAYOUT}
    for name, labels in one.items():
        assert labels.shape == LAYOUT.size
        assert labels.tobytes() == two[name].tobytes()
    assert len(np.unique(np.stack(list(one.values())))) > 2


@pytest.mark.parametrize("box", [((0, 12), (0, 16), (0, 14)), ((3, 8), (1, 16), (5, 6)), ((0, 1), (7, 10), (13, 14))])
def test_a_region_of_a_tile_has_the_labels_of_the_whole_tile(box: tuple[tuple[int, int], ...]) -> None:
    network, tile = random_network(), LAYOUT.tiles[5]
    predictor = Predictor(LAYOUT, random_prior(), lambda _: network)
    x, y, z = (slice(*span) for span in box)
    whole = label_tile(predictor, tile, random_image(), torch.device("cpu"))
    part = label_tile(predictor, tile, random_image(), torch.device("cpu"), (x, y, z))
    np.testing.assert_array_equal(part[x, y, z], whole[x, y, z])
    assert whole[x, y, z].any()
    part[x, y, z] = 0
    assert not part.any()


def test_everything_far_from_non_zero_voxels_is_background() -> None:
    network = random_network()
    torch.nn.init.constant_(network.head.bias, 5.0)
    network.head.bias[0] = -50.0
    layout = TileLayout((40, 28, 24), (40, 28, 24), (1, 1, 1))
    prior = Prior(np.full((10, 7, 6, 5), 128, np.uint8), layout.shape)
    image = np.zeros(layout.shape, np.float32)
    predictor = Predictor(layout, prior, lambda _: network)
    assert not label_tile(predictor, layout.tiles[0], image, torch.device("cpu")).any()
    image[:10, :14, :12] = 1
    labels = label_tile(predictor, layout.tiles[0], image, torch.device("cpu"))
    assert labels[: 10 + FOREGROUND_MARGIN, : 14 + FOREGROUND_MARGIN, : 12 + FOREGROUND_MARGIN].all()
    assert not labels[10 + FOREGROUND_MARGIN :].any()
    assert not labels[:, 14 + FOREGROUND_MARGIN :].any()


def test_a_network_shared_by_tiles_is_moved_to_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving weights while another thread used them gave different labels once in a hundred runs."""
    moved: list[CompactUNet] = []
    monkeypatch.setattr("slant.nets.predict.channels_last", lambda network: moved.append(network) or network)
    assert len(votes(3)) == len(LAYOUT)
    assert len(moved) == 1


@pytest.mark.skipif(not has_fast_bfloat16(), reason="this CPU has no instructions for bfloat16")
def test_bfloat16_changes_few_labels_and_leaves_the_networks_unchanged() -> None:
    network = random_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    predictor = Predictor(LAYOUT, random_prior(), lambda _: network)
    half = replace(predictor, dtype=torch.bfloat16)
    for tile in LAYOUT:
        exact, found = (label_tile(each, tile, random_image(), torch.device("cpu")) for each in (predictor, half))
        assert 0 < np.mean(exact != found) < 0.05
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_bfloat16_is_refused_on_a_cpu_without_its_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slant.nets.device.has_fast_bfloat16", lambda: False)
    assert inference_dtype("float32", torch.device("cpu")) == torch.float32
    with pytest.raises(DeviceError, match=r"neither AVX512-BF16 nor AMX.*use --precision float32"):
        inference_dtype("bfloat16", torch.device("cpu"))


def test_a_gpu_chooses_its_precision_itself() -> None:
    assert inference_dtype("bfloat16", torch.device("cuda")) == torch.float32


def test_tiles_of_odd_size_are_labelled_completely() -> None:
    layout = TileLayout((20, 28, 24), (11, 16, 13), (2, 2, 2))
    network = random_network()
    counter = VoteCounter(layout)
    for tile, (labels,) in tile_votes(
        Predictor(layout, random_prior(), lambda _: network), random_image(), torch.device("cpu"), 1
    ):
        counter.aggregate(labels, tile)
    assert counter.finalize().shape == (20, 28, 24)


@pytest.mark.parametrize(("name", "message"), [("cuda:99", "visible"), ("tpu", "device"), ("vulkan", "not supported")])
def test_unavailable_devices_are_refused(name: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        choose_device(name)


@pytest.fixture
def model_folder(tmp_path):
    manifest = {
        "name": "toy",
        "layout": {"shape": [20, 28, 24], "size": [12, 16, 14], "counts": [2, 2, 2], "overlap": "vote"},
        "network": {"kind": "compact", "settings": SETTINGS.as_dict()},
    }
    networks = {tile.name: random_network(i).state_dict() for i, tile in enumerate(LAYOUT)}
    write_model(tmp_path / "toy", [networks.items()], random_prior(), manifest)
    return tmp_path / "toy"


def test_a_model_is_stored_in_half_precision(model_folder) -> None:
    model = read_model(model_folder)
    assert model.assemblies[0].layout == LAYOUT
    assert model.assemblies[0].settings == SETTINGS
    assert np.array_equal(model.prior.steps, random_prior().steps)
    for i, tile in enumerate(LAYOUT):
        stored = model.network(tile.name).state_dict()
        for name, value in random_network(i).state_dict().items():
            assert torch.allclose(stored[name], value, rtol=1e-3, atol=1e-6), name


def test_tensors_shared_by_all_tiles_are_stored_once(model_folder) -> None:
    manifest = json.loads((model_folder / MANIFEST).read_text())
    networks = {tile.name: random_network(i).state_dict() for i, tile in enumerate(LAYOUT)}
    deep = [name for name in networks["1_1_1"] if name.startswith("encoders.2")]
    for state in networks.values():
        state |= {name: networks["1_1_1"][name] for name in deep}
    before = (model_folder / WEIGHTS).stat().st_size
    write_model(model_folder, [networks.items()], random_prior(), manifest)
    model = read_model(model_folder)
    assert not model.shared()
    saved = 2 * sum(networks["1_1_1"][name].numel() for name in deep) * (len(LAYOUT) - 1)
    assert (model_folder / WEIGHTS).stat().st_size < before - saved
    for tile in LAYOUT:
        stored = model.network(tile.name).state_dict()
        assert list(stored) == list(networks[tile.name])
        for name, value in networks[tile.name].items():
            assert torch.allclose(stored[name], value, rtol=1e-3, atol=1e-6), name


def test_one_network_for_all_tiles_is_detected(model_folder) -> None:
    manifest = json.loads((model_folder / MANIFEST).read_text())
    assert not read_model(model_folder).shared()
    networks = [(tile.name, random_network().state_dict()) for tile in LAYOUT]
    write_model(model_folder, [networks], random_prior(), manifest)
    assert read_model(model_folder).shared()


def test_the_identity_of_a_model_changes_with_its_weights(model_folder) -> None:
    before = read_model(model_folder).identity
    networks = {tile.name: random_network(9).state_dict() for tile in LAYOUT}
    manifest = json.loads((model_folder / MANIFEST).read_text())
    write_model(model_folder, [networks.items()], random_prior(), manifest)
    assert read_model(model_folder).identity != before


def test_damaged_weights_are_refused(model_folder) -> None:
    data = bytearray((model_folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (model_folder / WEIGHTS).write_bytes(data)
    with pytest.raises(ModelError, match="damaged"):
        read_model(model_folder)


def test_a_folder_without_a_model_is_refused_with_the_missing_file(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"no manifest\.json"):
        read_model(tmp_path)


def test_the_first_missing_and_unexpected_tensors_are_named(model_folder) -> None:
    manifest = json.loads((model_folder / MANIFEST).read_text())
    networks = {tile.name: random_network(i).state_dict() for i, tile in enumerate(LAYOUT)}
    networks["9_9_9"] = networks.pop("1_1_1")
    write_model(model_folder, [networks.items()], random_prior(), manifest)
    with pytest.raises(ModelError, match=r"missing tensors: \['1_1_1/.*unexpected: \['9_9_9/"):
        read_model(model_folder)
    with pytest.raises(ModelError) as caught:
        read_model(model_folder)
    assert str(caught.value).count("1_1_1/") == 5
    assert "more; unexpected" in str(caught.value)


def test_a_manifest_that_is_not_json_is_refused(model_folder) -> None:
    (model_folder / MANIFEST).write_text("{")
    with pytest.raises(ModelError, match="cannot be used"):
        read_model(model_folder)
