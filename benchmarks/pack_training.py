"""Packs a training into one small file, so that it can go on where neither the scans nor their preparation are.

    python benchmarks/pack_training.py CONFIG --work-dir WORK --data DATA [--fold 0] [--auxiliary-dir AUX ...] OUT.tar

WORK is the folder of a training whose stage `prepare` has been run. The pack has, in this order: settings, table of
scans, groupwise template, all scans with manual labels, checkpoint of the stage `whole` if there is one, a scan in
native space (--native-scan), then as many auxiliary scans, scans without labels (--unlabelled-dir; `gpu.sh` labels them
with the model --label-with, and uses them as auxiliary scans) and displacements to the template as fit into
--limit-mib. What was left out is printed. Images are rounded to --levels, the errors are printed; all else is exact.

`unpack_training.py` makes a work folder of a pack, and `gpu.sh` does so before it trains. OUT without `.tar` is a
folder. Scans stay under the licence of their data: a pack is as confidential as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tarfile
import time
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed
from packed_scans import LEVELS, ScanError, Source, pack_scan
from pieces import MIB, compressed

from slant.config import build, read_toml
from slant.errors import InputError, SettingsError, SlantError
from slant.files import replacing
from slant.io.models import embedded_models
from slant.io.prepared import prepared_scan
from slant.train.data import labelled_names, load_stored
from slant.train.second_round import unlabelled_scans
from slant.train.settings import TrainSettings
from slant.train.splits import auxiliary_names

FORMAT = 1
DESCRIPTION, CONFIG, TABLE, PROTOCOL = "pack.json", "config.toml", "scans.tsv", "protocol.tsv"
CHECKPOINT, INITIAL = "whole.pt.compressed", "initial.pt"
MANUAL, AUXILIARY, UNLABELLED = "manual", "auxiliary", "unlabelled"
GROUPWISE, NATIVE, RECORDS = "groupwise", "native", "records"
"""Files and folders of a pack."""

_BLOCK = 512  # of a tar
_RESERVED = 256 * 1024  # for the description and the ends of a tar


@dataclass
class Pack:
    """Files of a pack by name, up to a total size in bytes."""

    limit: int
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Size as a tar."""
        return _RESERVED + sum(_BLOCK + -(-len(data) // _BLOCK) * _BLOCK for data in self.files.values())

    def fits(self, name: str, data: bytes) -> bool:
        """Add a file if there is room for it; whether there was."""
        if self.size + len(data) + 2 * _BLOCK > self.limit:
            return False
        self.files[name] = data
        return True

    def require(self, name: str, data: bytes) -> None:
        """Add a file; SettingsError if there is no room."""
        if not self.fits(name, data):
            needed = (self.size + len(data)) / MIB
            raise SettingsError(
                f"{name} does not fit into {self.limit / MIB:.0f} MiB, at least {needed:.1f} are needed; give a larger "
                "--limit-mib"
            )

    def write(self, out: Path) -> None:
        """Write a tar if the path ends in ``.tar``, otherwise a folder, which must be new or empty."""
        if out.suffix != ".tar":
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise SettingsError(f"{out} exists and is not an empty folder; give another folder or a new .tar")
            for name, data in self.files.items():
                path = out / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            return
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as partial, tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name, data in self.files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime = len(data), int(time.time())
                archive.addfile(entry, BytesIO(data))


def source_of(settings: TrainSettings, name: str, folders: list[Path]) -> Source:
    """The files of a prepared scan, with its labels in the first of the folders that has them."""
    paths = [folder / f"{name}.labels.npz" for folder in folders]
    labels = next((path for path in paths if path.is_file()), paths[0])
    sha256 = load_stored(labels, "prepared scan", "prepare", ("scan_sha256",))["scan_sha256"]
    return Source(name, settings.work_dir / "prepared" / f"{sha256}.npz", labels)


def add_scans(pack: Pack, folder: str, scans: list[Source], levels: int, *, required: bool) -> dict[str, ScanError]:
    """Pack scans in parallel, and add them while they fit; the errors of those that were added."""
    added: dict[str, ScanError] = {}
    packed = Parallel(n_jobs=-1)(delayed(pack_scan)(scan.image, scan.labels, levels) for scan in scans)
    for scan, (data, error) in zip(scans, packed, strict=True):
        name = f"{folder}/{scan.name}.npz"
        if required:
            pack.require(name, data)
        elif not pack.fits(name, data):
            continue
        added[scan.name] = error
    return added


def add_checkpoint(pack: Pack, path: Path) -> int | None:
    """Add a checkpoint, compressed without loss, if there is one; its number of steps."""
    if not path.is_file():
        return None
    pack.require(CHECKPOINT, compressed(path.read_bytes()))
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True)["step"])
    except Exception as error:  # of any type, if it is not a checkpoint
        raise InputError(f"{path} is not a checkpoint of `slant train`: {error}; give another --checkpoint") from error


def add_initial_weights(pack: Pack, settings: TrainSettings, steps: int | None) -> None:
    """Add the checkpoint that initializes the training, unless a later checkpoint or an embedded model does so."""
    source = settings.init_from
    if source is None or steps is not None or str(source) in embedded_models():
        return
    if not source.is_file():
        raise SettingsError(f"init_from = {str(source)!r}: expected an embedded model or a checkpoint (.pt)")
    stored, buffer = torch.load(source, map_location="cpu", weights_only=True), BytesIO()
    torch.save({"average": stored["average"], "step": stored.get("step", 0)}, buffer)
    pack.require(INITIAL, buffer.getvalue())


def check_settings(settings: TrainSettings) -> None:
    """SettingsError if the settings need more than a pack has."""
    problem = ""
    if settings.assemblies:
        problem = "[[assemblies]] are not supported"
    elif settings.slices is not None:
        problem = "[slices] is not supported"
    elif settings.prior is not None and settings.prior not in embedded_models():
        problem = f"prior = {settings.prior!r} is not an embedded model"
    if problem:
        raise SettingsError(f"{problem}; packs are for models with one assembly that start with the stage whole")


def spread(names: list[str]) -> list[str]:
    """The names in an order that does not follow the alphabet, so that the first ones are of all cohorts."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def pack_training(settings: TrainSettings, options: argparse.Namespace) -> Pack:
    """Make a pack, and print what is in it and what was left out."""
    check_settings(settings)
    pack = Pack(int(options.limit_mib * MIB))
    add_settings(pack, settings, options.config)
    manual = labelled_names(settings.data)
    sources = [source_of(settings, name, [settings.work_dir / "prepared"]) for name in manual]
    errors = add_scans(pack, MANUAL, sources, options.levels, required=True)
    print(f"{len(errors)} scans with manual labels, {pack.size / MIB:.1f} MiB", flush=True)
    steps = None if options.no_checkpoint else add_checkpoint(pack, options.checkpoint or settings.run / "whole.pt")
    add_initial_weights(pack, settings, steps)
    print(f"checkpoint: {'none' if steps is None else f'step {steps}'}, {pack.size / MIB:.1f} MiB", flush=True)
    if options.native_scan is not None:
        pack.require(f"{NATIVE}/{options.native_scan.name}", options.native_scan.read_bytes())
    sources = auxiliary_sources(pack, settings, options.auxiliary_dir, manual)
    more = add_scans(pack, AUXILIARY, sources, options.levels, required=False)
    print(f"{len(more)} of {len(sources)} auxiliary scans, {pack.size / MIB:.1f} MiB", flush=True)
    unlabelled = unlabelled_sources(settings, options.unlabelled_dir, {*manual, *(source.name for source in sources)})
    others = add_scans(pack, UNLABELLED, unlabelled, options.levels, required=False)
    print(f"{len(others)} of {len(unlabelled)} scans without labels, {pack.size / MIB:.1f} MiB", flush=True)
    left_out = sorted({source.name for source in (*sources, *unlabelled)} - {*more, *others})
    if settings.groupwise is not None:
        paths = [path for name in (*errors, *more) if (path := settings.split / GROUPWISE / f"{name}.npz").is_file()]
        count = sum(pack.fits(f"{GROUPWISE}/{path.name}", path.read_bytes()) for path in paths)
        print(f"{count} of {len(paths)} displacements, {pack.size / MIB:.1f} MiB")
    if left_out:
        print(f"left out, because there is no room: {', '.join(left_out)}")
    all_errors = [*errors.values(), *more.values(), *others.values()]
    largest, rms = max(e.largest for e in all_errors), max(e.rms for e in all_errors)
    print(f"images of {options.levels} levels: error at most {largest:.4f}, root mean square at most {rms:.4f}; mean 1")
    description = {
        "format": FORMAT,
        "fold": settings.fold,
        "manual": manual,
        "auxiliary": sorted(more),
        "unlabelled": {source.name: source.image.stem for source in unlabelled if source.name in others},
        "label_with": options.label_with,
        "left_out": left_out,
        "steps": steps,
        "init_from": None if settings.init_from is None else str(settings.init_from),
        "levels": options.levels,
        "largest_error": largest,
        "rms_error": rms,
    }
    pack.files = {DESCRIPTION: json.dumps(description, indent=1).encode(), **pack.files}
    return pack


def add_settings(pack: Pack, settings: TrainSettings, config: Path) -> None:
    """Add the files of the settings, and the groupwise template if it has been made."""
    pack.require(CONFIG, config.read_bytes())
    if settings.scans is not None:
        pack.require(TABLE, settings.scans.read_bytes())
    if settings.protocol.endswith(".tsv"):
        pack.require(PROTOCOL, Path(settings.protocol).read_bytes())
    template = settings.split / GROUPWISE / "template.npz"
    if settings.groupwise is not None and template.is_file():
        pack.require(f"{GROUPWISE}/{template.name}", template.read_bytes())


def auxiliary_sources(pack: Pack, settings: TrainSettings, folders: list[Path], manual: list[str]) -> list[Source]:
    """The auxiliary scans of all folders; adds the records of their labels to the pack."""
    runs = [settings.run, settings.split.with_name(f"{settings.split.name}-round2")]
    names = spread([name for folder in folders for name in add_records(pack, settings, folder, manual)])
    if len(names) > len(set(names)):
        raise SettingsError("a scan is in several folders of --auxiliary-dir; give each scan once")
    return [source_of(settings, name, [run / AUXILIARY for run in runs]) for name in names]


def unlabelled_sources(settings: TrainSettings, folders: list[Path], labelled: set[str]) -> list[Source]:
    """The scans without labels of all folders, prepared if they are not yet; those with labels are left out."""
    paths = {name: path for folder in folders for name, path in unlabelled_scans(folder).items()}
    names = spread([name for name in paths if name not in labelled])
    folder = settings.work_dir / "prepared"
    hashes = Parallel(n_jobs=-1)(delayed(prepared_sha256)(paths[name], folder) for name in names)
    return [Source(name, folder / f"{sha256}.npz", None) for name, sha256 in zip(names, hashes, strict=True)]


def prepared_sha256(path: Path, folder: Path) -> str:
    """Prepare a scan if it is not in the folder; the SHA-256 of its file."""
    return prepared_scan(path, folder).sha256


def add_records(pack: Pack, settings: TrainSettings, folder: Path, manual: list[str]) -> list[str]:
    """Names of the auxiliary scans of a folder that may be used; adds the records which say how labels were made."""
    names = auxiliary_names(replace(settings, auxiliary_dir=folder), manual)
    for name in names:
        record = folder / f"{name}_multiatlas.json"
        if record.is_file():
            pack.require(f"{RECORDS}/{record.name}", record.read_bytes())
    return names


def settings_from(options: argparse.Namespace) -> TrainSettings:
    """The settings of a file, with the options of the command line."""
    first = options.auxiliary_dir[0] if options.auxiliary_dir else None
    given = {"work_dir": options.work_dir, "data": options.data, "fold": options.fold, "scans": options.scans}
    given |= {"auxiliary_dir": first, "init_from": options.init_from}
    values: dict[str, Any] = {**read_toml(options.config), **{k: v for k, v in given.items() if v is not None}}
    settings: TrainSettings = build(TrainSettings, values, str(options.config))
    if not options.auxiliary_dir and settings.auxiliary_dir is not None:
        options.auxiliary_dir = [settings.auxiliary_dir]
    return settings


def main() -> None:
    """Pack, and print the size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="settings of the training, as for slant train")
    parser.add_argument("out", type=Path, help="OUT.tar, or a new folder")
    parser.add_argument("--work-dir", type=Path, required=True, help="folder of the prepared scans and checkpoints")
    parser.add_argument("--data", type=Path, help="folder of the scans with manual labels")
    parser.add_argument("--fold", type=int, help="fold that is held out (default: none, or that of CONFIG)")
    parser.add_argument("--auxiliary-dir", type=Path, nargs="+", default=[], help="folders of auxiliary scans")
    parser.add_argument("--unlabelled-dir", type=Path, nargs="+", default=[], help="folders of NAME_T1w.nii.gz")
    parser.add_argument("--label-with", default="whole", help="embedded model that has not seen the held-out scans")
    parser.add_argument("--scans", type=Path, help="table of the scans")
    parser.add_argument("--init-from", type=Path, help="embedded model or checkpoint with the first weights")
    parser.add_argument("--checkpoint", type=Path, help="checkpoint to go on with (default: whole.pt of the fold)")
    parser.add_argument("--no-checkpoint", action="store_true", help="start again, for example with --init-from")
    parser.add_argument("--levels", type=int, default=LEVELS, help="of the images: 2 to 255; fewer take less space")
    parser.add_argument("--native-scan", type=Path, help="a scan for the time of a whole slant segment")
    parser.add_argument("--limit-mib", type=float, default=60.0, help="largest size of the pack")
    options = parser.parse_args()
    start = time.monotonic()
    if not 2 <= options.levels <= LEVELS:
        sys.exit(f"error: --levels must be from 2 to {LEVELS}, found {options.levels}")
    try:
        pack_training(settings_from(options), options).write(options.out)
    except (SlantError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{options.out} written in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
