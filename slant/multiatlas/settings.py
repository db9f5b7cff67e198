"""What `slant multiatlas` does with every target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from slant.config import SynSettings
from slant.errors import SettingsError

Fusion = Literal["majority", "local", "joint"]
Ranking = Literal["affine", "warped"]


@dataclass(frozen=True)
class MultiAtlasSettings:
    """How targets are labelled from atlases.

    Attributes
    ----------
    best : int
        Atlases that are fused: those most similar to the target.
    fusion : {"majority", "local", "joint"}
        One vote an atlas, votes weighted by patch similarity, or ANTs' joint label fusion.
    resolution_mm : float
        Voxels of the finest level of SyN.
    rank : {"affine", "warped"}
        When similarity is measured: before SyN, so that only the best are registered, or after.
    radius : int
        Voxels from the middle of a patch of the fusion to its faces.
    unknown : {"error", "background"}
        What to do with ids of atlases that the protocol does not know.
    """

    best: int = 10
    fusion: Fusion = "joint"
    resolution_mm: float = 2.0
    rank: Ranking = "affine"
    radius: int = 1
    unknown: Literal["error", "background"] = "error"

    def __post_init__(self) -> None:
        if self.best < 1:
            raise SettingsError(f"best must be at least 1 atlas, found {self.best}")
        if self.fusion not in get_args(Fusion):
            raise SettingsError(f"fusion must be one of {', '.join(get_args(Fusion))}, found {self.fusion!r}")
        if self.rank not in get_args(Ranking):
            raise SettingsError(f"rank must be 'affine' or 'warped', found {self.rank!r}")
        if self.unknown not in ("error", "background"):
            raise SettingsError(f"unknown must be 'error' or 'background', found {self.unknown!r}")
        if not 1 <= self.radius <= 5:
            raise SettingsError(f"the radius of a patch must be 1 to 5 voxels, found {self.radius}")
        self.syn  # noqa: B018 (refuses a resolution out of range)

    @property
    def syn(self) -> SynSettings:
        """Of the registrations."""
        return SynSettings(resolution_mm=self.resolution_mm)
