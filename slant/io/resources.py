"""Find the tables and settings that ship with the package, installed or in a source checkout."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from slant.errors import ProtocolError, SlantError
from slant.labels import Hemisphere, LabelProtocol, Region, Tissue

if TYPE_CHECKING:
    import pandas as pd

_PACKAGE = Path(__file__).resolve().parents[1]
_COLUMNS = ("id", "name", "abbreviation", "hemisphere", "tissue", "lobe", "color")


def resource(*parts: str) -> Path:
    """Path of a shipped file or folder, in the installed package or, in a source checkout, next to the package.

    Parameters
    ----------
    *parts : str
        Parts of the path, for example ``"atlases", "braincolor", "regions.tsv"``.

    Raises
    ------
    SlantError
        If it is in neither folder.
    """
    paths = [root.joinpath(*parts) for root in (_PACKAGE, _PACKAGE.parent)]
    for path in paths:
        if path.exists():
            return path
    raise SlantError(
        f"'{'/'.join(parts)}', which ships with the package, was found neither at {paths[0]} nor at {paths[1]}; "
        "the installation is incomplete, install the package again"
    )


def shipped_protocols() -> tuple[str, ...]:
    """Names of the label protocols that ship with the package."""
    return tuple(sorted(table.parent.name for table in resource("atlases").glob("*/regions.tsv")))


@cache
def load_protocol(name: str = "braincolor") -> LabelProtocol:
    """Load the label protocol of a shipped atlas or of a table of regions.

    Parameters
    ----------
    name : str, optional
        Folder of ``atlases/`` that has the protocol's ``regions.tsv``, or the path of another table, which must end in
        ``.tsv``; the protocol then has the name of the file.

    Raises
    ------
    ProtocolError
        If there is no such atlas, or its table is invalid.
    """
    if name.endswith(".tsv"):
        return read_protocol(Path(name), Path(name).stem)
    known = shipped_protocols()
    if name not in known:
        raise ProtocolError(
            f"there is no label protocol '{name}'; the package has {', '.join(known)}; "
            "for another protocol, give the path of its table, which must end in .tsv"
        )
    return read_protocol(resource("atlases", name, "regions.tsv"), name)


def read_protocol(path: Path, name: str) -> LabelProtocol:
    """Read a label protocol from a table of regions, with rows in any order.

    Parameters
    ----------
    path : Path
        Tab-separated table with the columns id, name, abbreviation, hemisphere, tissue, lobe, color (``#rrggbb``).

    Raises
    ------
    ProtocolError
        If the file cannot be read, a column is missing, an id or colour is malformed, or the regions are not a valid
        `LabelProtocol`.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ProtocolError(f"{path} cannot be read as a tab-separated table: {error}") from error
    missing = [column for column in _COLUMNS if column not in table.columns]
    if missing:
        raise ProtocolError(f"{path} lacks the columns {', '.join(missing)}; expected {', '.join(_COLUMNS)}")
    try:
        regions = [_region(row) for _, row in table.iterrows()]
        return LabelProtocol(name, tuple(sorted(regions, key=lambda region: region.id)))
    except ProtocolError as error:
        raise ProtocolError(f"{path}: {error}") from error


def _region(row: pd.Series[str]) -> Region:
    try:
        region_id = int(row["id"])
    except ValueError:
        raise ProtocolError(f"id '{row['id']}' of '{row['name']}' is not an integer") from None
    if re.fullmatch("#[0-9A-Fa-f]{6}", row["color"]) is None:
        raise ProtocolError(f"color '{row['color']}' is not of the form #rrggbb")
    red, green, blue = bytes.fromhex(row["color"][1:])
    hemisphere, tissue = cast(Hemisphere, row["hemisphere"]), cast(Tissue, row["tissue"])  # Region checks the values
    return Region(region_id, row["name"], row["abbreviation"], hemisphere, tissue, row["lobe"], (red, green, blue))
