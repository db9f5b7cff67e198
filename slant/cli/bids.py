"""`slant-bids`, the BIDS App."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

import slant
from slant.cli.app import guarded, say
from slant.cli.cohort import Resources, prepare, run
from slant.config import RunPages, SegmentSettings
from slant.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from slant.cohort.run import Cohort

app = App(
    name="slant-bids",
    help="Whole-brain segmentation of a BIDS dataset's T1-weighted MRI into 132 BrainCOLOR regions.",
    version=slant.__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)

_DEFAULTS, _PAGES = SegmentSettings(), RunPages()


def _both(*names: str, several: bool = False, flag: bool = False) -> Parameter:
    """An option with dashes, and as older BIDS Apps have it, with underscores."""
    spelled = tuple(dict.fromkeys(f"--{spelling}" for name in names for spelling in (name, name.replace("-", "_"))))
    if several:
        return Parameter(name=spelled, consume_multiple=True, negative_iterable=(), show_default=False)
    return Parameter(name=spelled, negative="") if flag else Parameter(name=spelled)


@app.default
def bids(  # noqa: PLR0913 (the options that every BIDS App has)
    bids_dir: Path | None = None,
    output_dir: Path | None = None,
    level: Literal["participant", "group"] | None = None,
    /,
    *,
    participant_label: Annotated[tuple[str, ...], _both("participant-label", several=True)] = (),
    session_label: Annotated[tuple[str, ...], _both("session-label", several=True)] = (),
    bids_filter_file: Annotated[Path | None, _both("bids-filter-file")] = None,
    skip_bids_validation: Annotated[bool, _both("skip-bids-validation", flag=True)] = False,
    work_dir: Annotated[Path | None, _both("work-dir")] = None,
    n_procs: Annotated[int | None, _both("n-procs")] = None,
    mem_gb: Annotated[float | None, _both("mem-gb")] = None,
    scheduler: str | None = None,
    cluster: Path | None = None,
    settings: Annotated[SegmentSettings, Parameter(name="*")] = _DEFAULTS,
    pages: Annotated[RunPages, Parameter(name="*")] = _PAGES,
    force: Annotated[bool, Parameter(negative="")] = False,
    boilerplate: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Segment the T1w images of a BIDS dataset (participant), then make tables of all of them (group).

    Parameters
    ----------
    bids_dir : Path
        BIDS dataset.
    output_dir : Path
        Folder of the derivatives dataset; made if absent.
    level : str
        participant segments; group writes volumes.tsv, failures.tsv and the dashboard group.html.
    participant_label : list
        Participants, with or without sub-; all by default.
    session_label : list
        Sessions, with or without ses-; all by default.
    bids_filter_file : Path
        JSON with entities for pybids, such as {"t1w": {"acquisition": "mprage"}}.
    skip_bids_validation : bool
        Take a dataset without a valid description, and files whose names are not quite BIDS.
    work_dir : Path
        Folder for locks and temporary files, the same for all runs on one output folder.
    n_procs : int
        Scans at a time; by default as many as cores and available memory allow.
    mem_gb : float
        Memory for all scans at work, in GiB; by default what is available.
    scheduler : str
        Address of a dask scheduler, such as tcp://node01:8786, whose workers do the work instead of this machine.
    cluster : Path
        TOML file of SLURM jobs that do the work, with workers = N and a table [slurm].
    force : bool
        Do finished scans again.
    boilerplate : bool
        Print what to write in the methods section of a paper, and do nothing else.
    """
    if boilerplate:
        say(_boilerplate(settings))
        return
    if bids_dir is None or output_dir is None or level is None:
        raise SettingsError("wanted three arguments: slant-bids BIDS_DIR OUTPUT_DIR {participant,group}")
    from slant.cohort.bids import Selection, list_bids_jobs, write_dataset
    from slant.cohort.jobs import absolute
    from slant.cohort.scan import Request

    out = absolute(output_dir)
    selection = Selection(participant_label, session_label, bids_filter_file, not skip_bids_validation)
    resources = Resources(n_procs, mem_gb, work_dir, scheduler, cluster)
    made, _ = prepare(
        list_bids_jobs(bids_dir, out, selection), out, Request(settings, pages=pages), resources, force=force
    )
    model = _manifest(settings)
    write_dataset(out, bids_dir, _named(settings, model), keep_head=bool(model.get("input", {}).get("keep_head")))
    if level == "group":
        _group(made, bids_dir)
        return
    summary = run(made, resources, settings)
    for failure in summary.failed:
        sys.stderr.write(f"slant: {failure.name} failed: {failure.reason}\n")
    say(f"{len(summary.done)} scan(s) segmented, {len(summary.kept)} had been before, {len(summary.failed)} failed")
    say(f"results are in {out}; the group level makes the tables: slant-bids {bids_dir} {output_dir} group")
    if summary.failed:
        sys.exit(1)


def _group(made: Cohort, bids_dir: Path) -> None:
    from slant.cohort.failures import Failure
    from slant.cohort.table import write_tables

    made.place.make()
    names = [(job, job.folder / made.work.names(job).record) for job in made.listed.jobs]
    waiting = [
        Failure(job.id, "not segmented; run the participant level", str(job.scan), "")
        for job, record in names
        if not record.is_file()
    ]
    unreadable = [Failure(folder, reason, folder, "") for folder, reason in made.listed.unreadable.items()]
    rows, failures = write_tables(
        made.place, made.listed.jobs, waiting + unreadable, bids=True, participants=bids_dir / "participants.tsv"
    )
    say(f"volumes of {rows} scan(s) are in {made.place.out / 'volumes.tsv'}")
    say(f"{failures} scan(s) without results are in {made.place.out / 'failures.tsv'}")
    say(f"all of them to look at: {made.place.out / 'group.html'}")


def main(arguments: list[str] | None = None) -> None:
    """Run the BIDS App and exit: 0 done, 1 if a scan failed, 2 for anything the user can mend before."""
    guarded(lambda: app(arguments, exit_on_error=False, print_error=False))


def _manifest(settings: SegmentSettings) -> dict[str, Any]:
    import json

    from slant.io.models import model_folder

    path = model_folder(settings.model) / "manifest.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}; install or export the model again") from error


def _named(settings: SegmentSettings, manifest: dict[str, Any]) -> dict[str, str]:
    from slant.cohort.work import model_sha256

    sha256 = model_sha256(settings.model)
    return {"name": str(manifest.get("name")), "sha256": sha256, "licence": str(manifest.get("licence"))}


def _boilerplate(settings: SegmentSettings) -> str:
    from slant.cohort.bids import BOILERPLATE

    model = _named(settings, _manifest(settings))
    return BOILERPLATE.format(version=slant.__version__, model=model["name"], sha256=model["sha256"]).strip()
