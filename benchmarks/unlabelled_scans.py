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
from slant.nets.device import inference_dtype
from slant.nets.groupwise import Deformation, deform
from slant.nets.model import Model
from slant.train.data import label_frequency, load_stored
from slant.train.settings import TrainSettings
from slant.volume import Volume

Arrays = dict[str, Any]


def label_scans(settings: TrainSettings, scans: dict[str, str], label_with: str, device: str) -> float:
    """Label scans in template space and write them as prepared auxiliary labels; their mean vote fraction.

    The voxels of a region get its mean vote fraction as their weight in the loss.

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
    means = []
    for (name, sha256), path, deformation in zip(scans.items(), images, deformations, strict=True):
        arrays, mean = labels_of(image_of(path), deformation, model, torch.device(device))
        identity = digest("pseudo-labels", sha256, model.identity)
        np.savez(folder / f"{name}.labels.npz", **arrays, scan_sha256=np.array(sha256), identity=np.array(identity))
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
    """Channels, frequency and weights of a scan as the stage `prepare` makes them, and its mean vote fraction."""
    cascade = model.cascade(image.data, deformation, inference_dtype("float32", device))
    vote = cascade.vote(image.data, device, torch.get_num_threads())
    count = len(model.protocol)
    labelled = vote.channels > 0
    arrays = {
        "channels": vote.channels,
        "frequency": label_frequency(vote.channels, count),
        "weights": mean_fractions(vote.channels, vote.fraction, count),
    }
    return arrays, float(vote.fraction[labelled].mean())


def mean_fractions(channels: NDArray[np.uint8], fraction: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """(C,) mean vote fraction of each channel; 1 for the background and for channels that do not occur."""
    voxels = np.bincount(channels.ravel(), minlength=count)
    sums = np.bincount(channels.ravel(), weights=fraction.ravel(), minlength=count)
    means = np.where(voxels > 0, sums / np.maximum(voxels, 1), 1.0)
    means[0] = 1.0
    return means.astype(np.float32)
