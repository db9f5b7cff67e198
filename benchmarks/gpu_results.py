"""The folder of the results of `gpu.py`, and what its parts are given."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pieces import MIB, PIECE_MIB, write_pieces

COLUMNS = ("part", "quantity", "value", "unit", "note")


@dataclass(frozen=True)
class Options:
    """What a part needs to know.

    Attributes
    ----------
    seconds : float
        Time for the part.
    models : tuple of str
        Embedded models whose labels are compared.
    step_count : int
        Number of training steps for each mean.
    fit_steps : bool
        Whether the schedule of the stage whole ends with this training: its number of steps follows from their time.
    """

    pack: Path
    out: Path
    work: Path
    device: str
    seconds: float
    tests_seconds: float
    models: tuple[str, ...]
    step_count: int
    fit_steps: bool = False

    def with_seconds(self, seconds: float) -> Options:
        """The same with another time."""
        return replace(self, seconds=seconds)

    def to_json(self) -> str:
        """Text for the command line of a part."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Options:
        """The options of `to_json`."""
        values = json.loads(text)
        paths = {name: Path(values.pop(name)) for name in ("pack", "out", "work")}
        return cls(**paths, **{**values, "models": tuple(values["models"])})


@dataclass(frozen=True)
class Results:
    """The table of results, to which every number is added as soon as it is known."""

    out: Path

    @property
    def path(self) -> Path:
        """The file of the table."""
        return self.out / "results.tsv"

    def row(self, part: str, quantity: str, value: object, unit: str = "", note: str = "") -> None:
        """Print a number, and add it to the table."""
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        cells = [" ".join(cell.split()) for cell in (part, quantity, shown, unit, note)]
        header = "" if self.path.exists() else "\t".join(COLUMNS) + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(header + "\t".join(cells) + "\n")
        if part != "run":
            print(f"{quantity}: {' '.join(cells[2:4])}{f' ({cells[4]})' if cells[4] else ''}", flush=True)

    def number(self, part: str, quantity: str) -> float | None:
        """The last number of this name; None if there is none."""
        if not self.path.is_file():
            return None
        rows = [line.split("\t") for line in self.path.read_text(encoding="utf-8").splitlines()]
        found = [row[2] for row in rows if row[:2] == [part, quantity]]
        return float(found[-1]) if found else None


def deliver(path: Path, out: Path) -> None:
    """Copy a file to the results, if it exists, under a temporary name until it is complete; a large one in pieces."""
    if not path.is_file():
        return
    if path.stat().st_size > PIECE_MIB * MIB:
        write_pieces(path, out)
        return
    partial = out / f"{path.name}.{os.getpid()}.part"
    partial.write_bytes(path.read_bytes())
    partial.replace(out / path.name)
