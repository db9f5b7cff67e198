"""The deformable prior is the template's votes at the deformed places, and falls back to the affine one."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from slant.errors import ModelError
from slant.grid import axis_aligned_grid
from slant.nets.groupwise import GroupwiseTemplate, deform, displacement_at, votes_at
from slant.nets.predict import Mirroring, Predictor, label_tile, mirror_tile
from slant.nets.prior import FLOOR, Prior, quantize
from slant.nets.unet import CompactUNet, UNetSettings, place_channels
from slant.tiles import TileLayout
from slant.volume import Volume

SHAPE = (7, 8, 9)
FINE = tuple(2 * n for n in SHAPE)
CHANNELS = 4
CPU = torch.device("cpu")


def template(votes: np.ndarray | None = None) -> GroupwiseTemplate:
    """Cells with the votes of eight voxels each, all of one channel that changes along x."""
    if votes is None:
        votes = np.zeros((*SHAPE, CHANNELS), np.uint8)
        for x in range(SHAPE[0]):
            votes[x, ..., 0 if x in (0, 6) else 1 + x % 3] = 8
    return GroupwiseTemplate(Volume(np.ones(SHAPE, np.float32), axis_aligned_grid(SHAPE, 2.0, (0, 0, 0))), votes)


def everywhere(displacement: tuple[float, float, float]) -> np.ndarray:
    return np.broadcast_to(np.float16(displacement)[:, None, None, None], (3, *SHAPE)).copy()


def brain() -> np.ndarray:
    return np.ones(FINE, np.bool_)


def test_without_displacement_the_prior_is_the_share_of_the_votes() -> None:
    rng = np.random.default_rng(0)
    votes = rng.integers(0, 60, (*SHAPE, CHANNELS)).astype(np.uint8)
    votes[..., 0] += 1
    prior = template(votes).prior_at(everywhere((0, 0, 0)), brain())
    assert (prior.spacing, prior.shape) == (2, FINE)
    np.testing.assert_array_equal(prior.steps, quantize(votes / votes.sum(axis=-1, keepdims=True, dtype=np.float64)))


def test_the_prior_moves_with_the_displacement_and_is_trilinear_between_cells() -> None:
    one_cell = template().prior_at(everywhere((2, 0, 0)), brain()).steps
    np.testing.assert_array_equal(one_cell[:-1], template().prior_at(everywhere((0, 0, 0)), brain()).steps[1:])
    half = template().prior_at(everywhere((1, 0, 0)), brain()).steps  # between channels 2 and 3
    assert half[1, 4, 4].tolist() == quantize(np.array([FLOOR, FLOOR, 0.5, 0.5])).tolist()


def test_far_from_the_brain_all_is_background() -> None:
    small = np.zeros(FINE, np.bool_)
    small[:2, :2, :2] = True
    steps = template().prior_at(everywhere((0, 0, 0)), small).steps
    assert steps[6, 7, 8].tolist() == [255, 0, 0, 0]
    assert steps[3, 4, 4, 0] == 0  # four cells from the brain it is still looked up


def test_votes_and_displacements_hold_beyond_the_grid() -> None:
    votes = torch.from_numpy(template().votes)
    far = torch.tensor([[-5.0, 0, 0], [3.0, 4, 99]])
    assert votes_at(votes, far).tolist() == [[8, 0, 0, 0], [0, 8, 0, 0]]
    field = torch.from_numpy(np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float32))
    corner = displacement_at(field, torch.tensor([[-9.0, -9, -9], [0.5, 0.5, 0.5], [2.5, 0.5, 4.5]]))
    torch.testing.assert_close(corner, torch.stack([field[:, 0, 0, 0], field[:, 0, 0, 0], field[:, 1, 0, 2]]))


def test_coordinates_of_a_deformed_scan_are_those_of_the_template() -> None:
    plain = place_channels(FINE, (2, 4, 6), (8, 8, 8))
    moved = place_channels(FINE, (2, 4, 6), (8, 8, 8), torch.from_numpy(everywhere((3, -1, 2)).astype(np.float32)))
    shift = torch.tensor([3.0, -1, 2]) * 2 / (torch.tensor(FINE) - 1)
    torch.testing.assert_close(moved, plain + shift[None, :, None, None, None])


def test_the_prior_has_the_same_bytes_on_one_thread_and_two() -> None:
    field = np.random.default_rng(2).normal(0, 2, (3, *SHAPE)).astype(np.float16)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(template().prior_at(field, brain()).steps.tobytes())
    torch.set_num_threads(before)
    assert found[0] == found[1]


@pytest.mark.parametrize("votes", [np.zeros((7, 8, 8, 4), np.uint8), np.zeros((7, 8, 9, 4), np.int16)])
def test_votes_on_another_grid_are_refused(votes: np.ndarray) -> None:
    with pytest.raises(ModelError, match=r"grid of \(7, 8, 9\) must be uint8"):
        template(votes)


def test_a_scan_is_deformed_to_the_template_and_only_a_gain_is_accepted() -> None:
    shape = (38, 44, 32)
    places = np.indices(shape, dtype=np.float32)
    middle = np.float32([18, 22, 16])[:, None, None, None]
    inside = (((places - middle) / np.float32([14, 17, 11])[:, None, None, None]) ** 2).sum(axis=0) < 1
    image = np.where(inside, 1 + 0.4 * np.sin(places[0] / 2) * np.cos(places[1] / 3) * np.sin(places[2] / 2.5), 0)
    fine_grid = axis_aligned_grid(shape, 1.0, (0, 0, 0))
    shifted = Volume(np.roll(image, (2, -1, 1), axis=(0, 1, 2)).astype(np.float32), fine_grid)
    grid = fine_grid.with_voxels_mm(2.0)
    mean = Volume(image[::2, ::2, ::2] * 0.5 + image[1::2, 1::2, 1::2] * 0.5, grid)
    found = deform(shifted, GroupwiseTemplate(mean, np.ones((*grid.shape, 2), np.uint8)))
    assert found.accepted
    assert found.similarity > found.affine_similarity + 0.1
    assert found.displacement.dtype == np.float16
    assert np.median(found.displacement[:, 9, 11, 8]) == pytest.approx(-1, abs=1.5)
    np.testing.assert_allclose(found.displacement[:, 9, 11, 8], [-2, 1, -1], atol=1)
    again = pickle.loads(pickle.dumps(found))  # noqa: S301
    assert again.displacement.tobytes() == found.displacement.tobytes()
    assert not replace(found, affine_similarity=found.similarity).accepted
    assert not replace(found, similarity=0.79).accepted


def test_affine_priors_keep_their_cells() -> None:
    with pytest.raises(ModelError, match="needs uint8 cells"):
        Prior(np.zeros((*SHAPE, CHANNELS), np.uint8), FINE)
    assert Prior(np.zeros((*SHAPE, CHANNELS), np.uint8), FINE, 2).possible((0, 0, 0), (4, 4, 4)).tolist() == [0]


# Mirror images


def test_every_second_tile_labels_the_mirror_image_with_its_partners_network() -> None:
    """A scan and its mirror image, labelled by mirroring and by plain tiles, are each other's mirror images."""
    layout = TileLayout((20, 28, 24), (12, 16, 12), (2, 2, 2))
    rng = np.random.default_rng(0)
    image = rng.uniform(0.5, 1.5, layout.shape).astype(np.float32)
    steps = rng.integers(0, 120, (10, 14, 12, 5)).astype(np.uint8)
    moved = rng.normal(0, 1, (3, 10, 14, 12)).astype(np.float32)
    partners, mirror_x = np.array([0, 2, 1, 3, 4], np.uint8), 21.5
    nets = {}
    for i, tile in enumerate(layout):
        torch.manual_seed(i)
        nets[tile.name] = CompactUNet(UNetSettings(5, (4, 6), detail=2, mixed=4)).eval()
        torch.nn.init.normal_(nets[tile.name].head.weight)
    prior = Prior(steps, layout.shape, 2)
    mirroring = Predictor(layout, prior, nets.__getitem__, displacement=moved, mirroring=Mirroring(partners, mirror_x))
    other = moved[:, ::-1].copy()
    other[0] = mirror_x - 19 - other[0]
    flipped = Prior(steps[::-1][..., partners].copy(), layout.shape, 2)
    plain = Predictor(layout, flipped, nets.__getitem__, displacement=other)
    names = {tile.name: tile for tile in layout}
    for tile in layout:
        found = label_tile(mirroring, tile, image, CPU)
        if sum(map(int, tile.name.split("_"))) % 2 == 0:
            still = Predictor(layout, prior, nets.__getitem__, displacement=moved)
            np.testing.assert_array_equal(found, label_tile(still, tile, image, CPU))
            continue
        partner = names[f"{3 - int(tile.name[0])}{tile.name[1:]}"]
        seen = label_tile(plain, partner, image[::-1].copy(), CPU)
        np.testing.assert_array_equal(found, partners[seen[::-1]])
        assert not np.array_equal(found, label_tile(replace(mirroring, mirroring=None), tile, image, CPU))


def test_tiles_without_a_partner_and_cells_that_do_not_fit_are_not_mirrored() -> None:
    layout = TileLayout((20, 28, 24), (20, 28, 24), (1, 1, 1))
    how = Mirroring(np.arange(4, dtype=np.uint8), 19.0)
    prior = Prior(np.zeros((10, 14, 12, 4), np.uint8), layout.shape, 2)
    (tile,) = layout.tiles
    assert mirror_tile(Predictor(layout, prior, lambda _: None, mirroring=how), tile) == tile
    odd = TileLayout((21, 28, 24), (21, 28, 24), (1, 1, 1))
    prior = Prior(np.zeros((11, 14, 12, 4), np.uint8), odd.shape, 2)
    assert mirror_tile(Predictor(odd, prior, lambda _: None, mirroring=how), odd.tiles[0]) is None
    assert mirror_tile(Predictor(layout, None, lambda _: None), tile) is None
