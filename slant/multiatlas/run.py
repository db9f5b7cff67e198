"""Segment all targets by multi-atlas label fusion; the failure of one target does not stop the others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from slant.errors import InputError, SettingsError, SlantError
from slant.files import file_sha256
from slant.io.read import read_labels, read_scan
from slant.io.resources import load_protocol
from slant.multiatlas.atlases import AtlasScan, atlases_for
from slant.multiatlas.candidates import LabelSource, atlas_channels, choose, gather, on_whole_grid
from slant.multiatlas.label_fusion import fuse
from slant.multiatlas.results import (
    Labelled,
    check_folder,
    dice_table,
    identity,
    is_done,
    write_dice,
    write_labelled,
)
from slant.multiatlas.screening import quality_table, write_quality
from slant.multiatlas.settings import MultiAtlasSettings
from slant.timing import TimingLog
from slant.volume import LabelMap, Volume
from slant.volumes import dice_per_region

T = TypeVar("T")


@dataclass(frozen=True)
class MultiAtlasRun:
    """Targets, atlases, directories and settings of a run.

    Attributes
    ----------
    targets, library : tuple of AtlasScan
    out : Path
        Output directory.
    work_dir : Path
        Directory of preprocessed scans and registrations.
    settings : MultiAtlasSettings
    jobs : int
        Targets processed in parallel, each on one thread; does not change the results.
    """

    targets: tuple[AtlasScan, ...]
    library: tuple[AtlasScan, ...]
    out: Path
    work_dir: Path
    settings: MultiAtlasSettings
    jobs: int = 1


@dataclass(frozen=True)
class MultiAtlasSummary:
    """Outcome of a run.

    Attributes
    ----------
    done, skipped : tuple of str
        Names of the targets that were segmented, and of those that were already finished.
    failed : dict of str to str
        Reasons by the names of the targets.
    mean_dice : float, optional
        Mean Dice of the targets with manual labels.
    outliers : dict of str to str
        Reasons by the names of the targets that are outliers.
    """

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: dict[str, str]
    mean_dice: float | None
    outliers: dict[str, str]


def label_targets(run: MultiAtlasRun) -> MultiAtlasSummary:
    """Segment all targets; a run that was interrupted continues when it is repeated.

    Raises
    ------
    SettingsError
        If more atlases are to be fused than a target can have.
    SlantError
        If an atlas cannot be used.
    OutputError
        If the results would be written next to the scans or over labels that slant did not make.
    """
    if run.jobs < 1:
        raise SettingsError(f"jobs must be at least 1, found {run.jobs}")
    for atlas_scan in run.targets:
        _check_count(len(atlases_for(atlas_scan, run.library)), atlas_scan, run.settings)
    sources, failed = _sources(run)
    library = tuple(sources[a.name, a.t1w] for a in run.library)
    targets = [sources[t.name, t.t1w] for t in run.targets if t.name not in failed]
    check_folder(run.out, [*library, *targets])
    mutual = frozenset(t.atlas_scan.name for t in targets) & frozenset(a.atlas_scan.name for a in library)
    todo: list[LabelSource] = []
    skipped: list[LabelSource] = []
    for target in targets:
        atlases = _own_atlases(target, library)
        done = is_done(run.out, target.atlas_scan.name, identity(target, atlases, run.settings))
        (skipped if done else todo).append(target)
    if todo:
        _prepare_library(run, library)
    reasons = _parallel(run.jobs, _label, [(run, t, _own_atlases(t, library), mutual) for t in todo], "targets")
    failed |= {t.atlas_scan.name: reason for t, reason in zip(todo, reasons, strict=True) if reason}
    labelled = [t.atlas_scan.name for t in targets if t.atlas_scan.name not in failed]
    table = dice_table(run.out, labelled)
    if table is not None:
        write_dice(run.out, table)
    quality = quality_table(run.out, labelled)
    if labelled:
        write_quality(run.out, quality)
    return MultiAtlasSummary(
        tuple(t.atlas_scan.name for t in todo if t.atlas_scan.name not in failed),
        tuple(t.atlas_scan.name for t in skipped),
        dict(sorted(failed.items())),
        None if table is None else float(table["mean"].iloc[-1]),
        dict(quality.loc[quality["outlier"] == "yes", ["name", "reason"]].itertuples(index=False)),
    )


def _check_count(available: int, target: AtlasScan, settings: MultiAtlasSettings) -> None:
    if settings.n_atlases > available:
        raise SettingsError(
            f"--n-atlases {settings.n_atlases} is more than the {available} atlases of other subjects for {target.name}"
            f"; give at most {available}, or add atlases"
        )
    if settings.fusion == "joint" and settings.n_atlases < 2:
        raise SettingsError("joint fusion needs at least 2 atlases; give --n-atlases 2 or more, or another --fusion")


def _own_atlases(target: LabelSource, library: Iterable[LabelSource]) -> tuple[LabelSource, ...]:
    """The atlases that may be used for a target: those with another subject, name and SHA-256."""
    allowed = {a.name for a in atlases_for(target.atlas_scan, [s.atlas_scan for s in library])}
    return tuple(s for s in library if s.atlas_scan.name in allowed and s.sha256 != target.sha256)


def _sources(run: MultiAtlasRun) -> tuple[dict[tuple[str, Path], LabelSource], dict[str, str]]:
    """All scans with the hashes of their files, and the reasons of targets that cannot be read."""
    sources, failed = {}, {}
    for atlas_scan in run.library:
        sources[atlas_scan.name, atlas_scan.t1w] = source_of(atlas_scan)
    for atlas_scan in run.targets:
        try:
            sources.setdefault((atlas_scan.name, atlas_scan.t1w), source_of(atlas_scan))
        except SlantError as error:
            failed[atlas_scan.name] = str(error)
    return sources, failed


def source_of(atlas_scan: AtlasScan) -> LabelSource:
    """The scan with the hashes of its files.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    return LabelSource(atlas_scan, _sha256(atlas_scan.t1w), "" if atlas_scan.dseg is None else _sha256(atlas_scan.dseg))


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error


def _prepare_library(run: MultiAtlasRun, library: Sequence[LabelSource]) -> None:
    """Preprocess every atlas and check its labels before the registrations, which take hours."""
    reasons = _parallel(run.jobs, _prepare_atlas, [(run, atlas) for atlas in library], "atlases")
    bad = {a.atlas_scan.name: reason for a, reason in zip(library, reasons, strict=True) if reason}
    if bad:
        name, reason = next(iter(bad.items()))
        more = f" (and {len(bad) - 1} more: {', '.join(list(bad)[1:])})" if len(bad) > 1 else ""
        raise InputError(f"the atlas {name} cannot be used: {reason}{more}; fix it or leave it out with --exclude")


def _parallel(jobs: int, function: Callable[..., T], arguments: Sequence[tuple[Any, ...]], label: str) -> list[T]:
    """Results of the function for each of the arguments, in order, from parallel processes, with a progress bar."""
    if not arguments:
        return []
    results = Parallel(n_jobs=jobs, return_as="generator")(delayed(function)(*a) for a in arguments)
    return list(tqdm(results, total=len(arguments), desc=label, unit="scan", file=sys.stderr))


def _prepare_atlas(run: MultiAtlasRun, atlas: LabelSource) -> str:
    """Preprocess an atlas; the reason if it cannot be used, otherwise empty."""
    try:
        atlas.prepared(run.work_dir)
        atlas_channels(atlas.atlas_scan, read_scan(atlas.atlas_scan.t1w), run.settings.unknown_ids)
    except SlantError as error:
        return str(error)
    return ""


def _label(run: MultiAtlasRun, target: LabelSource, atlases: Sequence[LabelSource], mutual: frozenset[str]) -> str:
    """Segment one target and write the results; the reason if that fails, otherwise empty."""
    try:
        labelled = label_target(target, atlases, run.settings, run.work_dir, mutual)
        write_labelled(run.out, labelled, identity(target, atlases, run.settings))
    except SlantError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 (the failure of one scan must not stop the others)
        return f"{type(error).__name__}: {error}"
    return ""


def label_target(
    target: LabelSource,
    atlases: Sequence[LabelSource],
    settings: MultiAtlasSettings,
    work_dir: Path,
    mutual: frozenset[str],
) -> Labelled:
    """Segment one target without writing results; see `slant.multiatlas.candidates.choose` for the parameters.

    Raises
    ------
    SlantError
        If the target or an atlas cannot be used.
    """
    clock = TimingLog()
    with clock("prepare"):
        scan = read_scan(target.atlas_scan.t1w)
        prepared = target.prepared(work_dir)
    with clock("register"):
        chosen = choose(target, atlases, settings, work_dir, mutual)
    with clock("resample"):
        candidates, box = gather(scan, prepared, chosen, work_dir, settings.unknown_ids)
    with clock("fuse"):
        fused = fuse(candidates, settings.fusion, settings.patch_radius)
    grid, protocol = scan.volume.grid, load_protocol()
    ids = on_whole_grid(grid, box, protocol.ids_from_channels(fused.channels), 0)
    labels = LabelMap(np.asarray(ids, dtype=np.int16), grid)
    agreement = Volume(np.asarray(on_whole_grid(grid, box, fused.agreement, 1), dtype=np.float32), grid)
    dice: dict[int, float] = {}
    if target.atlas_scan.dseg is not None:
        dice = dice_per_region(labels, read_labels(target.atlas_scan.dseg, scan), protocol.ids.tolist())
    return Labelled(scan, labels, agreement, chosen, dice, {timing.name: timing.runtime_s for timing in clock.timings})
