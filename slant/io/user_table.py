"""Reads tables that users write, as spreadsheets save them."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from slant.files import read_text


def read_user_table(path: Path) -> pd.DataFrame:
    """The cells of a tab-separated table as text, without spaces around names and values; empty cells are empty text.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not such a table.
    """
    table = pd.read_csv(io.StringIO(read_text(path)), sep="\t", dtype=str, keep_default_na=False)
    numbered = isinstance(table.index, pd.RangeIndex)  # otherwise the first cells of the lines became an index
    if not numbered:
        raise ValueError("some lines have more columns than the header")
    table.columns = table.columns.str.strip()
    return table.fillna("").map(str.strip)
