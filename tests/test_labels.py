"""Channels and ids map to each other, and the shipped protocol is complete."""

from __future__ import annotations

import pickle
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from slant.errors import ProtocolError, SlantError
from slant.grid import axis_aligned_grid
from slant.io import resources
from slant.io.resources import load_protocol, read_protocol, resource
from slant.labels import LabelProtocol, Region

BACKGROUND = Region(0, "background", "bg", "midline", "background", "background", (0, 0, 0))
LEFT = Region(5, "Left Moon", "L-Mo", "L", "gray", "moons", (1, 2, 3))
RIGHT = Region(9, "Right Moon", "R-Mo", "R", "gray", "moons", (4, 5, 6))
SUN = Region(7, "Sun", "Su", "midline", "white", "stars", (7, 8, 9))
TINY = LabelProtocol("tiny", (BACKGROUND, LEFT, SUN, RIGHT))

IDS_OF_SLANT = [
    *(0, 4, 11, 23, 30, 31, 32, 35, 36, 37, 38, 39, 40, 41, 44, 45, 47, 48, 49, 50, 51, 52, 55, 56, 57, 58, 59, 60),
    *(61, 62, 71, 72, 73, 75, 76, *range(100, 110), *range(112, 126), 128, 129, *range(132, 158)),
    *(*range(160, 188), *range(190, 208)),
]


def test_shipped_protocol_has_the_channels_of_slant():
    protocol = load_protocol()
    assert len(protocol) == 133
    assert protocol.ids.tolist() == IDS_OF_SLANT


def test_channels_to_ids_and_back_is_the_identity():
    protocol = load_protocol()
    channels = np.random.default_rng(0).integers(0, 133, (7, 8, 9)).astype(np.uint8)
    ids = protocol.ids_from_channels(channels)
    assert ids.dtype == np.int16
    back = protocol.channels_from_ids(ids)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, channels)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64])
def test_channels_from_ids_in_every_integer_dtype(dtype):
    channels = TINY.channels_from_ids(np.array([[9, 0], [7, 5]], dtype=dtype))
    np.testing.assert_array_equal(channels, [[3, 0], [2, 1]])


def test_unknown_ids_are_named():
    with pytest.raises(ProtocolError, match=r"3 voxels have ids outside protocol 'tiny': -1, 6, 300;"):
        TINY.channels_from_ids(np.array([0, 5, 300, 6, -1]))


def test_a_long_list_of_unknown_ids_is_shortened():
    with pytest.raises(ProtocolError, match=r"10, 11, .*, 29 and 70 more"):
        TINY.channels_from_ids(np.arange(10, 100))


def test_unknown_ids_become_background_on_request():
    ids = np.array([0, 5, 300, 6, -1, 255, 9, 10])
    channels = TINY.channels_from_ids(ids, unknown="background")
    np.testing.assert_array_equal(channels, [0, 1, 0, 0, 0, 0, 3, 0])


def test_the_input_array_is_not_changed():
    ids = np.array([5, 6, 9])
    TINY.channels_from_ids(ids, unknown="background")
    np.testing.assert_array_equal(ids, [5, 6, 9])


def test_floats_are_refused_in_both_directions():
    with pytest.raises(ProtocolError, match="ids must be integers, found an array of float64"):
        TINY.channels_from_ids(np.array([0.0, 5.0]))
    with pytest.raises(ProtocolError, match="channels must be integers, found an array of float32"):
        TINY.ids_from_channels(np.array([0, 1], dtype=np.float32))


@pytest.mark.parametrize("invalid", [-1, 4, 255])
def test_a_number_that_is_not_a_channel_is_refused(invalid: int):
    with pytest.raises(ProtocolError, match=f"channels 0 to 3, found {invalid}$"):
        TINY.ids_from_channels(np.array([0, invalid]))


def test_mirrored_channels_of_a_small_protocol():
    np.testing.assert_array_equal(TINY.mirrored_channels, [0, 3, 2, 1])


def test_mirroring_twice_changes_nothing():
    mirrored = load_protocol().mirrored_channels
    assert mirrored.dtype == np.uint8
    np.testing.assert_array_equal(mirrored[mirrored], np.arange(133))


def test_partners_are_the_same_region_on_the_other_side():
    protocol = load_protocol()
    for region, channel in zip(protocol.regions, protocol.mirrored_channels, strict=True):
        partner = protocol.regions[channel]
        assert {region.hemisphere, partner.hemisphere} in ({"L", "R"}, {"midline"})
        assert partner.name.split(" ")[1:] == region.name.split(" ")[1:]
        assert (partner.tissue, partner.lobe) == (region.tissue, region.lobe)


@pytest.mark.parametrize(
    ("region_id", "partner"),
    [(75, 76), (23, 30), (31, 32), (36, 37), (122, 123), (206, 207), (35, 35), (71, 71), (0, 0)],
)
def test_partner_ids(region_id: int, partner: int):
    protocol = load_protocol()
    channel = protocol.channels_from_ids(np.array([region_id, partner]))
    assert protocol.mirrored_channels[channel].tolist() == channel[::-1].tolist()


def test_left_basal_forebrain_is_75():
    assert load_protocol().by_id(75).name == "Left Basal Forebrain"
    assert load_protocol().by_name("Right Basal Forebrain").id == 76


def test_arrays_of_a_protocol_are_read_only():
    for array in (TINY.ids, TINY.mirrored_channels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_by_id_names_the_nearest_ids():
    with pytest.raises(ProtocolError, match=r"no id 127; the nearest are \[125, 128\]"):
        load_protocol().by_id(127)


def test_by_name_suggests_the_nearest_name():
    with pytest.raises(ProtocolError, match="did you mean 'Left Hippocampus'"):
        load_protocol().by_name("Left Hipocampus")
    with pytest.raises(ProtocolError, match=r"no region 'zzzz'$"):
        load_protocol().by_name("zzzz")


def test_groups_of_a_small_protocol():
    assert TINY.groups("lobe") == {"moons": (5, 9), "stars": (7,)}
    assert TINY.groups("tissue") == {"gray": (5, 9), "white": (7,)}
    assert TINY.groups("hemisphere") == {"L": (5,), "midline": (7,), "R": (9,)}


@pytest.mark.parametrize("by", ["tissue", "lobe", "hemisphere"])
def test_every_region_is_in_one_group(by):
    protocol = load_protocol()
    members = [i for ids in protocol.groups(by).values() for i in ids]
    assert sorted(members) == protocol.ids[1:].tolist()


def test_lobes_of_the_shipped_protocol():
    lobes = load_protocol().groups("lobe")
    counts = {"ventricles": 6, "subcortical": 18, "brainstem": 1, "cerebellum": 7, "white matter": 2, "limbic": 10}
    counts |= {"insula": 4, "frontal": 38, "parietal": 14, "occipital": 16, "temporal": 16}
    assert {lobe: len(ids) for lobe, ids in lobes.items()} == counts
    assert lobes["insula"] == (102, 103, 172, 173)
    assert lobes["ventricles"] == (4, 11, 49, 50, 51, 52)


def test_protocol_survives_pickling():
    protocol = load_protocol()
    assert len(protocol.mirrored_channels) == len(protocol)
    assert pickle.loads(pickle.dumps(protocol)) == protocol  # noqa: S301


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ((), "ids that begin with 0"),
        ((LEFT, RIGHT), "ids that begin with 0"),
        ((BACKGROUND, RIGHT, LEFT), "ascending ids"),
        ((BACKGROUND, LEFT, SUN, replace(RIGHT, id=7)), "every id .* several times: 7"),
        ((BACKGROUND, SUN, replace(SUN, id=8, abbreviation="x")), "every name .*Sun"),
        ((BACKGROUND, SUN, replace(SUN, id=8, name="x")), "every abbreviation .*Su"),
        ((BACKGROUND, LEFT, SUN), "region 5 'Left Moon' has no partner 'Right Moon'"),
        ((BACKGROUND, *(replace(SUN, id=i, name=f"{i}", abbreviation=f"{i}") for i in range(1, 256))), "256 regions"),
    ],
)
def test_invalid_protocols_are_refused(regions: tuple[Region, ...], message: str):
    with pytest.raises(ProtocolError, match=message):
        LabelProtocol("invalid", regions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": -1}, "an id must be 0 to 32767"),
        ({"id": 40000}, "an id must be 0 to 32767"),
        ({"hemisphere": "left"}, "hemisphere is 'left'"),
        ({"hemisphere": "R"}, "hemisphere is 'R', so the name must begin with 'Right'"),
        ({"tissue": "grey"}, "tissue is 'grey'"),
        ({"color": (0, 0, 256)}, r"color is \(0, 0, 256\)"),
        ({"color": (0, 0)}, r"color is \(0, 0\)"),
    ],
)
def test_invalid_regions_are_refused(change: dict[str, object], message: str):
    with pytest.raises(ProtocolError, match=message):
        replace(LEFT, **change)


def _lines() -> list[str]:
    return resource("atlases", "braincolor", "regions.tsv").read_text().splitlines()


def _write(folder: Path, lines: list[str]) -> Path:
    path = folder / "regions.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_rows_may_come_in_any_order(tmp_path: Path):
    header, *rows = _lines()
    assert read_protocol(_write(tmp_path, [header, *rows[::-1]]), "braincolor") == load_protocol()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\tlobe\tcolor", "\tl\tc", r"regions\.tsv lacks the columns lobe, color; expected id, name"),
        ("\n206\t", "\n207\t", r"regions\.tsv: every id .* several times: 207"),
        ("Left TTG", "Left TT", r"region 206 'Right TTG .* has no partner 'Left TTG transverse"),
        ("\n30\t", "\nthirty\t", "id 'thirty' of 'Left Accumbens Area' is not an integer"),
        ("#ffff62", "red", "color 'red' is not of the form #rrggbb"),
        ("#ffff62", "#ffff6", "color '#ffff6' is not"),
        ("#ffff62", "#ffff6g", "color '#ffff6g' is not"),
        ("#ffff62", "#f f f6", "color '#f f f6' is not"),
    ],
)
def test_invalid_tables_are_refused(tmp_path: Path, old: str, new: str, message: str):
    text = "\n".join(_lines())
    assert old in text
    with pytest.raises(ProtocolError, match=message):
        read_protocol(_write(tmp_path, text.replace(old, new).splitlines()), "x")


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00\xd8", b"a\tb\n1\t2\t3\n1\t2\t3\t4\n"])
def test_an_unreadable_table_is_named(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "t.tsv").write_bytes(content)
    with pytest.raises(ProtocolError, match=r"t\.tsv cannot be read"):
        read_protocol(tmp_path / "t.tsv", "x")


def test_an_unknown_protocol_gives_the_known_ones():
    with pytest.raises(ProtocolError, match="no label protocol 'aseg'; the package has braincolor"):
        load_protocol("aseg")


def test_resources_inside_the_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "slant"
    (tmp_path / "atlases").mkdir()
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert resource("atlases") == tmp_path / "atlases"
    (package / "atlases").mkdir(parents=True)
    assert resource("atlases") == package / "atlases"


def test_an_absent_resource_names_the_searched_paths():
    with pytest.raises(SlantError, match=r"'atlases/moon.tsv'.*slant/atlases/moon.tsv nor .*install the package again"):
        resource("atlases", "moon.tsv")


def test_atlas_file_describes_the_grid_of_slant():
    atlas = tomllib.loads(resource("atlases", "braincolor", "atlas.toml").read_text())
    grid = atlas["grid"]
    mni305 = axis_aligned_grid(tuple(grid["shape"]), grid["voxel_mm"], grid["first_voxel_ras_mm"])
    assert mni305.shape == (172, 220, 156)
    np.testing.assert_allclose(mni305.ras_from_voxel[:3, 3], (-86.095, -126.51, -68.25))
    assert {"title", "source", "papers", "licence"} <= atlas.keys()


def test_unknown_ids_of_manual_labels_become_background(data_dir: Path):
    labels = np.asarray(nib.load(data_dir / "miccai2012-train" / "1000_dseg.nii.gz").dataobj).astype(np.int32)
    with pytest.raises(ProtocolError, match="outside protocol 'braincolor'"):
        load_protocol().channels_from_ids(labels)
    back = load_protocol().ids_from_channels(load_protocol().channels_from_ids(labels, unknown="background"))
    known = np.isin(labels, load_protocol().ids)
    np.testing.assert_array_equal(back, np.where(known, labels, 0))


def test_names_are_those_of_the_original_volume_table(data_dir: Path):
    table = pd.read_csv(data_dir / "slant-reference" / "1000_label_volumes.csv")
    ours = [(region.name, region.id) for region in load_protocol().regions[1:]]
    assert ours == list(zip(table.iloc[:, 0], table.iloc[:, 1], strict=True))


def test_tissues_are_those_of_the_challenge(data_dir: Path):
    table = pd.read_csv(data_dir / "miccai2012-train" / "label-information.csv", index_col="Label Number")
    classes = {"gray": "GM", "white": "WM", "csf": "CSF"}
    for region in load_protocol().regions[1:]:
        row = table.loc[region.id]
        assert row["Class"] == classes[region.tissue]
        assert re.sub(" +", " ", row["Label Name"]) == region.name
