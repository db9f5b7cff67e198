"""Two visits made from the MNI152 T1, with the whole pipeline and an embedded model."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from slant.config import SegmentSettings
from slant.grid import Grid
from slant.io.models import load_model
from slant.nets.model import Model
from slant.resample import resample
from slant.segmentation import Segmentation
from slant.volume import Volume
from slant.within_subject.subject import align_subject, label_visit, visit_votes
from slant.within_subject.visit import AlignedVisit, align_visit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("nilearn") is None, reason="needs nilearn, which ships the scan"),
]
TWO = SegmentSettings(threads=2)


def scan(degrees: float, seed: int) -> Volume:
    """The head at 1.2 mm, rotated, with noise."""
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=1)
    original = Volume(np.asarray(image.dataobj, np.float32) * 1000, Grid(image.shape, image.affine))
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", (degrees, degrees / 2, -degrees), degrees=True).as_matrix()
    moved = resample(original, original.grid.with_voxels_mm(1.2), source_from_target=motion)
    noise = np.random.default_rng(seed).normal(0, 15, moved.grid.shape)
    return Volume(np.where(moved.data > 0, np.clip(moved.data + noise, 1, None), 0), moved.grid)


def segment(scans: list[Volume], aligned: list[AlignedVisit], model: Model) -> list[Segmentation]:
    subject = align_subject([str(i) for i in range(len(scans))], scans, aligned, model.inputs)
    votes = [visit_votes(subject, i, model, TWO) for i in range(len(scans))]
    return [label_visit(subject, i, votes, model, TWO) for i in range(len(scans))]


def volumes(segmentation: Segmentation) -> np.ndarray:
    return np.array([row.volume_mm3 for row in segmentation.volumes if row.level == "region"])


@pytest.mark.filterwarnings("ignore")
def test_visits_are_labelled_alike_in_any_order_and_copies_get_the_same_labels() -> None:
    model = load_model("slant8")
    scans = [scan(4.0, 0), scan(-1.0, 1)]
    aligned = [align_visit(one, model.inputs, TWO) for one in scans]
    first = segment(scans, aligned, model)
    for own, same in zip(first, segment(scans[::-1], aligned[::-1], model)[::-1], strict=True):
        assert own.labels.data.tobytes() == same.labels.data.tobytes()
        assert own.confidence.data.tobytes() == same.confidence.data.tobytes()
        assert own.volumes == same.volumes
    one, other = segment([scans[0]] * 2, [aligned[0]] * 2, model)
    assert one.labels.data.tobytes() == other.labels.data.tobytes()
    assert one.volumes == other.volumes
    mean = (volumes(first[0]) + volumes(first[1])) / 2
    assert mean.min() > 0
    assert (np.abs(volumes(first[0]) - volumes(first[1])) / mean).mean() < 0.01
