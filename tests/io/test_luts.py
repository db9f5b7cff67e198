"""Look-up tables agree with the protocol when they are read back."""

from __future__ import annotations

import io
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from slant.errors import SettingsError
from slant.io.luts import format_lut, freesurfer_name
from slant.io.resources import load_protocol

_FREESURFER = re.compile(r"(\d+)\s+(\S+)\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)")


def _freesurfer_rows(text: str) -> list[tuple[str, ...]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    matches = [_FREESURFER.fullmatch(line.strip()) for line in lines]
    assert all(matches)
    return [match.groups() for match in matches if match]


def test_the_freesurfer_table_agrees_with_the_protocol():
    protocol = load_protocol()
    rows = _freesurfer_rows(format_lut(protocol, "freesurfer"))
    assert [int(row[0]) for row in rows] == protocol.ids.tolist()
    assert [tuple(map(int, row[2:5])) for row in rows] == [region.color for region in protocol.regions]
    assert len({row[1] for row in rows}) == len(protocol)


@pytest.mark.parametrize(
    ("region_id", "name"),
    [
        (0, "background"),
        (4, "3rd-Ventricle"),
        (49, "Right-Inf-Lat-Vent"),
        (71, "Cerebellar-Vermal-Lobules-I-V"),
        (112, "Right-CO----central-operculum"),
        (122, "Right-FuG---fusiform-gyrus"),
        (151, "Left-MPrG--precentral-gyrus"),
        (163, "Left-OpIFG-opercular-part-of-the-IFG"),
        (132, "Right-ITG---inferior-temporal-gyrus"),
    ],
)
def test_freesurfer_names(region_id: int, name: str):
    assert freesurfer_name(load_protocol().by_id(region_id)) == name


def test_the_freesurfer_table_is_that_of_the_original(data_dir: Path):
    original = (data_dir / "slant-reference" / "BrainColorLUT.txt").read_text()
    ours = format_lut(load_protocol(), "freesurfer")
    assert _freesurfer_rows(ours) == _freesurfer_rows(original)
    regions_only = [line for line in original.splitlines() if line and not line.startswith("#")]
    assert ours.splitlines()[2:] == [line.rstrip() for line in regions_only]


def test_the_itksnap_table_agrees_with_the_protocol():
    protocol = load_protocol()
    lines = [line for line in format_lut(protocol, "itksnap").splitlines() if not line.startswith("#")]
    rows = [shlex.split(line) for line in lines]
    assert [int(row[0]) for row in rows] == protocol.ids.tolist()
    assert [tuple(map(int, row[1:4])) for row in rows] == [region.color for region in protocol.regions]
    assert [row[7] for row in rows] == [region.name for region in protocol.regions]
    assert rows[0][4:7] == ["0", "0", "0"]
    assert all(row[4:7] == ["1", "1", "1"] for row in rows[1:])


def test_the_tsv_table_agrees_with_the_protocol():
    protocol = load_protocol()
    table = pd.read_csv(io.StringIO(format_lut(protocol, "tsv")), sep="\t", keep_default_na=False)
    assert table.columns.tolist() == ["index", "name", "abbreviation", "hemisphere", "color"]
    assert table["index"].tolist() == protocol.ids.tolist()
    for column in ("name", "abbreviation", "hemisphere"):
        assert table[column].tolist() == [getattr(region, column) for region in protocol.regions]
    colors = [tuple(bytes.fromhex(code.removeprefix("#"))) for code in table["color"]]
    assert colors == [region.color for region in protocol.regions]


@pytest.mark.parametrize("format_", ["freesurfer", "itksnap", "tsv"])
def test_every_table_ends_with_one_line_break(format_):
    text = format_lut(load_protocol(), format_)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_a_renamed_region_appears_in_every_format():
    protocol = load_protocol()
    renamed = replace(protocol, regions=(replace(protocol.regions[0], name="nothing"), *protocol.regions[1:]))
    assert all("nothing" in format_lut(renamed, format_) for format_ in ("freesurfer", "itksnap", "tsv"))


def test_an_unknown_format_gives_the_known_ones():
    with pytest.raises(SettingsError, match=r"'mrtrix'.*freesurfer, itksnap, tsv"):
        format_lut(load_protocol(), "mrtrix")
