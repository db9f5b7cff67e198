"""`slant-bids`: the BIDS App."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from slant._version import __version__
from slant.cli.app import checked, guarded, say
from slant.cli.cohort import say_common_reasons, say_failures, say_notes
from slant.config import RunReportSettings, SegmentSettings
from slant.engine.layout import absolute
from slant.engine.resources import Resources
from slant.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from slant.cohort.bids import Selection
    from slant.cohort.run import Cohort
    from slant.io.atlas_library import LibraryFile
    from slant.longitudinal.cohort import LongitudinalCohort

app = App(
    name="slant-bids",
    help="Whole-brain segmentation of the T1-weighted MRI of a BIDS dataset into 132 BrainCOLOR regions.",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)

_DEFAULTS, _REPORTS = SegmentSettings(), RunReportSettings()


def _option(name: str, *, multiple: bool = False, flag: bool = False) -> Parameter:
    """An option that can be written with dashes, or with underscores as in older BIDS Apps."""
    spellings = tuple(f"--{spelling}" for spelling in (name, name.replace("-", "_")))
    if multiple:
        return Parameter(name=spellings, consume_multiple=True, negative_iterable=(), show_default=False)
    return Parameter(name=spellings, negative="") if flag else Parameter(name=spellings)


@dataclass(frozen=True)
class ImageOptions:
    """Which images to segment.

    Attributes
    ----------
    participant_label : list
        Labels of the participants, with or without sub- (default: all).
    session_label : list
        Labels of the sessions, with or without ses- (default: all).
    bids_filter_file : Path
        JSON file with pybids entities, for example {"t1w": {"acquisition": "mprage"}}.
    skip_bids_validation : bool
        Skip BIDS validation: accept a dataset without a valid description, and file names that are not quite BIDS.
    """

    participant_label: Annotated[tuple[str, ...], _option("participant-label", multiple=True)] = ()
    session_label: Annotated[tuple[str, ...], _option("session-label", multiple=True)] = ()
    bids_filter_file: Annotated[Path | None, _option("bids-filter-file")] = None
    skip_bids_validation: Annotated[bool, _option("skip-bids-validation", flag=True)] = False

    @property
    def selection(self) -> Selection:
        """The options as `slant.cohort.bids` takes them."""
        from slant.cohort.bids import Selection

        validate = not self.skip_bids_validation
        return Selection(self.participant_label, self.session_label, self.bids_filter_file, validate)


@dataclass(frozen=True)
class SegmentOptions:
    """How to segment the images.

    Attributes
    ----------
    longitudinal : bool
        Segment the sessions of each participant together, one image per session.
    atlases : Path
        Library made by slant atlases: its atlases vote with the networks. More accurate, but takes minutes per scan.
    """

    settings: Annotated[SegmentSettings, Parameter(name="*")] = _DEFAULTS
    reports: Annotated[RunReportSettings, Parameter(name="*")] = _REPORTS
    longitudinal: Annotated[bool, _option("longitudinal", flag=True)] = False
    atlases: Path | None = None


@dataclass(frozen=True)
class RunOptions:
    """How to run, see also `slant.engine.resources.Resources`.

    Attributes
    ----------
    work_dir : Path
        Directory for locks and temporary files, shared by all runs on one output directory.
    n_procs : int
        Scans processed in parallel (default: as many as cores and available memory allow).
    mem_gb : float
        Memory for all scans that are processed at the same time, in GiB (default: the available memory).
    scheduler : str
        Address of a running dask scheduler, for example tcp://node01:8786. Its workers process the scans.
    cluster : Path
        TOML file that describes SLURM jobs to start as workers: workers = N and a table [slurm].
    force : bool
        Reprocess finished scans.
    boilerplate : bool
        Print a text for the methods section of a paper, and exit.
    """

    work_dir: Annotated[Path | None, _option("work-dir")] = None
    n_procs: Annotated[int | None, _option("n-procs")] = None
    mem_gb: Annotated[float | None, _option("mem-gb")] = None
    scheduler: str | None = None
    cluster: Path | None = None
    force: Annotated[bool, Parameter(negative="")] = False
    boilerplate: Annotated[bool, Parameter(negative="")] = False

    @property
    def resources(self) -> Resources:
        """The options with the names of `slant cohort`."""
        return Resources(self.n_procs, self.mem_gb, self.work_dir, self.scheduler, self.cluster)


_IMAGES, _SEGMENTATION, _RUN = ImageOptions(), SegmentOptions(), RunOptions()


@app.default
def bids(
    bids_dir: Path | None = None,
    output_dir: Path | None = None,
    level: Literal["participant", "group"] | None = None,
    /,
    *,
    images: Annotated[ImageOptions, Parameter(name="*")] = _IMAGES,
    segmentation: Annotated[SegmentOptions, Parameter(name="*")] = _SEGMENTATION,
    run: Annotated[RunOptions, Parameter(name="*")] = _RUN,
) -> None:
    """Segment the T1w images of a BIDS dataset (participant level), and tabulate the volumes (group level).

    Parameters
    ----------
    bids_dir : Path
        Root folder of the BIDS dataset.
    output_dir : Path
        Output directory, which becomes a BIDS derivatives dataset (created if missing).
    level : str
        participant segments the images; group writes volumes.tsv, failures.tsv and the dashboard group.html, with
        --longitudinal also longitudinal.tsv.
    """
    settings, atlases = segmentation.settings, _library(segmentation)
    if run.boilerplate:
        say(_boilerplate(segmentation))
        return
    if bids_dir is None or output_dir is None or level is None:
        found = sum(argument is not None for argument in (bids_dir, output_dir, level))
        raise SettingsError(
            f"found {found} argument(s), expected three: slant-bids BIDS_DIR OUTPUT_DIR {{participant,group}}"
        )
    from slant.cohort.bids import list_bids_jobs
    from slant.cohort.bids_dataset import write_dataset
    from slant.cohort.run import make_cohort
    from slant.run import Request

    out = absolute(output_dir)
    job_list = list_bids_jobs(bids_dir, out, images.selection)
    request = Request(settings, reports=segmentation.reports, atlases=atlases)
    scans = make_cohort(job_list, out, request, run.resources, force=run.force)
    cohort: Cohort | LongitudinalCohort = scans
    if segmentation.longitudinal:
        from slant.longitudinal.cohort import make_longitudinal

        cohort = make_longitudinal(scans, bids_dir, images.session_label)
    say_notes(cohort.workload.job_list.notes)
    model = _model(settings)
    write_dataset(out, bids_dir, model, mask_brain=bool(model.get("input", {}).get("mask_brain", True)))
    if level == "group":
        _tabulate(cohort, bids_dir / "participants.tsv")
        return
    others = {"model": settings.model, "longitudinal": segmentation.longitudinal, "work_dir": run.work_dir}
    others |= {"atlases": segmentation.atlases}
    _run_participants(cohort, out, _group_command(bids_dir, output_dir, images, others))


def _library(segmentation: SegmentOptions) -> LibraryFile | None:
    from slant.io.atlas_library import LibraryFile

    if segmentation.atlases is None:
        return None
    if segmentation.longitudinal:
        raise SettingsError("--atlases is for scans one by one, --longitudinal for visits together; leave one out")
    return LibraryFile.of(segmentation.atlases)


def _tabulate(cohort: Cohort | LongitudinalCohort, participants: Path) -> None:
    from slant.cohort.run import Cohort, tabulate_dataset

    out = cohort.workload.layout.out
    if isinstance(cohort, Cohort):
        group = tabulate_dataset(cohort.workload, participants)
    else:
        from slant.longitudinal.cohort import tabulate_longitudinal

        summary = tabulate_longitudinal(cohort, participants)
        group = summary.group
        say(f"visits of {summary.subjects} participant(s): {out / 'longitudinal.tsv'}")
    say_common_reasons(group.common_reasons)
    say(f"volumes of {group.scans} scan(s): {out / 'volumes.tsv'}")
    say(f"{group.failures} scan(s) without results: {out / 'failures.tsv'}")
    say(f"overview: {out / 'group.html'}")


def _run_participants(cohort: Cohort | LongitudinalCohort, out: Path, group_command: str) -> None:
    from slant.cohort.run import Cohort, segment_cohort

    if isinstance(cohort, Cohort):
        summary, what = segment_cohort(cohort), "scan(s)"
    else:
        from slant.longitudinal.cohort import segment_longitudinal

        summary, what = segment_longitudinal(cohort), "participant(s) and single scan(s)"
    say_failures(summary.failed)
    say(f"{len(summary.done)} {what} segmented, {len(summary.kept)} already done, {len(summary.failed)} failed")
    say(f"results: {out}; the group level writes the tables: {group_command}")
    if summary.failed:
        sys.exit(1)


def main(arguments: list[str] | None = None) -> None:
    """Run the BIDS App and exit: status 0 if done, 1 if a scan failed, 2 for an error before the first scan."""
    guarded(lambda: app(checked(arguments), exit_on_error=False, print_error=False))


def _group_command(bids_dir: Path, output_dir: Path, images: ImageOptions, others: dict[str, object]) -> str:
    """Command of the group level for the same scans and results, quoted for the shell."""
    import shlex

    from slant.cohort.command import option_words, path_word

    defaults = {**vars(_IMAGES), **vars(_SEGMENTATION), **vars(_DEFAULTS), **vars(_RUN)}
    options = option_words({**vars(images), **others}, defaults)
    return shlex.join(["slant-bids", path_word(bids_dir), path_word(output_dir), "group", *options])


def _model(settings: SegmentSettings) -> dict[str, Any]:
    """Manifest of the model, with its SHA-256."""
    import json

    from slant.cohort.task import model_sha256
    from slant.io.models import model_folder

    path = model_folder(settings.model) / "manifest.json"
    try:
        manifest = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the manifest {path}: {error}; install or export the model again") from error
    return {"name": None, "licence": None, **manifest, "sha256": model_sha256(settings.model)}


def _boilerplate(segmentation: SegmentOptions) -> str:
    from slant.cohort import bids_dataset as texts

    model, added, references = _model(segmentation.settings), "", ""
    if segmentation.longitudinal:
        added, references = texts.LONGITUDINAL, texts.LONGITUDINAL_REFERENCES
    elif segmentation.atlases is not None:
        added, references = texts.ATLASES, texts.ATLAS_REFERENCES
    values = {"version": __version__, "model": model["name"], "sha256": model["sha256"]}
    return texts.BOILERPLATE.format(**values, added=added, references=references).strip()
