"""The deformable atlas prior consists of the votes of the groupwise template at deformed coordinates."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from slant.errors import ModelError
from slant.grid import axis_aligned_grid
from slant.nets.groupwise import GroupwiseTemplate, deform, displacement_at, votes_at
from slant.nets.mirroring import Mirroring
from slant.nets.predict import Predictor, label_tile
from slant.nets.prior import FLOOR, Prior, quantize
from slant.nets.unet import CompactUNet, box_coordinate_channels
from slant.nets.voxel_head import UNetSettings
from slant.tiles import TileLayout
from slant.volume import Volume

SHAPE = (7, 8, 9)
FINE = tuple(2 * n for n in SHAPE)
CHANNELS = 4
CPU = torch.device("cpu")


def template(votes: np.ndarray | None = None) -> GroupwiseTemplate:
    """A template whose cells have eight votes each, all for one channel, which changes along x."""
    if votes is None:
        votes = np.zeros((*SHAPE, CHANNELS), np.uint8)
        for x in range(SHAPE[0]):
            votes[x, ..., 0 if x in (0, 6) else 1 + x % 3] = 8
    return GroupwiseTemplate(Volume(np.ones(SHAPE, np.float32), axis_aligned_grid(SHAPE, 2.0, (0, 0, 0))), votes)


def constant_field(displacement: tuple[float, float, float]) -> np.ndarray:
    return np.broadcast_to(np.float16(displacement)[:, None, None, None], (3, *SHAPE)).copy()


def brain() -> np.ndarray:
    return np.ones(FINE, np.bool_)


def test_without_displacement_the_prior_is_the_vote_fraction() -> None:
    rng = np.random.default_rng(0)
    votes = rng.integers(0, 60, (*SHAPE, CHANNELS)).astype(np.uint8)
    votes[..., 0] += 1
    prior = template(votes).prior_at(constant_field((0, 0, 0)), brain())
    assert (prior.spacing, prior.shape) == (2, FINE)
    np.testing.assert_array_equal(prior.steps, quantize(votes / votes.sum(axis=-1, keepdims=True, dtype=np.float64)))


def test_the_prior_follows_the_displacement_with_trilinear_interpolation() -> None:
    one_cell = template().prior_at(constant_field((2, 0, 0)), brain()).steps
    np.testing.assert_array_equal(one_cell[:-1], template().prior_at(constant_field((0, 0, 0)), brain()).steps[1:])
    half = template().prior_at(constant_field((1, 0, 0)), brain()).steps  # between channels 2 and 3
    assert half[1, 4, 4].tolist() == quantize(np.array([FLOOR, FLOOR, 0.5, 0.5])).tolist()


def test_everything_far_from_the_brain_is_background() -> None:
    small = np.zeros(FINE, np.bool_)
    small[:2, :2, :2] = True
    steps = template().prior_at(constant_field((0, 0, 0)), small).steps
    assert steps[6, 7, 8].tolist() == [255, 0, 0, 0]
    assert steps[3, 4, 4, 0] == 0  # the prior is still computed four cells from the brain


def test_votes_and_displacements_outside_the_grid_are_the_nearest() -> None:
    votes = torch.from_numpy(template().votes)
    far = torch.tensor([[-5.0, 0, 0], [3.0, 4, 99]])
    assert votes_at(votes, far).tolist() == [[8, 0, 0, 0], [0, 8, 0, 0]]
    field = torch.from_numpy(np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float32))
    corner = displacement_at(field, torch.tensor([[-9.0, -9, -9], [0.5, 0.5, 0.5], [2.5, 0.5, 4.5]]))
    torch.testing.assert_close(corner, torch.stack([field[:, 0, 0, 0], field[:, 0, 0, 0], field[:, 1, 0, 2]]))


def test_coordinate_channels_of_a_deformed_scan_are_those_of_the_groupwise_template() -> None:
    affine = box_coordinate_channels(FINE, (2, 4, 6), (8, 8, 8))
    deformed = box_coordinate_channels(
        FINE, (2, 4, 6), (8, 8, 8), torch.from_numpy(constant_field((3, -1, 2)).astype(np.float32))
    )
    shift = torch.tensor([3.0, -1, 2]) * 2 / (torch.tensor(FINE) - 1)
    torch.testing.assert_close(deformed, affine + shift[None, :, None, None, None])


def test_the_prior_has_the_same_bytes_on_one_thread_and_two() -> None:
    field = np.random.default_rng(2).normal(0, 2, (3, *SHAPE)).astype(np.float16)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(template().prior_at(field, brain()).steps.tobytes())
    torch.set_num_threads(before)
    assert results[0] == results[1]


@pytest.mark.parametrize("votes", [np.zeros((7, 8, 8, 4), np.uint8), np.zeros((7, 8, 9, 4), np.int16)])
def test_votes_on_another_grid_are_refused(votes: np.ndarray) -> None:
    with pytest.raises(ModelError, match=r"grid of \(7, 8, 9\) must be uint8"):
        template(votes)


def test_a_scan_is_deformed_to_the_template_and_accepted_only_if_the_similarity_improves() -> None:
    shape = (38, 44, 32)
    coordinates = np.indices(shape, dtype=np.float32)
    center = np.float32([18, 22, 16])[:, None, None, None]
    inside = (((coordinates - center) / np.float32([14, 17, 11])[:, None, None, None]) ** 2).sum(axis=0) < 1
    image = np.where(
        inside, 1 + 0.4 * np.sin(coordinates[0] / 2) * np.cos(coordinates[1] / 3) * np.sin(coordinates[2] / 2.5), 0
    )
    fine_grid = axis_aligned_grid(shape, 1.0, (0, 0, 0))
    shifted = Volume(np.roll(image, (2, -1, 1), axis=(0, 1, 2)).astype(np.float32), fine_grid)
    grid = fine_grid.with_voxels_mm(2.0)
    mean = Volume(image[::2, ::2, ::2] * 0.5 + image[1::2, 1::2, 1::2] * 0.5, grid)
    deformation = deform(shifted, GroupwiseTemplate(mean, np.ones((*grid.shape, 2), np.uint8)))
    assert deformation.accepted
    assert deformation.similarity > deformation.affine_similarity + 0.1
    assert deformation.displacement.dtype == np.float16
    assert np.median(deformation.displacement[:, 9, 11, 8]) == pytest.approx(-1, abs=1.5)
    np.testing.assert_allclose(deformation.displacement[:, 9, 11, 8], [-2, 1, -1], atol=1)
    copy = pickle.loads(pickle.dumps(deformation))  # noqa: S301
    assert copy.displacement.tobytes() == deformation.displacement.tobytes()
    assert not replace(deformation, affine_similarity=deformation.similarity).accepted
    assert not replace(deformation, similarity=0.79).accepted


def test_the_spacing_of_a_prior_is_4_mm_unless_it_is_given() -> None:
    with pytest.raises(ModelError, match="needs uint8 cells"):
        Prior(np.zeros((*SHAPE, CHANNELS), np.uint8), FINE)
    assert Prior(np.zeros((*SHAPE, CHANNELS), np.uint8), FINE, 2).possible((0, 0, 0), (4, 4, 4)).tolist() == [0]


# Mirror images


def test_every_second_tile_labels_the_mirror_image_with_the_network_of_its_partner() -> None:
    """Mirroring tiles label a scan as tiles without mirroring label its mirror image."""
    layout = TileLayout((20, 28, 24), (12, 16, 12), (2, 2, 2))
    rng = np.random.default_rng(0)
    image = rng.uniform(0.5, 1.5, layout.shape).astype(np.float32)
    steps = rng.integers(0, 120, (10, 14, 12, 5)).astype(np.uint8)
    displacement = rng.normal(0, 1, (3, 10, 14, 12)).astype(np.float32)
    partners, mirror_x = np.array([0, 2, 1, 3, 4], np.uint8), 21.5
    nets = {}
    for i, tile in enumerate(layout):
        torch.manual_seed(i)
        nets[tile.name] = CompactUNet(UNetSettings(5, (4, 6), image_channels=2, head_channels=4)).eval()
        torch.nn.init.normal_(nets[tile.name].head.weight)
    prior = Prior(steps, layout.shape, 2)
    with_mirroring = Predictor(
        layout, prior, nets.__getitem__, displacement=displacement, mirroring=Mirroring(partners, mirror_x)
    )
    mirrored = displacement[:, ::-1].copy()
    mirrored[0] = mirror_x - 19 - mirrored[0]
    flipped = Prior(steps[::-1][..., partners].copy(), layout.shape, 2)
    of_mirror_image = Predictor(layout, flipped, nets.__getitem__, displacement=mirrored)
    names = {tile.name: tile for tile in layout}
    for tile in layout:
        labels = label_tile(with_mirroring, tile, image, CPU)
        if sum(map(int, tile.name.split("_"))) % 2 == 0:
            without = Predictor(layout, prior, nets.__getitem__, displacement=displacement)
            np.testing.assert_array_equal(labels, label_tile(without, tile, image, CPU))
            continue
        partner = names[f"{3 - int(tile.name[0])}{tile.name[1:]}"]
        mirror_labels = label_tile(of_mirror_image, partner, image[::-1].copy(), CPU)
        np.testing.assert_array_equal(labels, partners[mirror_labels[::-1]])
        assert not np.array_equal(labels, label_tile(replace(with_mirroring, mirroring=None), tile, image, CPU))


def test_tiles_are_not_mirrored_if_the_cells_of_the_prior_do_not_fit() -> None:
    layout = TileLayout((20, 28, 24), (20, 28, 24), (1, 1, 1))
    mirroring = Mirroring(np.arange(4, dtype=np.uint8), 19.0)
    prior = Prior(np.zeros((10, 14, 12, 4), np.uint8), layout.shape, 2)
    (tile,) = layout.tiles
    assert mirroring.partner(tile, layout, prior) == tile
    odd = TileLayout((21, 28, 24), (21, 28, 24), (1, 1, 1))
    prior = Prior(np.zeros((11, 14, 12, 4), np.uint8), odd.shape, 2)
    assert mirroring.partner(odd.tiles[0], odd, prior) is None
    assert replace(mirroring, mirror="both").partner(odd.tiles[0], odd, prior) is None
    assert mirroring.partner(odd.tiles[0], odd, None) == odd.tiles[0]
