"""Carries every scan with its labels into template space, once."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor
from tqdm import tqdm

from slant.errors import InputError, ModelError, ProtocolError, SlantError
from slant.io.models import load_inputs, load_model
from slant.io.read import read_labels, read_scan
from slant.io.resources import load_protocol
from slant.io.templates import load_template
from slant.nets.weights import file_sha256
from slant.pipeline import prepare
from slant.resample import pick_labels
from slant.train.data import (
    Groupwise,
    LabelledScan,
    build_prior,
    label_frequency,
    labelled_names,
    load_scans,
    save_arrays,
    stored_identity,
)
from slant.train.groupwise import carry_scans, count_votes, load_deformed, load_mean, make_template
from slant.train.loss import IGNORED
from slant.train.people import auxiliary_names, read_table, split
from slant.volume import LabelMap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slant.labels import LabelProtocol
    from slant.nets.prior import Prior
    from slant.train.settings import GroupwiseSettings, TrainSettings


@dataclass(frozen=True, eq=False)
class TrainingScans:
    """The scans of a run in template space.

    Attributes
    ----------
    manual, auxiliary, held_out : list of LabelledScan
        Trained on, labelled by hand or by machine; and those only judged on.
    given_prior : Prior, optional
        Of another model.
    groupwise : Groupwise, optional
        With the deformable atlas prior.
    """

    manual: list[LabelledScan]
    auxiliary: list[LabelledScan]
    held_out: list[LabelledScan]
    given_prior: Prior | None = None
    groupwise: Groupwise | None = None

    @property
    def prior(self) -> Prior:
        """The one given, or that of all scans trained on."""
        return self.given_prior or build_prior([*self.manual, *self.auxiliary])


def prepare_scans(settings: TrainSettings) -> None:
    """Prepare the scans whose files or settings have changed since it was last done; a bad one stops no other.

    Raises
    ------
    InputError
        If scans could not be prepared: their names and the reasons.
    """
    manual = labelled_names(settings.data)
    jobs = [(settings, settings.data, name) for name in manual]
    if settings.auxiliary is not None:
        jobs += [(settings, settings.auxiliary, name) for name in auxiliary_names(settings, manual)]
    for folder in {_labels_folder(settings, job[1]) for job in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    done = Parallel(n_jobs=-1, return_as="generator")(delayed(_prepare)(*job) for job in jobs)
    bar = tqdm(done, total=len(jobs), desc="prepare", unit="scan", file=sys.stderr)
    failed = [f"{job[2]}: {reason}" for job, reason in zip(jobs, bar, strict=True) if reason]
    if failed:
        raise InputError(f"{len(failed)} of {len(jobs)} scans could not be prepared: " + "; ".join(failed))


def load_training(settings: TrainSettings) -> TrainingScans:
    """The prepared scans of a run.

    Raises
    ------
    InputError
        If a scan has not been prepared.
    """
    protocol = load_protocol(settings.protocol)
    manual = labelled_names(settings.data)
    trained, held_out = split(settings, manual)
    regions = read_table(settings.scans).regions
    covered = {name: covered_channels(protocol, ids, name) for name, ids in regions.items()}
    images = settings.work / "prepared"
    ours = [
        load_scans(images, _labels_folder(settings, settings.data), names, covered) for names in (trained, held_out)
    ]
    auxiliary: list[LabelledScan] = []
    if settings.auxiliary is not None:
        names = auxiliary_names(settings, manual)
        auxiliary = load_scans(images, _labels_folder(settings, settings.auxiliary), names, covered)
    found = TrainingScans(ours[0], auxiliary, ours[1], _given_prior(settings, protocol))
    if settings.groupwise is None:
        return found
    return replace(found, groupwise=_load_groupwise(settings, settings.groupwise, found))


def template_scans(settings: TrainSettings) -> list[str]:
    """Names of the scans that make the groupwise template: labelled by hand, all regions and voxels, none held out."""
    regions = read_table(settings.scans).regions
    trained, _ = split(settings, labelled_names(settings.data))
    return [] if settings.ignore is not None else [name for name in trained if name not in regions]


def prepare_groupwise(settings: TrainSettings) -> None:
    """Make the groupwise template of a run and register every scan to it.

    Raises
    ------
    TrainingError
        If fewer than two scans can make it.
    """
    if settings.groupwise is None:
        return
    manual = labelled_names(settings.data)
    voting = template_scans(settings)
    images, folder = settings.work / "prepared", settings.run / "groupwise"
    others = [] if settings.auxiliary is None else auxiliary_names(settings, manual)
    grid = load_template().grid
    make_template(images, voting, folder, grid, settings.groupwise)
    jobs = [(name, images / f"{name}.labels.npz" if name in voting else None) for name in [*manual, *others]]
    carry_scans(images, jobs, folder, grid, settings.groupwise)


def _load_groupwise(settings: TrainSettings, how: GroupwiseSettings, scans: TrainingScans) -> Groupwise:
    folder, person = settings.run / "groupwise", read_table(settings.scans).person
    names = [scan.name for scan in [*scans.manual, *scans.auxiliary, *scans.held_out]]
    found = {name: load_deformed(folder, name) for name in names}
    voting = template_scans(settings)
    labels = {name: blocks for name in voting if (blocks := found[name][1]) is not None}
    own = {name: tuple(labels[other] for other in labels if person(other) == person(name)) for name in names}
    votes = count_votes(list(labels.values()), len(load_protocol(settings.protocol)))
    displacements = {name: pair[0] for name, pair in found.items()}
    return Groupwise(load_mean(folder, load_template().grid), votes, displacements, own, how)


def _given_prior(settings: TrainSettings, protocol: LabelProtocol) -> Prior | None:
    if settings.prior is None:
        return None
    model = load_model(settings.prior)
    lacking = "no prior" if model.networks.prior is None else "other regions"
    if model.networks.prior is None or model.protocol.ids.tolist() != protocol.ids.tolist():
        raise ModelError(
            f"prior = {settings.prior!r}: that model has {lacking}; give one with a prior of {protocol.name!r}, or "
            "leave it out"
        )
    return model.networks.prior


def covered_channels(protocol: LabelProtocol, ids: tuple[int, ...], name: str) -> Tensor:
    """(C,) bool: the channels of the ids that the labels of a scan cover.

    Raises
    ------
    InputError
        If an id is the background or none of the protocol.
    """
    regions = set(ids)
    strange = sorted(regions - set(protocol.ids[1:].tolist()))
    if strange:
        raise InputError(
            f"the table of scans says that {name} covers {strange}, which are no regions of {protocol.name!r}"
        )
    return torch.tensor([int(i) in regions for i in protocol.ids])


def _labels_folder(settings: TrainSettings, folder: Path) -> Path:
    """Where labels are kept: manual ones once, machine-made ones by split, since they may differ between folds."""
    return settings.work / "prepared" if folder == settings.data else settings.run / "auxiliary"


def _prepare(settings: TrainSettings, folder: Path, name: str) -> str:
    """Prepare one scan; the reason if that cannot be done."""
    try:
        _prepare_image(settings, folder, name)
        _prepare_labels(settings, folder, name)
    except SlantError as error:
        return str(error)
    return ""


def _prepare_image(settings: TrainSettings, folder: Path, name: str) -> None:
    source, path = folder / f"{name}_T1w.nii.gz", settings.work / "prepared" / f"{name}.npz"
    identity = file_sha256(source)
    if stored_identity(path) == identity:
        return
    prepared = prepare(read_scan(source).volume, load_inputs())
    save_arrays(
        path,
        image=prepared.image.data.astype(np.float16),
        home_from_template=prepared.home_from_template,
        identity=np.array(identity),
    )


def _prepare_labels(settings: TrainSettings, folder: Path, name: str) -> None:
    image = settings.work / "prepared" / f"{name}.npz"
    source, path = folder / f"{name}_dseg.nii.gz", _labels_folder(settings, folder) / f"{name}.labels.npz"
    made_of = (file_sha256(source), stored_identity(image), settings.protocol, settings.unknown, settings.ignore)
    identity = " ".join(map(str, made_of))
    if stored_identity(path) == identity:
        return
    labels = read_labels(source, read_scan(folder / f"{name}_T1w.nii.gz"))
    protocol = load_protocol(settings.protocol)
    with np.load(image) as stored:
        home_from_template = stored["home_from_template"]
    channels = LabelMap(channels_of(labels, protocol, settings), labels.grid)
    carried = pick_labels(channels, load_inputs().template.grid, home_from_template).data.astype(np.uint8)
    if not ((carried > 0) & (carried != IGNORED)).any():
        raise InputError(
            f"{source} holds no region of protocol {protocol.name!r}; leave the scan out or mend its labels"
        )
    save_arrays(path, channels=carried, frequency=label_frequency(carried, len(protocol)), identity=np.array(identity))


def channels_of(labels: LabelMap, protocol: LabelProtocol, settings: TrainSettings) -> NDArray[np.uint8]:
    """Channel of every voxel of a label map, `IGNORED` where its id is ``settings.ignore``.

    Raises
    ------
    ProtocolError
        If it holds unknown ids and ``settings.unknown`` is ``"error"``.
    """
    skipped = labels.data == settings.ignore if settings.ignore is not None else np.zeros(labels.data.shape, bool)
    try:
        channels = protocol.channels_from_ids(np.where(skipped, 0, labels.data), unknown=settings.unknown)
    except ProtocolError as error:
        raise ProtocolError(
            f'{error}: unknown = "background" does so; ignore = ID says which voxels nobody has labelled'
        ) from error
    return np.where(skipped, np.uint8(IGNORED), channels)
