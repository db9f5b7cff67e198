"""Takes every target from its file to its labels; one that fails stops no other."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from slant.errors import InputError, SettingsError, SlantError
from slant.io.read import read_labels, read_scan
from slant.io.resources import load_protocol
from slant.measure import dice_per_region
from slant.multiatlas.candidates import Source, atlas_channels, choose, gather, whole
from slant.multiatlas.fusion import fuse
from slant.multiatlas.library import Member, atlases_for
from slant.multiatlas.quality import quality_table, write_quality
from slant.multiatlas.results import (
    Labelled,
    check_folder,
    dice_table,
    identity,
    is_done,
    write_dice,
    write_labelled,
)
from slant.multiatlas.settings import MultiAtlasSettings
from slant.stages import StageClock
from slant.volume import LabelMap, Volume

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """What is to be done.

    Attributes
    ----------
    targets, library : tuple of Member
    out, work : Path
        Folders for results, and for prepared scans and registrations.
    settings : MultiAtlasSettings
    jobs : int
        Targets at a time, each on one thread; the results do not depend on it.
    """

    targets: tuple[Member, ...]
    library: tuple[Member, ...]
    out: Path
    work: Path
    settings: MultiAtlasSettings
    jobs: int = 1


@dataclass(frozen=True)
class Outcome:
    """What was done.

    Attributes
    ----------
    done, kept : tuple of str
        Names of targets labelled now, and of those that had been.
    failed : dict of str to str
        Reasons by name.
    mean_dice : float, optional
        Over the targets that have manual labels.
    suspect : dict of str to str
        Labelled targets unlike the others, with the reasons.
    """

    done: tuple[str, ...]
    kept: tuple[str, ...]
    failed: dict[str, str]
    mean_dice: float | None
    suspect: dict[str, str]


def label_targets(run: Run) -> Outcome:
    """Label all targets; run again after a kill, it goes on from what is there.

    Raises
    ------
    SettingsError
        If more atlases are to be fused than a target can have.
    SlantError
        If an atlas cannot be used: its name and the reason.
    OutputError
        If the results would lie among the scans or over labels made by others.
    """
    if run.jobs < 1:
        raise SettingsError(f"jobs must be at least 1, found {run.jobs}")
    for member in run.targets:
        _check_count(len(atlases_for(member, run.library)), member, run.settings)
    sources, failed = _sources(run)
    library = tuple(sources[a.name, a.t1w] for a in run.library)
    targets = [sources[t.name, t.t1w] for t in run.targets if t.name not in failed]
    check_folder(run.out, [*library, *targets])
    mutual = frozenset(t.member.name for t in targets) & frozenset(a.member.name for a in library)
    todo: list[Source] = []
    kept: list[Source] = []
    for target in targets:
        atlases = _own_atlases(target, library)
        done = is_done(run.out, target.member.name, identity(target, atlases, run.settings))
        (kept if done else todo).append(target)
    if todo:
        _prepare_library(run, library)
    reasons = _parallel(run.jobs, _label, [(run, t, _own_atlases(t, library), mutual) for t in todo], "targets")
    failed |= {t.member.name: reason for t, reason in zip(todo, reasons, strict=True) if reason}
    labelled = [t.member.name for t in targets if t.member.name not in failed]
    table = dice_table(run.out, labelled)
    if table is not None:
        write_dice(run.out, table)
    quality = quality_table(run.out, labelled)
    if labelled:
        write_quality(run.out, quality)
    return Outcome(
        tuple(t.member.name for t in todo if t.member.name not in failed),
        tuple(t.member.name for t in kept),
        dict(sorted(failed.items())),
        None if table is None else float(table["mean"].iloc[-1]),
        dict(quality.loc[quality["suspect"] == "yes", ["name", "reason"]].itertuples(index=False)),
    )


def _check_count(found: int, target: Member, settings: MultiAtlasSettings) -> None:
    if settings.best > found:
        raise SettingsError(
            f"--best {settings.best} is more than the {found} atlases that {target.name} can have (those of other "
            f"persons); give at most {found}, or more atlases"
        )
    if settings.fusion == "joint" and settings.best < 2:
        raise SettingsError(
            "joint fusion weighs atlases against each other; give --best 2 or more, or another --fusion"
        )


def _own_atlases(target: Source, library: Iterable[Source]) -> tuple[Source, ...]:
    """The atlases that may label a target: of other persons and names, and of other bytes."""
    allowed = {a.name for a in atlases_for(target.member, [s.member for s in library])}
    return tuple(s for s in library if s.member.name in allowed and s.sha256 != target.sha256)


def _sources(run: Run) -> tuple[dict[tuple[str, Path], Source], dict[str, str]]:
    """All scans with the hashes of their files, and targets that cannot be read with the reasons."""
    sources, failed = {}, {}
    for member in run.library:
        sources[member.name, member.t1w] = source_of(member)
    for member in run.targets:
        try:
            sources.setdefault((member.name, member.t1w), source_of(member))
        except SlantError as error:
            failed[member.name] = str(error)
    return sources, failed


def source_of(member: Member) -> Source:
    """The scan with the hashes of its files; InputError if one cannot be read."""
    return Source(member, _sha256(member.t1w), "" if member.dseg is None else _sha256(member.dseg))


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error


def _prepare_library(run: Run, library: Sequence[Source]) -> None:
    """Prepare every atlas and look at its labels, before hours go into registrations."""
    reasons = _parallel(run.jobs, _prepare_atlas, [(run, atlas) for atlas in library], "atlases")
    bad = {a.member.name: reason for a, reason in zip(library, reasons, strict=True) if reason}
    if bad:
        name, reason = next(iter(bad.items()))
        more = f" (and {len(bad) - 1} more: {', '.join(list(bad)[1:])})" if len(bad) > 1 else ""
        raise InputError(f"the atlas {name} cannot be used: {reason}{more}; mend it or leave it out with --exclude")


def _parallel(jobs: int, function: Callable[..., T], arguments: Sequence[tuple[Any, ...]], what: str) -> list[T]:
    """The function of each of the arguments, in order, in so many processes, with a progress bar."""
    if not arguments:
        return []
    results = Parallel(n_jobs=jobs, return_as="generator")(delayed(function)(*a) for a in arguments)
    return list(tqdm(results, total=len(arguments), desc=what, unit="scan", file=sys.stderr))


def _prepare_atlas(run: Run, atlas: Source) -> str:
    """Prepare an atlas; the reason if it cannot be used."""
    try:
        atlas.prepared(run.work)
        atlas_channels(atlas.member, read_scan(atlas.member.t1w), run.settings.unknown)
    except SlantError as error:
        return str(error)
    return ""


def _label(run: Run, target: Source, atlases: Sequence[Source], mutual: frozenset[str]) -> str:
    """Label one target and write the results; the reason if that fails."""
    try:
        found = label_target(target, atlases, run.settings, run.work, mutual)
        write_labelled(run.out, found, identity(target, atlases, run.settings))
    except SlantError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 (one scan, whatever is wrong with it, must not end the others)
        return f"{type(error).__name__}: {error}"
    return ""


def label_target(
    target: Source, atlases: Sequence[Source], settings: MultiAtlasSettings, work: Path, mutual: frozenset[str]
) -> Labelled:
    """Labels of one target, not written yet; see `slant.multiatlas.candidates.choose` for the arguments.

    Raises
    ------
    SlantError
        If the target or an atlas cannot be used.
    """
    clock = StageClock()
    with clock("prepare"):
        scan = read_scan(target.member.t1w)
        prepared = target.prepared(work)
    with clock("register"):
        chosen = choose(target, atlases, settings, work, mutual)
    with clock("resample"):
        candidates, box = gather(scan, prepared, chosen, work, settings.unknown)
    with clock("fuse"):
        fused = fuse(candidates, settings.fusion, settings.radius)
    grid, protocol = scan.volume.grid, load_protocol()
    ids = whole(grid, box, protocol.ids_from_channels(fused.channels), 0)
    labels = LabelMap(np.asarray(ids, dtype=np.int16), grid)
    agreement = Volume(np.asarray(whole(grid, box, fused.agreement, 1), dtype=np.float32), grid)
    dice: dict[int, float] = {}
    if target.member.dseg is not None:
        dice = dice_per_region(labels, read_labels(target.member.dseg, scan), protocol.ids.tolist())
    return Labelled(scan, labels, agreement, chosen, dice, {s.name: s.seconds for s in clock.stages})
