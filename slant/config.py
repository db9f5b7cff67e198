"""Settings as frozen dataclasses, from the command line, a TOML file or Python."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from slant.errors import SettingsError
from slant.files import read_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class SegmentSettings:
    """Settings of the segmentation of a scan.

    Attributes
    ----------
    model : str
        Embedded model (slant27, slant8, whole) or the path of a model folder.
    device : str
        Device for network inference: auto, cpu, cuda, cuda:N or mps.
    threads : int, optional
        CPU threads (default: all available); does not change the labels.
    skull_stripped : bool, optional
        Input is skull-stripped, background constant, no residual tissue (default: detect, leave residual tissue out).
    interpolation : {"multilabel", "nearest"}
        Interpolation to native space: multilabel (the votes for each region, trilinearly) or the nearest voxel.
    precision : {"float32", "bfloat16"}
        Precision of the networks on a CPU; bfloat16 is faster with AVX512-BF16 or AMX and changes 0.1 % of the labels.
    mirror : bool
        Every tile labels the scan and its mirror image (slant27, whole): no gain was measured, and it takes long.
    """

    model: str = "slant27"
    device: str = "auto"
    threads: int | None = None
    skull_stripped: bool | None = None
    interpolation: Literal["multilabel", "nearest"] = "multilabel"
    precision: Literal["float32", "bfloat16"] = "float32"
    mirror: bool = False

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise SettingsError(f"threads must be at least 1, found {self.threads}")
        if self.interpolation not in ("multilabel", "nearest"):
            raise SettingsError(f"interpolation must be 'multilabel' or 'nearest', found {self.interpolation!r}")
        if self.precision not in ("float32", "bfloat16"):
            raise SettingsError(f"precision must be 'float32' or 'bfloat16', found {self.precision!r}")

    @property
    def thread_count(self) -> int:
        """Number of threads to use: ``threads``, or all that are available to this process."""
        if self.threads is not None:
            return self.threads
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class ReportSettings:
    """Settings of the report of a scan.

    Attributes
    ----------
    convention : {"neurological", "radiological"}
        Display convention: left on the left (neurological) or on the right (radiological).
    pdf : bool
        Write the report as PDF too.
    """

    convention: Literal["neurological", "radiological"] = "neurological"
    pdf: bool = False

    def __post_init__(self) -> None:
        if self.convention not in ("neurological", "radiological"):
            raise SettingsError(f"convention must be 'neurological' or 'radiological', found {self.convention!r}")

    @property
    def radiological(self) -> bool:
        """Whether the left side of the subject is displayed on the right."""
        return self.convention == "radiological"

    @property
    def convention_text(self) -> str:
        """The display convention in words."""
        side = "right" if self.radiological else "left"
        return f"{self.convention.capitalize()} convention: the subject's left is on the {side}"


@dataclass(frozen=True)
class RunReportSettings(ReportSettings):
    """Settings of the report that a run writes with its results.

    Attributes
    ----------
    convention : {"neurological", "radiological"}
        Display convention: left on the left (neurological) or on the right (radiological).
    pdf : bool
        Write the report as PDF too.
    report : bool
        Write an HTML quality-control report.
    """

    report: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pdf and not self.report:
            raise SettingsError(
                "--pdf asks for the report as PDF, but --no-report for no report; leave one of them out"
            )


@dataclass(frozen=True)
class DicomSettings:
    """Settings of a scan that is given as a folder of DICOM files.

    Attributes
    ----------
    series : str, optional
        Series number or UID (default: the T1-weighted series, if there is exactly one).
    dicom_seg : bool
        Write the labels as a DICOM Segmentation too; it refers to the series and contains the patient's data.
    """

    series: str | None = None
    dicom_seg: bool = False

    def check_file(self, path: Path) -> None:
        """Check that no DICOM option is set for a scan that is a single file.

        Raises
        ------
        SettingsError
            If one is set.
        """
        option = "--series" if self.series is not None else "--dicom-seg" if self.dicom_seg else None
        if option:
            raise SettingsError(f"{option} is for DICOM: found {path}, expected the folder of a DICOM series")


COARSEST_MM = 8.0
"""Approximate voxel size (mm) of the coarsest SyN level."""


@dataclass(frozen=True)
class SynSettings:
    """Settings of the nonlinear registration of two images (SyN).

    Attributes
    ----------
    resolution_mm : float
        Voxel size (mm) of the finest SyN level.
    iterations : tuple of 3 int
        Iterations on the coarsest level, on each intermediate level, and on the finest level.
    """

    resolution_mm: float = 2.0
    iterations: tuple[int, int, int] = (40, 30, 15)

    def __post_init__(self) -> None:
        if not 0.5 <= self.resolution_mm <= COARSEST_MM:
            raise SettingsError(f"resolution_mm must be 0.5 to {COARSEST_MM:g} mm, found {self.resolution_mm}")
        if min(self.iterations) < 0:
            raise SettingsError(f"iterations must not be negative, found {self.iterations}")

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """Shrink factor and number of iterations of every level, from coarse to fine."""
        steps = max(0, round(math.log2(COARSEST_MM / self.resolution_mm)))
        coarsest, intermediate, finest = self.iterations
        counts = [coarsest] * min(steps, 1) + [intermediate] * (steps - 1) + [finest]
        return tuple((2 ** (steps - i), count) for i, count in enumerate(counts))


def read_toml(path: Path) -> dict[str, Any]:
    """Read the tables of a TOML file.

    Raises
    ------
    SettingsError
        If the file is missing or is not TOML; the message gives the line.
    """
    try:
        return tomllib.loads(read_text(path))
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not a TOML file: {error}") from error


T = TypeVar("T", bound="DataclassInstance")


def build(kind: type[T], values: dict[str, Any], source: str) -> T:
    """Build a settings dataclass from plain values, including nested tables and lists.

    Parameters
    ----------
    values : dict
        Values by field name; omitted fields keep their defaults.
    source : str
        File or table that the values come from, for error messages.

    Raises
    ------
    SettingsError
        If a key is unknown (the message suggests the nearest name) or missing, or if a value has the wrong type.
    """
    import dacite

    _check_keys(kind, values, source)
    config = dacite.Config(strict=True, type_hooks={int: _integer, float: _number, Path: _path}, cast=[tuple])
    try:
        return dacite.from_dict(kind, values, config)
    except dacite.WrongTypeError as error:
        value = repr(error.value).replace("True", "true").replace("False", "false")
        near = difflib.get_close_matches(str(error.value), _choices(error.field_type), n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise SettingsError(
            f"{source}: {error.field_path} is {value}{hint}, expected {_expected(error.field_type)}"
        ) from error
    except dacite.DaciteError as error:
        raise SettingsError(f"{source}: {error}") from error


def _check_keys(kind: type[DataclassInstance], values: dict[str, Any], source: str, table: str = "") -> None:
    known = [table + field.name for field in dataclasses.fields(kind)]
    hints = []
    for key in sorted(table + key for key in values if table + key not in known):
        near = difflib.get_close_matches(key, known, n=1)
        hints.append(f"{key!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    if hints:
        raise SettingsError(f"{source}: unknown key {', '.join(hints)}; known keys: {', '.join(known)}")
    types = get_type_hints(kind)
    for key, value in values.items():
        inner = next((t for t in (types[key], *get_args(types[key])) if dataclasses.is_dataclass(t)), None)
        if isinstance(value, dict) and get_origin(types[key]) is tuple:
            wanted = "a list" if inner is None else f"a list of tables; begin each with [[{table}{key}]]"
            raise SettingsError(f"{source}: {table}{key} is one table, expected {wanted}")
        for entry in value if isinstance(value, list | tuple) else [value]:
            if isinstance(entry, dict) and inner is not None:
                _check_keys(cast("type[DataclassInstance]", inner), entry, source, f"{table}{key}.")


_KINDS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
}


def _choices(kind: object) -> list[str]:
    """The texts between which a field of this type chooses; none if any text can be given."""
    if get_origin(kind) is Literal:
        return [choice for choice in get_args(kind) if isinstance(choice, str)]
    return [choice for part in get_args(kind) for choice in _choices(part)]


def _expected(kind: object) -> str:
    """The values that a field of this type can have, in words."""
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        first, *others = get_args(kind)
        count = "" if others == [...] else f" of {1 + len(others)}"
        return f"a list{count}, each {_expected(first)}"
    if kind in _KINDS:
        return _KINDS[kind]
    return " or ".join(_expected(part) for part in get_args(kind) if part is not NoneType) or "a table"


def _integer(value: object) -> object:
    """Make booleans fail the type check where an integer or a float is expected."""
    return str(value) if isinstance(value, bool) else value


def _number(value: object) -> object:
    """Accept integers where floats are expected."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else _integer(value)


def _path(value: object) -> object:
    return Path(value) if isinstance(value, str) else value
