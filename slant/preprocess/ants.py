"""Wraps ANTs with deterministic settings, and converts images and affines to and from it.

ITK splits its sums among threads, so its results depend on the number of threads; here it always runs on one thread.
Registration jitters its sampling points at random, with a seed from the clock unless the environment sets one. World
coordinates of ITK are LPS+ mm, those of slant are RAS+ mm: x and y change sign.
"""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat, savemat
from scipy.io.matlab import MatReadError

from slant.files import temporary_folder
from slant.volume import LabelMap, Volume

if TYPE_CHECKING:
    from slant.grid import Matrix

_DETERMINISTIC = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "ANTS_RANDOM_SEED": "1"}
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_AFFINE, _CENTER = "AffineTransform_double_3_3", "fixed"  # names in an ITK transform file


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


def affine_file(moving_from_fixed: Matrix) -> bytes:
    """The ITK transform file (``.mat``) of an affine from fixed to moving points (RAS mm): resamples moving to fixed.

    It is made here and not by ANTs, which does not notice a full disk. As ANTs does, it keeps float32 precision.
    """
    lps = (_LPS_FROM_RAS @ moving_from_fixed @ _LPS_FROM_RAS)[:3]
    parameters = np.concatenate([lps[:, :3].ravel(), lps[:, 3]]).astype(np.float32).astype(np.float64)
    file = io.BytesIO()
    contents = {_AFFINE: parameters, _CENTER: np.zeros(3)}
    savemat(file, contents, format="4", oned_as="column")  # type: ignore[arg-type]  # stubs lack buffers
    return file.getvalue()


def read_affine(path: Path) -> Matrix:
    """(4, 4) float64 matrix of an ITK affine, from points of the fixed image to points of the moving image, RAS mm.

    ITK is not asked to read it, because it prints many lines about an incomplete file.

    Raises
    ------
    OSError
        If the file is missing or incomplete.
    """
    try:
        contents = loadmat(path)
        parameters = next(values.ravel() for name, values in contents.items() if "Transform" in name)
        center = contents[_CENTER].ravel().astype(np.float64)
    except (MatReadError, ValueError, TypeError, KeyError, StopIteration) as error:
        raise OSError(errno.ENOSPC, f"ANTs left {path.name} incomplete") from error
    parameters = parameters.astype(np.float32).astype(np.float64)
    lps = np.eye(4)
    lps[:3, :3] = parameters[:9].reshape(3, 3)
    lps[:3, 3] = parameters[9:] + center - lps[:3, :3] @ center
    return np.asarray(_LPS_FROM_RAS @ lps @ _LPS_FROM_RAS, dtype=np.float64)


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

    Raises
    ------
    OutputError
        If temporary files cannot be written.
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
        _check_fused(fused["segmentation_numbers"], mask, labels)
    total = np.zeros_like(winner_weight)
    for number, image in zip(fused["segmentation_numbers"], fused["probabilityimages"], strict=True):
        weight = np.where(mask.data != 0, np.maximum(image.numpy(), 0), 0)
        larger = weight > winner_weight
        winner[larger], winner_weight[larger] = number - 1, weight[larger]
        total += weight
    return winner, np.where(total > 0, winner_weight / np.maximum(total, np.finfo(np.float32).tiny), 0)


def _check_fused(found: list[int], mask: LabelMap, labels: list[LabelMap]) -> None:
    """Check that there is a probability image of every label; ANTs ends without an error if it cannot write one."""
    wanted = {int(number) + 1 for one in labels for number in np.unique(one.data[mask.data != 0])}
    if missing := wanted.difference(found):
        raise OSError(errno.ENOSPC, f"ANTs wrote {len(wanted) - len(missing)} of {len(wanted)} probability images")
