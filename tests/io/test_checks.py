"""Images that are not T1-weighted scans are rejected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from toy import noise, save

from slant.errors import InputError
from slant.io.checks import MAX_NONFINITE_FRACTION
from slant.io.read import read_scan

pytestmark = pytest.mark.usefixtures("stored_intensities")
SHAPE = (7, 8, 9)


def blocks(shape: tuple[int, int, int] = (12, 14, 16)) -> np.ndarray:
    """A label map of 16 patches with ids spaced like those of BrainCOLOR, and background 0."""
    coarse = np.random.default_rng(3).permutation(np.arange(1, 17) * 12).reshape(2, 2, 4)
    data = np.zeros(shape, np.int16)
    data[2:10, 2:12, 2:14] = coarse.repeat(4, 0).repeat(5, 1).repeat(3, 2)
    return data


def head_ct() -> np.ndarray:
    """A sphere of brain in a shell of bone in air, in Hounsfield units, padded as scanners do."""
    rng = np.random.default_rng(1)
    radius = np.linalg.norm(np.indices((24, 26, 28)) - np.array([12, 13, 14]).reshape(3, 1, 1, 1), axis=0)
    data = np.select([radius < 9, radius < 10, radius > 17], [35.0, 900.0, -2000.0], -1000.0)
    return (data + rng.normal(0, 8, data.shape) * (data > -2000)).astype(np.int16)


# Dimensions


@pytest.mark.parametrize("shape", [(7, 8), (7, 8, 1), (7, 1, 9), (504,)])
def test_flat_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"found a [12]D image of shape .*expected a 3D scan"):
        read_scan(save(tmp_path / "a.nii", noise(shape)))


def test_several_volumes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", noise((*SHAPE, 3)))
    with pytest.raises(InputError, match=r"found 3 volumes.*--volume N, N from 0 to 2"):
        read_scan(path)


@pytest.mark.parametrize("volume", [-1, 3])
@pytest.mark.parametrize("shape", [(*SHAPE, 3), SHAPE])
def test_volume_index_out_of_range(tmp_path: Path, volume: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=rf"volume index {volume} is out of range: the file has \d volume"):
        read_scan(save(tmp_path / "a.nii", noise(shape)), volume=volume)


# Voxel values


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_few_nonfinite_voxels_are_repaired(tmp_path: Path, bad: float) -> None:
    data = noise((10, 11, 12)).astype(np.float32)
    data[1, 2, 3] = bad
    scan = read_scan(save(tmp_path / "a.nii", data, np.diag([1.0, 1.0, 2.0, 1.0])))
    assert scan.warnings == ("1 NaN or infinite voxels were replaced by 0",)
    assert scan.volume.data[1, 2, 3] == 0
    assert np.isfinite(scan.volume.data).all()


def test_many_nonfinite_voxels_are_rejected(tmp_path: Path) -> None:
    data = noise((10, 11, 12)).astype(np.float32)
    data.ravel()[: int(MAX_NONFINITE_FRACTION * data.size) + 1] = np.nan
    with pytest.raises(InputError, match=r"2 NaN or infinite voxels \(0\.15%\), expected at most 0\.1%"):
        read_scan(save(tmp_path / "a.nii", data))


def test_nan_around_a_mask_is_background(tmp_path: Path) -> None:
    data = np.full((10, 11, 12), np.nan, np.float32)
    data[2:8, 2:9, 2:10] = noise((6, 7, 8)) + 1
    scan = read_scan(save(tmp_path / "a.nii", data, np.diag([1.0, 1.0, 2.0, 1.0])))
    assert scan.warnings == ("NaN around the brain was taken for the background of a mask",)
    np.testing.assert_array_equal(scan.volume.data == 0, np.isnan(data))
    data[4:6, 4:6, 4:6] = np.nan
    with pytest.raises(InputError, match=r"8 NaN or infinite voxels \(0\.61%\)"):
        read_scan(save(tmp_path / "a.nii", data))


def test_values_beyond_float32_count_as_infinite(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="infinite voxels"):
        read_scan(save(tmp_path / "a.nii", noise().astype(np.float64) * 1e300))


@pytest.mark.parametrize(
    ("dtype", "found"),
    [(np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]), "colour"), (np.dtype("complex64"), "complex64")],
)
def test_colour_and_complex(tmp_path: Path, dtype: np.dtype[Any], found: str) -> None:
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, dtype), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(InputError, match=f"found {found}.*one real number per voxel"):
        read_scan(tmp_path / "a.nii")


@pytest.mark.parametrize("value", [0, 7])
def test_constant_image(tmp_path: Path, value: int) -> None:
    with pytest.raises(InputError, match=f"every voxel is {value}"):
        read_scan(save(tmp_path / "a.nii", np.full(SHAPE, value, np.int16)))


@pytest.mark.parametrize("dtype", ["u1", "i2", "f8"])
def test_label_map_or_mask(tmp_path: Path, dtype: str) -> None:
    for data in (blocks(), blocks() > 0, np.where(blocks() == 0, 200, blocks())):
        with pytest.raises(InputError, match=r"looks like a label map or mask: about \d+ distinct integers"):
            read_scan(save(tmp_path / "a.nii", data.astype(dtype)))


def test_scan_with_few_grey_values_is_not_a_label_map(tmp_path: Path) -> None:
    data = np.where(blocks() > 0, noise((12, 14, 16)) % 32, 0).astype(np.uint8)
    assert read_scan(save(tmp_path / "a.nii", data)).volume.data.max() == 31


def test_ct(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="looks like a CT in Hounsfield units"):
        read_scan(save(tmp_path / "a.nii", head_ct()))


@pytest.mark.parametrize("change", ["no bone", "no air", "offset"])
def test_signed_scan_without_all_features_of_a_ct_is_read(tmp_path: Path, change: str) -> None:
    data = head_ct().astype(np.int32)
    if change == "no bone":
        data[data > 300] = -500
    elif change == "no air":
        data[(data < -900) & (data > -1100)] += 500
    else:
        data -= 3000
    read_scan(save(tmp_path / "a.nii", data.astype(np.int16)))


@pytest.mark.slow
def test_real_label_maps_are_rejected(data_dir: Path) -> None:
    paths = [*data_dir.rglob("*_dseg.nii.gz"), *(data_dir / "slant-reference" / "tiles").glob("*.nii.gz")]
    assert len(paths) >= 43
    for path in paths:
        with pytest.raises(InputError, match="label map"):
            read_scan(path)
