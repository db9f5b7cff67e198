"""Makes a work folder for `slant train` of a pack of `pack_training.py`, on a machine without the scans.

    python benchmarks/unpack_training.py PACK WORK

PACK is a tar or a folder. The stage `prepare` has been done by then, and must not be run; the printed command runs the
others. `slant train` finds the names of the scans in WORK/data and WORK/auxiliary-data, whose files are empty.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed
from pack_training import (
    AUXILIARY,
    CHECKPOINT,
    CONFIG,
    DESCRIPTION,
    FORMAT,
    GROUPWISE,
    INITIAL,
    MANUAL,
    NATIVE,
    PROTOCOL,
    RECORDS,
    TABLE,
    UNLABELLED,
)
from packed_scans import unpack_image, unpack_scan
from pieces import PieceError, decompressed

from slant.config import build, read_toml
from slant.errors import InputError, SlantError
from slant.files import replacing
from slant.io.resources import load_protocol
from slant.train.second_round import PSEUDO_PROBABILITY
from slant.train.settings import TrainSettings
from slant.train.splits import split

DATA, AUXILIARY_DATA = "data", "auxiliary-data"


def extract(pack: Path, folder: Path) -> Path:
    """The folder with the files of a pack, which is extracted to ``folder`` if it is a tar.

    Raises
    ------
    InputError
        If it is not a pack.
    """
    if pack.is_dir():
        return pack
    try:
        with tarfile.open(pack) as archive:
            archive.extractall(folder, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{pack} cannot be read: {error}; expected a pack of pack_training.py") from error
    return folder


def description_of(folder: Path) -> dict[str, Any]:
    """What is in a pack; InputError if the folder is not one."""
    try:
        found: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} is not a pack of pack_training.py ({error}); give its tar or folder") from error
    if found.get("format") != FORMAT:
        raise InputError(f"{folder} has the format {found.get('format')}, expected {FORMAT}; make the pack again")
    return found


def unpack(pack: Path, work: Path) -> TrainSettings:
    """Make a work folder of a pack; the settings with which its training goes on.

    Raises
    ------
    InputError
        If it is not a pack, or damaged.
    """
    work.mkdir(parents=True, exist_ok=True)
    folder = extract(pack, work / "pack")
    known = description_of(folder)
    for name in (DESCRIPTION, CONFIG, TABLE, PROTOCOL, INITIAL):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, work / name)
    for kind, place in ((MANUAL, DATA), (AUXILIARY, AUXILIARY_DATA), (UNLABELLED, AUXILIARY_DATA)):
        _list_names(work / place, list(known[kind]))
    if (folder / RECORDS).is_dir():
        shutil.copytree(folder / RECORDS, work / AUXILIARY_DATA, dirs_exist_ok=True)
    settings = settings_of(work)
    channels = len(load_protocol(settings.protocol))
    images = work / "prepared"
    jobs = [(folder / MANUAL / f"{name}.npz", images, images, name, channels) for name in known[MANUAL]]
    own = settings.run / AUXILIARY
    jobs += [(folder / AUXILIARY / f"{name}.npz", images, own, name, channels) for name in known[AUXILIARY]]
    Parallel(n_jobs=-1)(delayed(unpack_scan)(*job) for job in jobs)
    without = [(folder / UNLABELLED / f"{name}.npz", images, sha256) for name, sha256 in known[UNLABELLED].items()]
    Parallel(n_jobs=-1)(delayed(unpack_image)(*job) for job in without)
    for kind, target in ((GROUPWISE, settings.split / GROUPWISE), (NATIVE, work / NATIVE)):
        if (folder / kind).is_dir():
            shutil.copytree(folder / kind, target, dirs_exist_ok=True)
    if (folder / CHECKPOINT).is_file():
        _restore(folder / CHECKPOINT, settings.run / "whole.pt", settings, known)
    return settings


def _list_names(folder: Path, names: list[str]) -> None:
    """Write empty files by whose names `slant train` knows the scans of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for kind in ("T1w", "dseg"):
            (folder / f"{name}_{kind}.nii.gz").touch()
    text = "The files of this folder are empty: they only name the scans, which are prepared already.\n"
    (folder / "README").write_text(text, encoding="utf-8")


def _restore(packed: Path, path: Path, settings: TrainSettings, known: dict[str, Any]) -> None:
    """Write the checkpoint again; it goes on with the scans of the pack, even if it has seen others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        try:
            partial.write_bytes(decompressed(packed.read_bytes()))
        except PieceError as error:
            raise InputError(f"{packed}: {error}") from error
    trained, _ = split(settings, known[MANUAL])
    names = [*trained, *known[AUXILIARY], *known[UNLABELLED]]
    stored = torch.load(path, map_location="cpu", weights_only=True)
    if sorted(stored["subjects"]) == sorted(names):
        return
    print(f"the checkpoint has seen {len(stored['subjects'])} scans, and goes on with {len(names)}", flush=True)
    with replacing(path) as partial:
        torch.save({**stored, "subjects": names}, partial)


def settings_of(work: Path, device: str = "cpu") -> TrainSettings:
    """The settings of the training in a folder that `unpack` has made."""
    known = description_of(work)
    values = read_toml(work / CONFIG)
    values.pop("unlabelled", None)
    values |= {"work_dir": work, "data": work / DATA, "fold": known["fold"], "devices": (device,)}
    if known["fold"] is None:
        del values["fold"]
    values["auxiliary_dir"] = work / AUXILIARY_DATA
    for name, key in ((TABLE, "scans"), (PROTOCOL, "protocol")):
        if (work / name).is_file():
            values[key] = str(work / name)
    if known["steps"] is not None:  # its weights are in the checkpoint
        values.pop("pretrain", None)
        values.pop("init_from", None)
    elif (work / INITIAL).is_file():
        values["init_from"] = work / INITIAL
    elif known["init_from"] is not None:
        values["init_from"] = known["init_from"]
    if known[UNLABELLED] and not values["whole"].get("auxiliary_probability"):
        values["whole"] = {**values["whole"], "auxiliary_probability": PSEUDO_PROBABILITY}
    if not (known[AUXILIARY] or known[UNLABELLED]):
        del values["auxiliary_dir"]
        values.pop("pretrain", None)
        values["whole"] = {**values["whole"], "auxiliary_probability": 0.0}
        values["tile"] = {**values["tile"], "auxiliary_probability": 0.0}
    return build(TrainSettings, values, str(work / CONFIG))


def command_of(work: Path, settings: TrainSettings) -> str:
    """The command that goes on with the training of a work folder."""
    options = ["--data", work / DATA, "--work-dir", work]
    if settings.auxiliary_dir is not None:
        options += ["--auxiliary-dir", settings.auxiliary_dir]
    if settings.scans is not None:
        options += ["--scans", settings.scans]
    if settings.fold is not None:
        options += ["--fold", settings.fold]
    if settings.init_from is not None:
        options += ["--init-from", settings.init_from]
    stages = " ".join(f"--stages {stage}" for stage in ("groupwise", "whole", "export"))
    return f"slant train {work / CONFIG} {' '.join(map(str, options))} {stages}"


def main() -> None:
    """Unpack, and print the command that goes on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path, help="tar or folder of pack_training.py")
    parser.add_argument("work", type=Path, help="work folder, created if missing")
    options = parser.parse_args()
    start = time.monotonic()
    try:
        settings = unpack(options.pack, options.work)
    except (SlantError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"unpacked in {time.monotonic() - start:.0f} s; go on with\n  {command_of(options.work, settings)}")


if __name__ == "__main__":
    main()
