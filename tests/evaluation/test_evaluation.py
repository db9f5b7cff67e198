"""Label maps are compared as documented, by the public functions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from label_maps import IDS, PROTOCOL, blocks
from scipy.spatial.distance import cdist

from slant.errors import GeometryError, InputError, ProtocolError
from slant.evaluation.files import find_labels, label_name, match_files
from slant.evaluation.maps import align_maps, find_shift
from slant.evaluation.metrics import (
    METRICS,
    compare_groups,
    compare_regions,
    groups_of,
    surface_distances_mm,
)
from slant.evaluation.statistics import bootstrap_interval, holm, paired_difference
from slant.grid import Grid
from slant.io.read import read_label_map
from slant.volume import LabelMap
from slant.volumes import mean_dice


def grid(shape: tuple[int, int, int], first: tuple[float, float, float] = (0, 0, 0)) -> Grid:
    matrix = np.diag([1.0, 1.5, 2.0, 1.0])
    matrix[:3, 3] = first
    return Grid(shape, matrix)


def label_map(data: np.ndarray, first: tuple[float, float, float] = (0, 0, 0)) -> LabelMap:
    return LabelMap(data, grid(data.shape, first))


def compare_maps(
    prediction: LabelMap, reference: LabelMap, align: Literal["header", "shift"] = "header", *, surfaces: bool = True
) -> pd.DataFrame:
    """Agreement of every region of two label maps, as in docs/how-to/evaluate.md."""
    return compare_regions(align_maps(prediction, reference, PROTOCOL, align), PROTOCOL, surfaces=surfaces)


def brute_force(mask: np.ndarray, other: np.ndarray, size: tuple[float, float, float]) -> tuple[float, float]:
    """Surface distances from every surface voxel of one mask to every one of the other."""

    def surface(of: np.ndarray) -> np.ndarray:
        padded = np.pad(of, 1)
        inner = np.logical_and.reduce([np.roll(padded, step, axis) for axis in range(3) for step in (-1, 1)])
        return np.argwhere((padded & ~inner)[1:-1, 1:-1, 1:-1]) * size

    distances = cdist(surface(mask), surface(other))
    to_other, to_mask = distances.min(axis=1), distances.min(axis=0)
    mean = float(np.concatenate([to_other, to_mask]).mean())
    return mean, max(np.percentile(to_other, 95), np.percentile(to_mask, 95))


@pytest.mark.parametrize("seed", range(4))
def test_surface_distances_are_those_of_brute_force(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask, other = random.random((2, 9, 8, 7)) > 0.1
    mask[5:], other[:, :, :2] = False, False
    size = tuple(random.uniform(0.5, 3, 3))
    assert surface_distances_mm(mask, other, size) == pytest.approx(brute_force(mask, other, size), rel=1e-5)


def test_metrics_of_regions_follow_their_formulas() -> None:
    reference, prediction = np.zeros((2, 8, 8, 8), dtype=np.int32)
    reference[2:6, 2:6, 2:6] = 23
    prediction[2:6, 2:6, 3:6] = 23
    prediction[0, 0, 0] = 4  # not in the reference
    reference[7, 7, 7] = 30  # not predicted
    reference[7, 0, 0] = 15  # outside the protocol
    table = compare_maps(label_map(prediction), label_map(reference)).set_index("index")
    row = table.loc[23]
    assert row["dice"] == pytest.approx(2 * 48 / (48 + 64))
    assert row["iou"] == pytest.approx(48 / 64)
    assert row["volume_difference_mm3"] == pytest.approx(-16 * 3)
    assert row["volume_difference_percent"] == pytest.approx(-25)
    assert row["volume_similarity"] == pytest.approx(1 - 16 / 112)
    expected = brute_force(prediction == 23, reference == 23, (1, 1.5, 2))
    assert tuple(row[["assd_mm", "hausdorff95_mm"]]) == pytest.approx(expected, rel=1e-5)
    assert table.loc[4, list(METRICS)].isna().all()
    assert table.loc[4, "false_positive_mm3"] == pytest.approx(3)
    assert (table.loc[30, "dice"], table.loc[30, "volume_similarity"]) == (0, 0)
    assert np.isnan(table.loc[30, "assd_mm"])
    assert table["dice"].count() == 2
    assert len(table) == 132


def test_the_mean_is_the_mean_dice_of_the_package() -> None:
    reference, prediction = label_map(blocks()), label_map(np.roll(blocks(), 1, axis=0))
    table = compare_maps(prediction, reference, surfaces=False)
    assert table["dice"].mean() == pytest.approx(mean_dice(prediction, reference, IDS))
    assert table["assd_mm"].isna().all()


def test_distances_on_an_oblique_grid(oblique_grid: Grid) -> None:
    reference = np.zeros(oblique_grid.shape, dtype=np.int32)
    reference[1:5, 2:6, 2:7] = 36
    prediction = np.roll(reference, 1, axis=1)
    table = compare_maps(LabelMap(prediction, oblique_grid), LabelMap(reference, oblique_grid)).set_index("index")
    expected = brute_force(prediction == 36, reference == 36, oblique_grid.voxel_size_mm)
    assert tuple(table.loc[36, ["assd_mm", "hausdorff95_mm"]]) == pytest.approx(expected, rel=1e-5)


def test_groups_are_evaluated_as_mean_and_as_union() -> None:
    maps = align_maps(label_map(np.roll(blocks(), 1, axis=1)), label_map(blocks()), PROTOCOL)
    regions = compare_regions(maps, PROTOCOL, surfaces=False)
    groups = compare_groups(maps, PROTOCOL, regions).set_index(["name", "aggregation"])
    subcortex = regions[(regions["lobe"] == "subcortical") & (regions["tissue"] == "gray")]
    assert groups.loc[("subcortex", "mean"), "dice"] == pytest.approx(subcortex["dice"].mean())
    ids = subcortex["index"].tolist()
    a, b = np.isin(np.roll(blocks(), 1, axis=1), ids), np.isin(blocks(), ids)
    assert groups.loc[("subcortex", "union"), "dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert groups.loc[("subcortex", "union"), "reference_mm3"] == pytest.approx(subcortex["reference_mm3"].sum())


def test_cortex_and_subcortex_of_the_protocol() -> None:
    groups = groups_of(PROTOCOL)
    assert {name: len(channels) for name, channels in groups["region_group"].items()} == {"cortex": 98, "subcortex": 16}
    assert sum(map(len, groups["lobe"].values())) == 132


def test_a_crop_is_aligned_by_its_header() -> None:
    whole = blocks()
    crop = LabelMap(whole[4:20, 2:18, 3:14], grid((16, 16, 11), (4.0, 3.0, 6.0)))
    maps = align_maps(crop, label_map(whole), PROTOCOL)
    assert (maps.shift.voxels, maps.shift.source) == ((4, 2, 3), "header")
    outside = np.count_nonzero(whole) - np.count_nonzero(crop.data)
    assert np.count_nonzero(maps.reference.data != maps.prediction.data) == outside > 0
    table = compare_maps(label_map(whole), crop, surfaces=False)
    assert table["prediction_mm3"].sum() == pytest.approx(np.count_nonzero(whole) * 3)


def test_a_lost_shift_is_found() -> None:
    whole = blocks((32, 28, 24), seed=3)
    noisy = np.where(np.random.default_rng(1).random(whole.shape) < 0.2, IDS[3], whole) * (whole > 0)
    shifted = np.zeros((50, 40, 40), dtype=np.int32)
    shifted[15:47, 2:30, 9:33] = noisy
    assert find_shift(PROTOCOL.channels_from_ids(shifted), PROTOCOL.channels_from_ids(whole)).tolist() == [-15, -2, -9]
    maps = align_maps(label_map(shifted, (70.0, -3.0, 1.0)), label_map(whole), PROTOCOL, "shift")
    assert (maps.shift.voxels, maps.shift.source) == ((-15, -2, -9), "found")
    assert np.count_nonzero(maps.prediction.data) == np.count_nonzero(noisy)


@pytest.mark.parametrize(
    ("matrix", "align", "message"),
    [
        (np.diag([1.0, 1.5, 2.1, 1.0]), "header", "expected one grid, or a crop"),
        (np.diag([1.0, 1.5, 2.1, 1.0]), "shift", "expected the same voxel size"),
        (np.array([[1, 0, 0, 0.4], [0, 1.5, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]]), "header", "--align shift"),
    ],
)
def test_other_voxels_are_rejected(matrix: np.ndarray, align: str, message: str) -> None:
    prediction = LabelMap(blocks(), Grid(blocks().shape, matrix))
    with pytest.raises(GeometryError, match=message):
        compare_maps(prediction, label_map(blocks()), align=align)


@pytest.mark.parametrize(
    ("ids", "resembles"),
    [
        ([1, 2, 3, 100], "channel numbers"),
        ([15, 42, 207], "raw labels of MICCAI 2012"),
        ([255, 207], "255 is not covered"),
        ([2, 41, 1012, 2012], "FreeSurfer"),
    ],
)
def test_error_guesses_the_label_scheme_of_foreign_ids(ids: list[int], resembles: str) -> None:
    data = blocks()
    data[5, 5, 5 : 5 + len(ids)] = ids
    data[(data != 0) & ~np.isin(data, ids)] = ids[0]
    with pytest.raises(ProtocolError, match=f"ids outside protocol 'braincolor': .*{resembles}"):
        compare_maps(label_map(data), label_map(blocks()))


def test_maps_without_regions_are_rejected() -> None:
    empty = label_map(np.zeros_like(blocks()))
    with pytest.raises(InputError, match="reference has no region"):
        compare_maps(label_map(blocks()), empty)
    with pytest.raises(InputError, match="prediction has no region"):
        compare_maps(empty, label_map(blocks()))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("1000_dseg.nii.gz", "1000"),
        ("1000_seg-BrainCOLOR_dseg.nii.gz", "1000"),
        ("sub-01_ses-2_desc-manual_dseg.nii", "sub-01_ses-2"),
        ("sub-01_space-T1w_desc-fused_dseg.mgz", "sub-01"),
        ("1000_seg.nii.gz", "1000"),
        ("a b.v2.nii.gz", "a b.v2"),
    ],
)
def test_names_of_scans(file: str, name: str) -> None:
    assert label_name(Path(file)) == name


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_folders_are_matched_by_name(tmp_path: Path) -> None:
    segmented = ("a/a_seg-BrainCOLOR_dseg.nii.gz", "a/a_space-MNI305_seg-BrainCOLOR_dseg.nii.gz")
    others = ("a/a_desc-brain_mask.nii.gz", "b/b_seg-BrainCOLOR_dseg.nii.gz", ".slant-1/c_dseg.nii.gz")
    predictions = touch(tmp_path / "p", *segmented, *others)
    reference = touch(tmp_path / "t", "a_dseg.nii.gz", "a_T1w.nii.gz")
    matches, notes = match_files((predictions,), reference)
    assert [(m.scan, m.predictions[0].name) for m in matches] == [("a", "a_seg-BrainCOLOR_dseg.nii.gz")]
    assert notes == (f"{reference} has no label map for b of {predictions}: skipped",)
    touch(reference, "c_dseg.nii.gz")
    with pytest.raises(InputError, match=r"no label map for c of .*--allow-missing"):
        match_files((predictions,), reference)
    assert len(match_files((predictions,), reference, allow_missing=True)[0]) == 1


def test_equal_names_in_different_folders_include_the_folders(tmp_path: Path) -> None:
    folder = touch(tmp_path, "x/scan_dseg.nii.gz", "y/scan_dseg.nii.gz")
    assert sorted(find_labels(folder)) == ["x/scan", "y/scan"]
    with pytest.raises(InputError, match="several label maps of scan 'x/scan': "):
        find_labels(touch(folder, "x/scan_desc-b_dseg.nii.gz"))


def test_bad_paths_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        match_files((tmp_path / "none",), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no label map"):
        find_labels(tmp_path / "empty")
    a, b = touch(tmp_path / "a", "1_dseg.nii.gz"), touch(tmp_path / "b", "2_dseg.nii.gz")
    with pytest.raises(InputError, match=r"no file names match between .* \(1\) and .* \(2\)"):
        match_files((a,), b)


def test_intervals_hold_the_mean_and_shrink_with_scans() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.1, (400, 1))
    low, high = bootstrap_interval(values, 2000, 0)
    error = 1.96 * values.std() / 20
    assert (low[0], high[0]) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.002)
    few = np.array([[0.5, 0.1, np.nan], [0.7, np.nan, np.nan]])
    low, high = bootstrap_interval(few, 2000, 0)
    assert (low[0], high[0]) == (0.5, pytest.approx(0.7))
    assert np.isnan(low[1:]).all()
    assert np.isnan(high[1:]).all()


def test_wilcoxon_of_paired_scans() -> None:
    first = np.linspace(0.5, 0.7, 8)
    better = first + np.linspace(0.01, 0.03, 8)
    found = paired_difference(first, better)
    assert (found.pairs, found.p, found.min_attainable_p) == (8, pytest.approx(2**-7), 2**-7)
    assert found.median == pytest.approx(0.02)
    assert paired_difference(first, first).p == 1
    assert np.isnan(paired_difference(first, np.full(8, np.nan)).p)


def test_holm_is_that_of_r() -> None:
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    assert holm(p) == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]


@pytest.mark.slow
def test_dice_of_the_original_slant_on_its_reference_scan(data_dir: Path) -> None:
    prediction, _ = read_label_map(data_dir / "slant-reference" / "1000_native_dseg.nii.gz")
    reference, _ = read_label_map(data_dir / "miccai2012-train" / "1000_dseg.nii.gz")
    table = compare_maps(prediction, reference, align="shift")
    assert table["dice"].mean() == pytest.approx(0.795, abs=0.0005)
    assert table["dice"].count() == 132
    assert isinstance(table, pd.DataFrame)
    assert 0.5 < table["assd_mm"].mean() < 1.5
