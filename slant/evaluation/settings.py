"""The settings of `slant evaluate`, apart from its work so that the command line has them at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slant.errors import SettingsError


@dataclass(frozen=True)
class EvaluateSettings:
    """How label maps are compared.

    Attributes
    ----------
    protocol : str
        Label protocol of the predictions.
    align : {"header", "shift"}
        Trust where the headers put the maps, or find the whole-voxel shift at which most labels agree.
    allow_missing : bool
        Leave out true maps without a prediction instead of an error.
    resamples : int
        Bootstrap draws for the 95 % intervals.
    seed : int
        Of the draws.
    jobs : int, optional
        Scans at the same time; by default one for every processor. The results do not depend on it.
    """

    protocol: str = "braincolor"
    align: Literal["header", "shift"] = "header"
    allow_missing: bool = False
    resamples: int = 10000
    seed: int = 0
    jobs: int | None = None

    def __post_init__(self) -> None:
        for name in ("resamples", "jobs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} must be at least 1, found {value}")
        if self.seed < 0:
            raise SettingsError(f"seed must be 0 or more, found {self.seed}")
