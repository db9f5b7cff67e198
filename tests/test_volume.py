"""Volumes and label maps are read-only arrays on a grid."""

from __future__ import annotations

import numpy as np
import pytest

from slant.errors import GeometryError
from slant.grid import Grid
from slant.volume import LabelMap, Volume


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8])
def test_a_volume_is_read_only_float32(oblique_grid, dtype):
    volume = Volume(np.arange(504).reshape(7, 8, 9).astype(dtype), oblique_grid)
    assert volume.data.dtype == np.float32
    assert volume.data[1, 2, 3] == np.arange(504).astype(dtype).reshape(7, 8, 9)[1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        volume.data[0, 0, 0] = 1


def test_the_input_array_stays_writeable(oblique_grid):
    data = np.zeros((7, 8, 9), dtype=np.float32)
    Volume(data, oblique_grid)
    assert data.flags.writeable


@pytest.mark.parametrize("kind", [Volume, LabelMap])
def test_shapes_must_agree(oblique_grid, kind):
    with pytest.raises(GeometryError, match=r"\(7, 9, 8\) does not fit a grid of shape \(7, 8, 9\)"):
        kind(np.zeros((7, 9, 8), dtype=np.uint8), oblique_grid)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_labels_keep_their_dtype(oblique_grid, dtype):
    labels = LabelMap(np.full((7, 8, 9), 107, dtype=dtype), oblique_grid)
    assert labels.data.dtype == dtype
    assert labels.ids == (107,)
    with pytest.raises(ValueError, match="read-only"):
        labels.data[0, 0, 0] = 1


def test_a_bool_mask_becomes_zeros_and_ones(oblique_grid):
    mask = np.zeros((7, 8, 9), dtype=bool)
    mask[1:3] = True
    labels = LabelMap(mask, oblique_grid)
    assert labels.data.dtype == np.uint8
    assert labels.ids == (0, 1)
    assert np.array_equal(labels.data == 1, mask)


def test_ids_are_ascending(oblique_grid):
    data = np.full((7, 8, 9), 4, dtype=np.int16)
    data[0, 0, :3] = 207, 0, 100
    ids = LabelMap(data, oblique_grid).ids
    assert ids == (0, 4, 100, 207)
    assert all(type(i) is int for i in ids)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, complex])
def test_labels_must_be_integers(oblique_grid, dtype):
    with pytest.raises(GeometryError, match="integer dtype, found"):
        LabelMap(np.zeros((7, 8, 9), dtype=dtype), oblique_grid)


def test_masking_sets_the_rest_to_zero_in_a_new_volume(oblique_grid):
    volume = Volume(np.full((7, 8, 9), 3.5), oblique_grid)
    mask = np.zeros((7, 8, 9), dtype=np.uint8)
    mask[2, 3, 4] = 1
    mask[5, 6, 7] = 200
    masked = volume.masked(LabelMap(mask, oblique_grid))
    assert np.array_equal(masked.data, np.where(mask, np.float32(3.5), 0))
    assert masked.grid is oblique_grid
    assert (volume.data == 3.5).all()


def test_a_mask_on_another_grid_is_refused(oblique_grid):
    other_grid = Grid((7, 8, 9), np.eye(4))
    with pytest.raises(GeometryError, match="not on the volume's grid"):
        Volume(np.zeros((7, 8, 9)), oblique_grid).masked(LabelMap(np.ones((7, 8, 9), dtype=bool), other_grid))
