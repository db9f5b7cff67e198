"""Settings are frozen values: from the command line, from a TOML file, or made in Python."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_type_hints

from slant.errors import SettingsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class SegmentSettings:
    """How a scan is segmented.

    Attributes
    ----------
    model : str
        Embedded model (slant27, slant8, whole) or the folder of one's own.
    device : str
        Where the networks run: auto, cpu, cuda, cuda:N or mps.
    threads : int, optional
        Processor threads; by default all that this process may use. The labels do not depend on it.
    skull_stripped : bool, optional
        Whether the scan's background is already zero; by default this is found out.
    warp : {"vote", "nearest"}
        How labels come back to the scan: trilinear weights vote, or the nearest voxel decides.
    """

    model: str = "slant27"
    device: str = "auto"
    threads: int | None = None
    skull_stripped: bool | None = None
    warp: Literal["vote", "nearest"] = "vote"

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise SettingsError(f"threads must be at least 1, found {self.threads}")
        if self.warp not in ("vote", "nearest"):
            raise SettingsError(f"warp must be 'vote' or 'nearest', found {self.warp!r}")

    @property
    def thread_count(self) -> int:
        """Threads to use: those asked for, or all that this process may run on."""
        if self.threads is not None:
            return self.threads
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class PageSettings:
    """How the page of a scan is drawn.

    Attributes
    ----------
    convention : {"neurological", "radiological"}
        Whether pictures show the person's left on the left, or on the right.
    pdf : bool
        Write the page as PDF too.
    """

    convention: Literal["neurological", "radiological"] = "neurological"
    pdf: bool = False

    def __post_init__(self) -> None:
        if self.convention not in ("neurological", "radiological"):
            raise SettingsError(f"convention must be 'neurological' or 'radiological', found {self.convention!r}")

    @property
    def radiological(self) -> bool:
        """Whether left is on the right."""
        return self.convention == "radiological"


@dataclass(frozen=True)
class RunPages(PageSettings):
    """The pages that a run leaves beside its results.

    Attributes
    ----------
    convention : {"neurological", "radiological"}
        Whether pictures show the person's left on the left, or on the right.
    pdf : bool
        Write the page as PDF too.
    report : bool
        Write a page to judge the results by.
    """

    report: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pdf and not self.report:
            raise SettingsError("--pdf asks for the page as PDF and --no-report for no page; leave one of them out")


@dataclass(frozen=True)
class DicomSettings:
    """What is asked of a scan that is a folder of DICOM files.

    Attributes
    ----------
    series : str, optional
        Number or SeriesInstanceUID of the series to take; by default the only T1-weighted one.
    dicom_seg : bool
        Write the labels as a DICOM Segmentation too, which refers to the series and holds the patient's data.
    """

    series: str | None = None
    dicom_seg: bool = False

    def check_file(self, path: Path) -> None:
        """Refuse a scan in one file, of which neither can be asked.

        Raises
        ------
        SettingsError
        """
        asked = "--series" if self.series is not None else "--dicom-seg" if self.dicom_seg else None
        if asked:
            raise SettingsError(f"{asked} is for DICOM: found {path}, wanted the folder of a DICOM series")


COARSEST_MM = 8.0
"""Voxels of the coarsest level of SyN."""


@dataclass(frozen=True)
class SynSettings:
    """How two images are registered.

    Attributes
    ----------
    resolution_mm : float
        Voxels of the finest level and of the warp.
    radius : int
        Voxels from the middle of a cube to its faces.
    iterations : tuple of 3 int
        On the coarsest level, on each level between, and on the finest.
    step : float
        Largest step of an iteration, in voxels of the level.
    update_sigma, total_sigma : float
        Gaussian smoothing of the step and of the whole half field, in voxels of the level.
    """

    resolution_mm: float = 2.0
    radius: int = 2
    iterations: tuple[int, int, int] = (40, 30, 15)
    step: float = 0.4
    update_sigma: float = 2.0
    total_sigma: float = 0.4

    def __post_init__(self) -> None:
        if not 0.5 <= self.resolution_mm <= COARSEST_MM:
            raise SettingsError(f"the resolution must be 0.5 to {COARSEST_MM:g} mm, found {self.resolution_mm}")
        if self.radius < 1 or min(self.iterations) < 0 or self.step <= 0:
            raise SettingsError(f"radius and step must be positive, iterations not negative, found {self}")

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """Shrink factor and iterations of every level, the coarsest first."""
        steps = max(0, round(math.log2(COARSEST_MM / self.resolution_mm)))
        coarsest, between, finest = self.iterations
        counts = [coarsest] * min(steps, 1) + [between] * (steps - 1) + [finest]
        return tuple((2 ** (steps - i), count) for i, count in enumerate(counts))


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises
    ------
    SettingsError
        If it is missing or not TOML; the message gives the line.
    """
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not a TOML file: {error}") from error


T = TypeVar("T", bound="DataclassInstance")


def build(kind: type[T], values: dict[str, Any], where: str) -> T:
    """A settings dataclass from plain values, nested tables and lists included.

    Parameters
    ----------
    kind : dataclass type
    values : dict
        Field names to values; fields left out keep their defaults.
    where : str
        Said in errors: the file or table the values come from.

    Raises
    ------
    SettingsError
        For an unknown key (with the nearest name), a missing one, or a value of another type.
    """
    import dacite

    _check_keys(kind, values, where)
    config = dacite.Config(strict=True, type_hooks={int: _whole, float: _number, Path: _path}, cast=[tuple])
    try:
        return dacite.from_dict(kind, values, config)
    except dacite.DaciteError as error:
        raise SettingsError(f"{where}: {error}") from error


def _check_keys(kind: type[DataclassInstance], values: dict[str, Any], where: str, table: str = "") -> None:
    known = [table + field.name for field in dataclasses.fields(kind)]
    hints = []
    for key in sorted(table + key for key in values if table + key not in known):
        near = difflib.get_close_matches(key, known, n=1)
        hints.append(f"{key!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    if hints:
        raise SettingsError(f"{where}: unknown key {', '.join(hints)}; known keys: {', '.join(known)}")
    types = get_type_hints(kind)
    for key, value in values.items():
        if isinstance(value, dict) and dataclasses.is_dataclass(types[key]):
            _check_keys(types[key], value, where, f"{table}{key}.")


def _whole(value: object) -> object:
    """Truth values pass neither for whole numbers nor for decimals."""
    return str(value) if isinstance(value, bool) else value


def _number(value: object) -> object:
    """Whole numbers pass where decimals are wanted."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else _whole(value)


def _path(value: object) -> object:
    return Path(value) if isinstance(value, str) else value
