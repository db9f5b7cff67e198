"""A phantom from which the inputs of the experiments are made."""

from __future__ import annotations

import numpy as np
import pytest
from field_inputs import Base, plain_header, write_scan
from scipy import ndimage

VOXEL_MM = 4.0


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A full head of 50 x 60 x 54 voxels of 4 mm on axes R, A, S: a bright brain in skull, scalp and air."""
    center, radii = np.array((25, 30, 30)), np.array((17, 20, 16))
    radius = np.linalg.norm((np.moveaxis(np.indices((50, 60, 54)), 0, -1) - center) / radii, axis=-1)
    brain = radius < 1
    random = np.random.default_rng(0)
    tissue = 120 + 20 * ndimage.gaussian_filter(random.standard_normal(brain.shape), 1)
    data = np.select([brain, radius < 1.1, radius < 1.3], [tissue, 30, 80], 0)
    affine = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1])
    affine[:3, 3] = -VOXEL_MM * center
    path = tmp_path_factory.mktemp("base") / "base.nii.gz"
    header, stored = plain_header(affine), data.astype(np.uint8)
    header.set_data_shape(stored.shape)
    write_scan(path, header, stored)
    return Base(path, header, stored, brain)
