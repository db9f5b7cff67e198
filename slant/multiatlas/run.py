"""Segments all targets of a run by multi-atlas label fusion, and writes its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from slant.engine.failures import TABLE, all_failures, write_failures
from slant.engine.job import Job, JobList, Pool, Workload
from slant.engine.layout import OutputLayout
from slant.engine.pools import choose_pool
from slant.engine.resources import Resources
from slant.engine.run import Summary, map_on, run_jobs, unfinished
from slant.errors import SettingsError
from slant.multiatlas.atlases import AtlasScan, atlases_for, refuse_unusable
from slant.multiatlas.results import check_folder, dice_table, write_dice
from slant.multiatlas.screening import quality_table, write_quality
from slant.multiatlas.settings import MultiAtlasSettings
from slant.multiatlas.task import MultiAtlasTask, prepare_atlas, source_of


@dataclass(frozen=True)
class MultiAtlasRun:
    """Targets, atlases, output directory and settings of a run.

    Attributes
    ----------
    resources : Resources
        Workers, each on one thread, by default one; these do not change the results. Preprocessed scans and
        registrations are kept in ``work_dir``, by default ``work`` in the output directory.
    """

    targets: tuple[AtlasScan, ...]
    library: tuple[AtlasScan, ...]
    out: Path
    settings: MultiAtlasSettings
    resources: Resources


@dataclass(frozen=True)
class MultiAtlasSummary:
    """Outcome of a run.

    Attributes
    ----------
    jobs : Summary
        Targets that were segmented, that were already finished, and that failed.
    mean_dice : float, optional
        Mean Dice of the targets with manual labels.
    outliers : dict of str to str
        Reasons by the names of the targets that are outliers.
    """

    jobs: Summary
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
    for target in run.targets:
        _check_count(len(atlases_for(target, run.library)), target, run.settings)
    layout = run.resources.layout(run.out)
    check_folder(layout.out, [*run.library, *run.targets])
    library = tuple(source_of(atlas) for atlas in run.library)
    work_dir = layout.work_dir or layout.out / "work"
    task = MultiAtlasTask({target.name: target for target in run.targets}, library, run.settings, work_dir)
    jobs = tuple(Job(target.name, target.t1w, layout.out, target.name) for target in run.targets)
    workload = Workload(JobList(jobs, {}), task, layout)
    pool = choose_pool(workload, run.resources, threads=1, default_jobs=1)
    unfinished(workload)  # adds finished targets to the index: atlases are only prepared if a target is to be segmented
    return _tabulate(layout, jobs, run_jobs(workload, pool, partial(_prepare_library, task)))


def _check_count(available: int, target: AtlasScan, settings: MultiAtlasSettings) -> None:
    if settings.n_atlases > available:
        raise SettingsError(
            f"--n-atlases {settings.n_atlases} is more than the {available} atlases of other subjects for {target.name}"
            f"; give at most {available}, or add atlases"
        )
    if settings.fusion == "joint" and settings.n_atlases < 2:
        raise SettingsError("joint fusion needs at least 2 atlases; give --n-atlases 2 or more, or another --fusion")


def _prepare_library(task: MultiAtlasTask, pool: Pool) -> None:
    """Preprocess every atlas and check its labels before the registrations, which take hours."""
    reasons = map_on(pool, partial(prepare_atlas, task), task.library, "atlases")
    refuse_unusable({a.atlas_scan.name: reason for a, reason in zip(task.library, reasons, strict=True) if reason})


def _tabulate(layout: OutputLayout, jobs: Sequence[Job], summary: Summary) -> MultiAtlasSummary:
    """Write the tables and the contact sheet of the finished targets, and the table of failures."""
    failed = {failure.name for failure in summary.failed}
    labelled = [job.name for job in jobs if job.id not in failed]
    write_failures(layout.out / TABLE, all_failures(layout, summary.failed))
    dice = dice_table(layout.out, labelled)
    if dice is not None:
        write_dice(layout.out, dice)
    quality = quality_table(layout.out, labelled)
    if labelled:
        write_quality(layout.out, quality)
    outliers = quality.loc[quality["outlier"] == "yes", ["name", "reason"]]
    mean_dice = None if dice is None else float(dice["mean"].iloc[-1])
    return MultiAtlasSummary(summary, mean_dice, dict(outliers.itertuples(index=False)))
