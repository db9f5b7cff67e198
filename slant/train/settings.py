"""What a training run is: data, split, layout and stages, from one TOML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from slant.errors import SettingsError
from slant.tiles import TileLayout
from slant.train.augment import AugmentSettings
from slant.train.loop import StageSettings


@dataclass(frozen=True)
class TrainSettings:
    """Settings of ``slant train``; see the commented files in ``configs/train``.

    Attributes
    ----------
    name : str
        Of the model that is made.
    layout : TileLayout
    whole, tile : StageSettings
        The stage on the whole brain, and the one that fine-tunes a copy of it for each tile.
    augment : AugmentSettings
    widths : tuple of int
        Channels of the network at 2, 4, 8, 16 mm.
    protocol : str
    licence : str
        Of the resulting weights.
    credits : str
        What the data's licence asks to be said.
    folds : int
        Parts the people are split into, for cross-validation.
    data : Path
        Folder of ``NAME_T1w.nii.gz`` with ``NAME_dseg.nii.gz``.
    work : Path
        Folder of prepared scans, checkpoints and results; made if absent, git-ignored here.
    fold : int, optional
        Fold that is held out of everything; by default nobody is.
    start : Path, optional
        Checkpoint whose averaged weights the whole-brain stage starts from.
    """

    name: str
    layout: TileLayout
    whole: StageSettings
    tile: StageSettings
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    widths: tuple[int, ...] = (24, 32, 48, 64)
    protocol: str = "braincolor"
    licence: str = "unknown"
    credits: str = ""
    folds: int = 5
    data: Path = Path("data")
    work: Path = Path("work")
    fold: int | None = None
    start: Path | None = None

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise SettingsError(f"folds must be at least 2, found {self.folds}")
        if any(n % 2 for n in self.layout.size):
            raise SettingsError(f"[layout] size must be even along each axis to train on, found {self.layout.size}")
        if self.fold is not None and not 0 <= self.fold < self.folds:
            raise SettingsError(f"fold must be 0 to {self.folds - 1}, found {self.fold}")

    @property
    def run(self) -> Path:
        """Folder of this split's checkpoints."""
        return self.work / ("all" if self.fold is None else f"fold{self.fold}")

    def split(self, names: list[str]) -> tuple[list[str], list[str]]:
        """Sorted names of the people trained on and of those held out: every ``folds``-th, from ``fold`` on.

        Raises
        ------
        SettingsError
            If either part would be empty.
        """
        names = sorted(names)
        held_out = [] if self.fold is None else names[self.fold :: self.folds]
        trained = [name for name in names if name not in held_out]
        if not trained or (self.fold is not None and not held_out):
            raise SettingsError(f"{len(names)} labelled scans cannot be split into {self.folds} folds")
        return trained, held_out
