"""The shipped template has the grids of SLANT and the right orientation."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from slant.errors import GeometryError
from slant.grid import axis_aligned_grid, transform_points
from slant.io.templates import load_intensity_reference, load_template, mni305_grids
from slant.template import Template
from slant.volume import LabelMap, Volume


def test_the_working_grid_is_that_of_slant_and_the_2_mm_grid_fills_the_same_box():
    fine, coarse = mni305_grids()
    assert fine.shape == (172, 220, 156)
    assert coarse.shape == (86, 110, 78)
    assert fine.voxel_size_mm == (1, 1, 1)
    assert coarse.voxel_size_mm == (2, 2, 2)
    for end in (-1, 1):
        corners = [
            transform_points(grid.ras_from_voxel, [np.full(3, -0.5) if end < 0 else np.array(grid.shape) - 0.5])
            for grid in (fine, coarse)
        ]
        np.testing.assert_allclose(*corners)


def test_the_working_grid_is_that_of_label_maps_of_the_original(data_dir: Path):
    image = nib.load(data_dir / "slant-reference" / "1000_space-MNI305_dseg.nii.gz")
    assert image.shape == load_template().grid.shape
    np.testing.assert_allclose(image.affine, load_template().grid.ras_from_voxel, atol=1e-4)


def test_image_and_mask_agree_and_only_the_brain_stem_reaches_a_face():
    template = load_template()
    assert template.name == "MNI305"
    np.testing.assert_array_equal(template.image.data > 0, template.brain.data == 1)
    assert template.image.data.min() == 0
    without_lowest_plane = template.brain.data[:, :, 1:]
    edges = [np.take(without_lowest_plane, index, axis) for axis, index in ((0, 0), (0, -1), (1, 0), (1, -1), (2, -1))]
    assert not any(edge.any() for edge in edges)
    brain_mm3 = template.brain.data.sum() * template.brain.grid.voxel_volume_mm3
    assert brain_mm3 == pytest.approx(template.intracranial_mm3, rel=0.05)


@pytest.mark.parametrize(
    ("point_ras_mm", "in_brain"),
    [
        ((0, -20, 0), True),  # thalamus
        ((-40, -65, -40), True),  # cerebellum
        ((35, 60, -40), False),  # orbit
        ((0, 50, 10), True),  # frontal pole
        ((0, -90, 60), False),  # behind the vertex
        ((60, -20, 0), True),  # temporal lobe
        ((60, 50, 0), False),  # outside the forehead
    ],
)
def test_the_brain_has_the_right_orientation(point_ras_mm, in_brain):
    brain = load_template().brain
    i, j, k = np.rint(transform_points(brain.grid.voxel_from_ras, [point_ras_mm])[0]).astype(int)
    assert bool(brain.data[i, j, k]) is in_brain


def test_white_matter_is_brighter_than_cortex_and_ventricles_are_dark():
    template = load_template()
    points = [(-26, -20, 28), (-4, 8, 12)]  # corona radiata, lateral ventricle
    voxels = np.rint(transform_points(template.image.grid.voxel_from_ras, points)).astype(int)
    white, ventricle = (float(template.image.data[tuple(voxel)]) for voxel in voxels)
    median = float(np.median(template.image.data[template.brain.data != 0]))
    assert white > median > ventricle


def test_template_and_reference_are_read_once():
    assert load_template() is load_template()
    assert load_intensity_reference() is load_intensity_reference()


def test_the_intensity_reference_is_a_sorted_z_score():
    reference = load_intensity_reference()
    assert reference.quantiles.shape == reference.values.shape == (1001,)
    np.testing.assert_allclose(reference.quantiles, np.linspace(0, 1, 1001))
    assert (np.diff(reference.values) >= 0).all()
    assert reference.values.mean() == pytest.approx(0, abs=0.02)
    assert reference.values.std() == pytest.approx(1, abs=0.05)


def test_a_mask_on_another_grid_is_refused():
    grid, other = (axis_aligned_grid((7, 8, 9), 2.0, first) for first in ((0, 0, 0), (1, 0, 0)))
    with pytest.raises(GeometryError, match="template toy: image and brain mask are not on one grid"):
        Template("toy", Volume(np.ones(grid.shape), grid), LabelMap(np.ones(grid.shape, np.uint8), other), grid, 1e6)
