"""Settings of `slant multiatlas`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from slant.config import SynSettings
from slant.errors import SettingsError

Fusion = Literal["majority", "local", "joint"]
Ranking = Literal["affine", "warped"]


@dataclass(frozen=True)
class MultiAtlasSettings:
    """How targets are segmented by atlases.

    Attributes
    ----------
    n_atlases : int
        Number of atlases to fuse, the most similar first.
    fusion : {"majority", "local", "joint"}
        Majority voting, locally weighted voting or joint label fusion.
    resolution_mm : float
        Voxel size (mm) of the finest SyN level.
    rank : {"affine", "warped"}
        Rank atlases after the affine (only the best get SyN) or after SyN.
    patch_radius : int
        Patch radius of the label fusion in voxels; not used by majority voting.
    unknown_ids : {"error", "background"}
        How to treat label ids of atlases outside the protocol.
    """

    n_atlases: int = 10
    fusion: Fusion = "joint"
    resolution_mm: float = 2.0
    rank: Ranking = "affine"
    patch_radius: int = 1
    unknown_ids: Literal["error", "background"] = "error"

    def __post_init__(self) -> None:
        if self.n_atlases < 1:
            raise SettingsError(f"n_atlases must be at least 1, found {self.n_atlases}")
        if self.fusion not in get_args(Fusion):
            raise SettingsError(f"fusion must be one of {', '.join(get_args(Fusion))}, found {self.fusion!r}")
        if self.rank not in get_args(Ranking):
            raise SettingsError(f"rank must be 'affine' or 'warped', found {self.rank!r}")
        if self.unknown_ids not in ("error", "background"):
            raise SettingsError(f"unknown_ids must be 'error' or 'background', found {self.unknown_ids!r}")
        if not 1 <= self.patch_radius <= 5:
            raise SettingsError(f"patch_radius must be 1 to 5 voxels, found {self.patch_radius}")
        self.syn  # noqa: B018 (raises for a resolution out of range)

    @property
    def syn(self) -> SynSettings:
        """Settings of the SyN registrations."""
        return SynSettings(resolution_mm=self.resolution_mm)
