"""Settings of `slant evaluate`, in a module that imports quickly for the command line."""

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
        Align by header, or by the whole-voxel shift with most agreement.
    allow_missing : bool
        Skip reference maps without a prediction.
    resamples : int
        Number of bootstrap samples for the 95 % confidence intervals.
    seed : int
        Random seed of the bootstrap.
    jobs : int, optional
        Scans processed in parallel (default: one per CPU); does not change the results.
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
