"""Look-up tables of a label protocol, for other programs and for the results of a scan."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from slant.errors import SettingsError
from slant.labels import LabelProtocol, Region
from slant.volumes import VolumeRow

LutFormat = Literal["freesurfer", "itksnap", "tsv"]

_ITKSNAP_HEADER = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    IDX:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
################################################
"""


def format_lut(protocol: LabelProtocol, format: LutFormat) -> str:  # noqa: A002 - the name of the command-line option
    """The text of a look-up table, ending with a line break.

    Parameters
    ----------
    format : {"freesurfer", "itksnap", "tsv"}
        ``"freesurfer"`` is a colour table for Freeview and others, with the names and colours of SLANT's
        ``BrainColorLUT.txt``; ``"itksnap"`` is a label description file; ``"tsv"`` is the BIDS ``dseg.tsv`` with the
        columns index, name, abbreviation, hemisphere, color.

    Raises
    ------
    SettingsError
        If the format is none of these.
    """
    if format == "freesurfer":
        title = f"# {protocol.name}\n#No. Label Name:                            R   G   B   A\n"
        return title + "".join(_freesurfer_line(region) for region in protocol.regions)
    if format == "itksnap":
        return _ITKSNAP_HEADER + "".join(_itksnap_line(region) for region in protocol.regions)
    if format == "tsv":
        return "index\tname\tabbreviation\themisphere\tcolor\n" + "".join(_tsv_line(r) for r in protocol.regions)
    raise SettingsError(f"'{format}' is not a look-up table format; expected one of {', '.join(get_args(LutFormat))}")


def read_lut(path: Path, rows: Mapping[int, VolumeRow]) -> LabelProtocol:
    """The protocol in a look-up table of format ``"tsv"``.

    Parameters
    ----------
    rows : mapping of int to VolumeRow
        Rows of the table of volumes by region id, which have the tissues and lobes.

    Raises
    ------
    OSError, KeyError, ValueError
        If the file cannot be read, or lacks a column or a region.
    ProtocolError
        If the regions are not a protocol.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return LabelProtocol("results", tuple(_region(line, rows) for line in csv.DictReader(file, delimiter="\t")))


def freesurfer_name(region: Region) -> str:
    """The region's name without spaces, as in SLANT's ``BrainColorLUT.txt``.

    A cortical abbreviation is padded with dashes to six characters: ``Right FuG fusiform gyrus`` becomes
    ``Right-FuG---fusiform-gyrus``. The two phrases that are too long for the column of the table are shortened.
    """
    name = region.name
    bare = region.abbreviation.removeprefix(f"{region.hemisphere}-")
    name = name.replace(f" {bare} ", f" {bare:-<6}", 1)
    name = name.replace(" part of the inferior frontal gyrus", " part of the IFG").removesuffix(" medial segment")
    return name.replace(" ", "-")


def _freesurfer_line(region: Region) -> str:
    red, green, blue = region.color
    return f"{region.id:<3} {freesurfer_name(region):<39} {red:<3} {green:<3} {blue:<3} 0\n"


def _itksnap_line(region: Region) -> str:
    red, green, blue = region.color
    shown = int(region.id != 0)
    return f'{region.id:5d} {red:5d} {green:4d} {blue:4d} {shown:8d} {shown:2d} {shown:2d}    "{region.name}"\n'


def _tsv_line(region: Region) -> str:
    color = "#" + bytes(region.color).hex()
    return f"{region.id}\t{region.name}\t{region.abbreviation}\t{region.hemisphere}\t{color}\n"


def _region(line: Mapping[str, str], rows: Mapping[int, VolumeRow]) -> Region:
    i = int(line["index"])
    values: dict[str, Any] = {
        "hemisphere": line["hemisphere"],
        "tissue": rows[i].tissue if i else "background",
        "lobe": rows[i].lobe if i else "background",
        "color": tuple(bytes.fromhex(line["color"].removeprefix("#"))),
    }
    return Region(i, line["name"], line["abbreviation"], **values)
