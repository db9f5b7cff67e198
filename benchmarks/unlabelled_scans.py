"""Labels the scans of a pack that have none, on the machine that trains: a second round without the scans' files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray

from slant.errors import ModelError
from slant.io.models import load_model
from slant.io.prepared import digest
from slant.io.resources import load_protocol
from slant.io.templates import load_template
from slant.labels import LabelProtocol
from slant.nets.device import inference_dtype
from slant.nets.groupwise import Deformation, deform
from slant.nets.model import Model
from slant.quality.reference import load_reference
from slant.train.data import label_frequency, load_stored
from slant.train.settings import TrainSettings
from slant.volume import Volume

Arrays = dict[str, Any]


def label_scans(settings: TrainSettings, scans: dict[str, str], label_with: str, device: str) -> float:
    """Label scans in template space and write them as prepared auxiliary labels; their mean vote fraction.

    The weight of the voxels of a region in the loss is the mean Dice of this region on held-out subjects that the
    normative reference of the model has; 1 for the background and for regions without it.

    Parameters
    ----------
    scans : dict of str to str
        Name and SHA-256 of each scan; its image is in ``prepared/SHA256.npz`` of the work folder.
    label_with : str
        Embedded model.

    Raises
    ------
    ModelError
        If the model has other regions than the training.
    """
    model, protocol = load_model(label_with), load_protocol(settings.protocol)
    if model.protocol.ids.tolist() != protocol.ids.tolist():
        raise ModelError(
            f"{label_with} has other regions than the protocol {protocol.name!r}; give another --label-with"
        )
    folder = settings.run / "auxiliary"
    folder.mkdir(parents=True, exist_ok=True)
    images = [settings.work_dir / "prepared" / f"{sha256}.npz" for sha256 in scans.values()]
    deformations = Parallel(n_jobs=-1)(delayed(deformation_of)(path, label_with) for path in images)
    means, weights = [], region_weights(label_with, protocol)
    for (name, sha256), path, deformation in zip(scans.items(), images, deformations, strict=True):
        arrays, mean = labels_of(image_of(path), deformation, model, torch.device(device))
        identity = digest("pseudo-labels", sha256, model.identity)
        arrays |= {"weights": weights, "scan_sha256": np.array(sha256), "identity": np.array(identity)}
        np.savez(folder / f"{name}.labels.npz", **arrays)
        means.append(mean)
    return float(np.mean(means))


def image_of(path: Path) -> Volume:
    """The image of a prepared scan."""
    image = load_stored(path, "prepared scan", "prepare", ("image",))["image"]
    return Volume(image.astype(np.float32), load_template().grid)


def deformation_of(path: Path, model: str) -> Deformation | None:
    """The registration of a prepared scan to the groupwise template of a model, if it has one."""
    torch.set_num_threads(1)
    groupwise = load_model(model).inputs.groupwise
    return None if groupwise is None else deform(image_of(path), groupwise)


def labels_of(
    image: Volume, deformation: Deformation | None, model: Model, device: torch.device
) -> tuple[Arrays, float]:
    """Channels and frequency of a scan as the stage `prepare` makes them, and the mean vote fraction of its labels."""
    cascade = model.cascade(image.data, deformation, inference_dtype("float32", device))
    vote = cascade.vote(image.data, device, torch.get_num_threads())
    arrays = {"channels": vote.winners, "frequency": label_frequency(vote.winners, len(model.protocol))}
    return arrays, float(vote.fraction[vote.winners > 0].mean())


def region_weights(model: str, protocol: LabelProtocol) -> NDArray[np.float32]:
    """(C,) weight of each channel, see `label_scans`."""
    reference = load_reference(model)
    base = {} if reference is None or reference.dice is None else reference.dice.base
    return np.array([1.0, *(base.get(int(i), 1.0) for i in protocol.ids[1:])], dtype=np.float32)
