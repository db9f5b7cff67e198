"""Volumes add up and agree with the published table; Dice agrees with values computed by hand."""

from __future__ import annotations

import csv
import math

import nibabel as nib
import numpy as np
import pytest

from slant.errors import GeometryError, InputError, ProtocolError
from slant.grid import Grid
from slant.io.resources import load_protocol
from slant.labels import LabelProtocol, Region
from slant.volume import LabelMap
from slant.volumes import (
    VolumeRow,
    asymmetry_percent,
    dice_per_region,
    head_size_warning,
    intracranial_volume_mm3,
    mean_dice,
    region_volumes,
)

GRAY = (1, 2, 3)
SMALL = LabelProtocol(
    "small",
    (
        Region(0, "background", "bg", "midline", "background", "background", GRAY),
        Region(4, "3rd Ventricle", "3V", "midline", "csf", "ventricles", GRAY),
        Region(36, "Right Caudate", "R-Cau", "R", "gray", "subcortical", GRAY),
        Region(37, "Left Caudate", "L-Cau", "L", "gray", "subcortical", GRAY),
        Region(100, "Right ACgG", "R-ACgG", "R", "gray", "limbic", GRAY),
        Region(101, "Left ACgG", "L-ACgG", "L", "gray", "limbic", GRAY),
    ),
)
"""Voxels of 3 mm3 on the oblique grid: 4 of the ventricle, 3 right and 5 left caudate, 2 right ACgG, no left one."""


@pytest.fixture
def small_map(oblique_grid) -> LabelMap:
    data = np.zeros(oblique_grid.shape, dtype=np.int16)
    data.flat[10:24] = [4] * 4 + [36] * 3 + [37] * 5 + [100] * 2
    return LabelMap(data, oblique_grid)


def _row(rows: tuple[VolumeRow, ...], name: str) -> VolumeRow:
    (row,) = [r for r in rows if r.name == name]
    return row


def test_rows_of_a_small_map(small_map):
    rows = region_volumes(small_map, SMALL, intracranial_mm3=420.0)
    found = {r.name: (r.level, r.index, r.hemisphere, round(r.volume_mm3, 9)) for r in rows}
    assert found == {
        "3rd Ventricle": ("region", 4, "midline", 12),
        "Right Caudate": ("region", 36, "R", 9),
        "Left Caudate": ("region", 37, "L", 15),
        "Right ACgG": ("region", 100, "R", 6),
        "Left ACgG": ("region", 101, "L", 0),
        "csf": ("tissue", None, "both", 12),
        "Left gray": ("tissue", None, "L", 15),
        "Right gray": ("tissue", None, "R", 15),
        "gray": ("tissue", None, "both", 30),
        "ventricles": ("lobe", None, "both", 12),
        "Left subcortical": ("lobe", None, "L", 15),
        "Right subcortical": ("lobe", None, "R", 9),
        "subcortical": ("lobe", None, "both", 24),
        "Left limbic": ("lobe", None, "L", 0),
        "Right limbic": ("lobe", None, "R", 6),
        "limbic": ("lobe", None, "both", 6),
        "Left brain without ventricles": ("brain", None, "L", 15),
        "Right brain without ventricles": ("brain", None, "R", 15),
        "brain without ventricles": ("brain", None, "both", 30),
        "Left brain with ventricles": ("brain", None, "L", 15),
        "Right brain with ventricles": ("brain", None, "R", 15),
        "brain with ventricles": ("brain", None, "both", 42),
        "estimated total intracranial volume": ("intracranial", None, "both", 420),
    }
    for row in rows:
        assert row.etiv_fraction == pytest.approx(row.volume_mm3 / 420)


def test_left_and_right_rows_have_the_same_asymmetry(small_map):
    rows = region_volumes(small_map, SMALL)
    for side in ("Left", "Right"):
        assert _row(rows, f"{side} Caudate").asymmetry_percent == pytest.approx(50)
        assert _row(rows, f"{side} subcortical").asymmetry_percent == pytest.approx(50)
        assert _row(rows, f"{side} ACgG").asymmetry_percent == pytest.approx(-200)
        assert _row(rows, f"{side} gray").asymmetry_percent == pytest.approx(0)
    for name in ("3rd Ventricle", "gray", "subcortical", "brain with ventricles"):
        assert math.isnan(_row(rows, name).asymmetry_percent)


def test_a_sum_has_the_tissue_and_lobe_that_all_its_regions_share(small_map):
    rows = region_volumes(small_map, SMALL)
    assert (_row(rows, "gray").tissue, _row(rows, "gray").lobe) == ("gray", "")
    assert (_row(rows, "limbic").tissue, _row(rows, "limbic").lobe) == ("gray", "limbic")
    assert (_row(rows, "brain with ventricles").tissue, _row(rows, "Right Caudate").lobe) == ("", "subcortical")


def test_without_intracranial_volume_fractions_are_nan(small_map):
    rows = region_volumes(small_map, SMALL)
    assert {r.level for r in rows} == {"region", "tissue", "lobe", "brain"}
    assert all(math.isnan(r.etiv_fraction) for r in rows)


def test_sums_of_the_real_protocol_add_up(oblique_grid):
    protocol = load_protocol()
    data = np.random.default_rng(0).choice(protocol.ids, size=oblique_grid.shape)
    rows = region_volumes(LabelMap(data, oblique_grid), protocol)
    regions = [r for r in rows if r.level == "region"]
    assert [r.index for r in regions] == protocol.ids[1:].tolist()
    assert len(regions) == 132
    labelled_mm3 = np.count_nonzero(data) * oblique_grid.voxel_volume_mm3
    for level in ("tissue", "lobe"):
        assert sum(r.volume_mm3 for r in rows if r.level == level and r.hemisphere == "both") == pytest.approx(
            labelled_mm3
        )
        for side in ("L", "R"):
            expected = sum(r.volume_mm3 for r in regions if r.hemisphere == side)
            assert sum(r.volume_mm3 for r in rows if r.level == level and r.hemisphere == side) == pytest.approx(
                expected
            )
    assert _row(rows, "brain with ventricles").volume_mm3 == pytest.approx(labelled_mm3)
    without = _row(rows, "brain without ventricles").volume_mm3 + _row(rows, "csf").volume_mm3
    assert without == pytest.approx(labelled_mm3)
    for level in ("region", "tissue", "lobe", "brain"):
        for field in ("name", "abbreviation"):
            values = [getattr(r, field) for r in rows if r.level == level]
            assert len(set(values)) == len(values)


def test_sums_of_a_protocol_with_background_only_are_zero(oblique_grid):
    rows = region_volumes(
        LabelMap(np.zeros((7, 8, 9), np.uint8), oblique_grid), LabelProtocol("none", SMALL.regions[:1])
    )
    assert all(r.volume_mm3 == 0 for r in rows)


def test_an_id_outside_the_protocol_is_refused(small_map):
    data = small_map.data.copy()
    data.flat[:3] = 15, 15, -1
    with pytest.raises(ProtocolError, match=r"3 voxels have ids outside protocol 'small': \[-1, 15\]"):
        region_volumes(LabelMap(data, small_map.grid), SMALL)


@pytest.mark.parametrize("volume", [0.0, -1.0, math.nan, math.inf])
def test_an_intracranial_volume_must_be_positive(small_map, volume):
    with pytest.raises(GeometryError, match="must be positive"):
        region_volumes(small_map, SMALL, intracranial_mm3=volume)


@pytest.mark.parametrize(
    ("left", "right", "expected"), [(3, 1, 100), (1, 3, -100), (2, 2, 0), (5, 0, 200), (0, 5, -200)]
)
def test_asymmetry(left, right, expected):
    assert asymmetry_percent(left, right) == pytest.approx(expected)


def test_asymmetry_of_two_empty_sides_is_nan():
    assert math.isnan(asymmetry_percent(0, 0))


def test_a_head_that_is_scaled_up_is_smaller_than_the_template(oblique_grid):
    scaling = np.eye(4)
    scaling[:3, :3] = 1.1 * oblique_grid.ras_from_voxel[:3, :3] / np.array([1.0, 1.5, 2.0])
    assert intracranial_volume_mm3(1331.0, scaling) == pytest.approx(1000.0)
    assert intracranial_volume_mm3(1000.0, np.linalg.inv(scaling)) == pytest.approx(1331.0)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_singular_affine_is_refused(value):
    with pytest.raises(GeometryError, match="must be invertible"):
        intracranial_volume_mm3(1000.0, np.diag([1.0, value, 1.0, 1.0]))


@pytest.fixture
def two_maps(oblique_grid) -> tuple[LabelMap, LabelMap]:
    """Region 4: 2 of 3 voxels and 1 false one; 36: missed; 37: correct; 100: not in the reference."""
    prediction, reference = (np.zeros(oblique_grid.shape, dtype=np.int16) for _ in range(2))
    reference.flat[:10] = [4, 4, 4, 36, 36, 37, 37, 0, 0, 0]
    prediction.flat[:10] = [4, 4, 0, 0, 0, 37, 37, 4, 100, 100]
    return LabelMap(prediction, oblique_grid), LabelMap(reference.astype(np.uint8), oblique_grid)


def test_dice_of_a_small_map(two_maps):
    found = dice_per_region(*two_maps, ids=SMALL.ids)
    assert list(found) == [4, 36, 37, 100, 101]
    assert (found[4], found[36], found[37]) == pytest.approx((2 / 3, 0, 1))
    assert math.isnan(found[100])
    assert math.isnan(found[101])
    assert mean_dice(*two_maps, ids=SMALL.ids) == pytest.approx(5 / 9)


def test_dice_of_a_map_with_itself_is_one(small_map):
    assert mean_dice(small_map, small_map, SMALL.ids) == 1


def test_dice_of_maps_on_different_grids_is_refused(two_maps):
    on_other_grid = LabelMap(two_maps[1].data, Grid((7, 8, 9), np.eye(4)))
    with pytest.raises(GeometryError, match="not on the reference's grid"):
        dice_per_region(two_maps[0], on_other_grid, SMALL.ids)


def test_a_reference_without_regions_is_refused(two_maps):
    with pytest.raises(InputError, match="none of the regions"):
        mean_dice(*two_maps, ids=[0, 100, 101])


def test_the_published_map_has_the_published_volumes(data_dir):
    folder = data_dir / "slant-reference"
    image = nib.load(folder / "1000_native_dseg.nii.gz")
    data = np.asarray(image.dataobj).astype(np.uint8)
    rows = region_volumes(LabelMap(data, Grid(image.shape, image.affine)), load_protocol())
    with (folder / "1000_label_volumes.csv").open() as table:
        expected = {int(r["Label Number (BrainCOLOR)"]): float(r["Label Volume (mm^3)"]) for r in csv.DictReader(table)}
    assert len(expected) == 132
    assert {r.index: r.volume_mm3 for r in rows if r.level == "region"} == expected


def volume_row(abbreviation: str, cm3: float) -> VolumeRow:
    return VolumeRow("brain", None, abbreviation, abbreviation, "both", "", "", 1000 * cm3, 1.0, math.nan)


def test_a_head_of_an_impossible_size_has_a_warning_that_names_the_voxel_size() -> None:
    large = [volume_row("brain with ventricles", 2006), volume_row("eTIV", 2313), volume_row("brain", 9999)]
    (warning,) = head_size_warning(large)
    assert "brain of 2006 cm3 (expected 600 to 1900), eTIV of 2313 cm3 (expected 750 to 2200)" in warning
    assert "the voxel size in the header is likely wrong: " in warning
    (warning,) = head_size_warning([volume_row("brain with ventricles", 500), volume_row("eTIV", 1400)])
    assert "brain of 500 cm3" in warning
    assert "eTIV" not in warning
    assert "or part of the brain is missing" in warning


@pytest.mark.parametrize(("brain", "etiv"), [(995, 1060), (1543, 1694), (1712, 1892)])  # smallest, largest, MNI152
def test_heads_of_possible_sizes_have_no_warning(brain: float, etiv: float) -> None:
    assert head_size_warning([volume_row("brain with ventricles", brain), volume_row("eTIV", etiv)]) == ()
    assert head_size_warning([]) == ()
