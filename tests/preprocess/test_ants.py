"""Affines are the files that ANTs would write; files that ANTs leaves incomplete are errors."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from slant.grid import Matrix
from slant.preprocess.ants import affine_file, load_ants, read_affine

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def random_affine(seed: int) -> Matrix:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(random_state=seed).as_matrix() * (0.8 + seed / 10)
    matrix[:3, 3] = np.random.default_rng(seed).normal(scale=100, size=3)
    return matrix


@pytest.mark.parametrize("matrix", [np.eye(4), *(random_affine(seed) for seed in range(5))])
def test_the_file_of_an_affine_has_the_bytes_that_ants_writes(tmp_path: Path, matrix: Matrix) -> None:
    ants, lps = load_ants(), LPS_FROM_RAS @ matrix @ LPS_FROM_RAS
    transform = ants.create_ants_transform(transform_type="AffineTransform", precision="double", dimension=3)
    transform.set_parameters(np.concatenate([lps[:3, :3].ravel(), lps[:3, 3]]))
    ants.write_transform(transform, str(tmp_path / "affine.mat"))
    assert affine_file(matrix) == (tmp_path / "affine.mat").read_bytes()
    np.testing.assert_allclose(read_affine(tmp_path / "affine.mat"), matrix, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("length", [0, 19, 60, 150, 192])
def test_an_incomplete_affine_is_an_error_and_itk_prints_nothing(tmp_path: Path, capfd, length: int) -> None:
    path = tmp_path / "found.mat"
    path.write_bytes(affine_file(random_affine(0))[:length])
    with pytest.raises(OSError, match=r"ANTs left found\.mat incomplete") as raised:
        read_affine(path)
    assert raised.value.errno == errno.ENOSPC
    assert capfd.readouterr().err == ""
