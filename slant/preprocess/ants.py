"""Wraps ANTs with deterministic settings, and converts images and affines to and from it.

ITK splits its sums among threads, so its results depend on the number of threads; here it always runs on one thread.
Registration jitters its sampling points at random, with a seed from the clock unless the environment sets one. World
coordinates of ITK are LPS+ mm, those of slant are RAS+ mm: x and y change sign.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slant.files import temporary_folder
from slant.volume import LabelMap, Volume

if TYPE_CHECKING:
    from slant.grid import Matrix

_DETERMINISTIC = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "ANTS_RANDOM_SEED": "1"}
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def load_ants() -> Any:
    """The `ants` module with a fixed seed, limited to one thread if this process has not used ITK before."""
    os.environ.update(_DETERMINISTIC)
    import ants

    return ants


def to_ants(volume: Volume | LabelMap) -> Any:
    """A float32 ANTs image of a volume or mask on an axis-aligned grid."""
    lps = _LPS_FROM_RAS @ volume.grid.ras_from_voxel
    size = volume.grid.voxel_size_mm
    return load_ants().from_numpy(
        np.ascontiguousarray(volume.data, dtype=np.float32),
        origin=lps[:3, 3].tolist(),
        spacing=list(size),
        direction=lps[:3, :3] / np.array(size),
    )


def matrix_of_transform(transform: Any) -> Matrix:
    """(4, 4) float64 matrix of an ITK affine, from points of the fixed image to points of the moving image, RAS mm."""
    parameters = np.asarray(transform.parameters, dtype=np.float64)
    center = np.asarray(transform.fixed_parameters, dtype=np.float64)
    lps = np.eye(4)
    lps[:3, :3] = parameters[:9].reshape(3, 3)
    lps[:3, 3] = parameters[9:] + center - lps[:3, :3] @ center
    return np.asarray(_LPS_FROM_RAS @ lps @ _LPS_FROM_RAS, dtype=np.float64)


def write_affine(path: Path, moving_from_fixed: Matrix) -> None:
    """Write an affine from fixed to moving points (RAS mm) as the ITK transform that resamples moving to fixed."""
    lps = _LPS_FROM_RAS @ moving_from_fixed @ _LPS_FROM_RAS
    ants = load_ants()
    transform = ants.create_ants_transform(transform_type="AffineTransform", precision="double", dimension=3)
    transform.set_parameters(np.concatenate([lps[:3, :3].ravel(), lps[:3, 3]]))
    ants.write_transform(transform, str(path))


def joint_label_fusion(
    target: Volume, mask: LabelMap, images: list[Volume], labels: list[LabelMap], radius: int, search: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Fuse atlas labels by ANTs' joint label fusion (Wang et al. 2013, IEEE TPAMI 35:611) where the mask is not 0.

    Parameters
    ----------
    images, labels : list of Volume, list of LabelMap
        Images and labels of at least two atlases, on the target's grid; labels from 0 to 254.
    radius, search : int
        Patch radius, and radius of the search neighbourhood around each voxel, both in voxels.

    Returns
    -------
    labels : (X, Y, Z) uint8 array
    fraction : (X, Y, Z) float32 array
        Fraction of the weights that support the winning label. Labels and fraction are 0 outside the mask.
    """
    winner, winner_weight = np.zeros(mask.data.shape, np.uint8), np.zeros(mask.data.shape, np.float32)
    with temporary_folder() as folder:
        fused = load_ants().joint_label_fusion(
            to_ants(target),
            to_ants(mask),
            [to_ants(image) for image in images],
            label_list=[to_ants(LabelMap(one.data + np.uint8(1), one.grid)) for one in labels],  # ANTs ignores label 0
            rad=radius,
            r_search=search,
            output_prefix=f"{folder}/fused",
        )
    total = np.zeros_like(winner_weight)
    for number, image in zip(fused["segmentation_numbers"], fused["probabilityimages"], strict=True):
        weight = np.where(mask.data != 0, np.maximum(image.numpy(), 0), 0)
        larger = weight > winner_weight
        winner[larger], winner_weight[larger] = number - 1, weight[larger]
        total += weight
    return winner, np.where(total > 0, winner_weight / np.maximum(total, np.finfo(np.float32).tiny), 0)
