"""Joint label fusion agrees with the formulas voxel by voxel, finds shifted patches and trusts the similar atlas."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from slant.errors import SettingsError
from slant.joint_fusion import ALPHA, Candidates, fuse_jointly
from slant.threads import Threads

RANDOM = np.random.default_rng(0)
TARGET = RANDOM.normal(size=(12, 12, 12)).astype(np.float32)
LABELS = (np.indices(TARGET.shape).sum(axis=0) // 6).astype(np.uint8)
INNER = (slice(2, -2),) * 3


def cube(radius: int) -> list[tuple[int, ...]]:
    return sorted(product(range(-radius, radius + 1), repeat=3), key=lambda o: sum(a * a for a in o))


def by_hand(candidates: Candidates, radius: int) -> dict[tuple[int, ...], np.ndarray]:
    """Weights of the channels at each disputed voxel, by loops over voxels, patches and atlases."""
    pad = 2 * radius + 1
    width = [(0, 0), *[(pad, pad)] * 3]
    labels, images = (np.pad(a, width, mode="edge") for a in (candidates.labels, candidates.images.astype(float)))
    target = np.pad(candidates.target.astype(float), pad, mode="edge")
    patch = cube(radius)

    def values(image: np.ndarray, at: np.ndarray) -> np.ndarray:
        return image[tuple((at + patch).T)]

    disputed = (candidates.labels != candidates.labels[0]).any(axis=0)
    table = {tuple(v): np.zeros(10) for v in np.argwhere(disputed)}
    for center in {tuple(np.add(v, o)) for v in table for o in patch}:
        at = np.array(center) + pad
        own, matched = values(target, at), []
        for image in images:
            errors = [((own - values(image, at + step)) ** 2).mean() for step in cube(1)]
            matched.append(at + cube(1)[int(np.argmin(errors))])
        differences = np.array([np.abs(own - values(i, m)) for i, m in zip(images, matched, strict=True)])
        joint = (differences @ differences.T / len(patch)) ** 2 + ALPHA * np.eye(len(images))
        weights = np.maximum(np.linalg.inv(joint).sum(axis=1), 0)
        for o in patch:
            if (voxel := tuple(np.add(center, o))) in table:
                for k, m in enumerate(matched):
                    table[voxel][labels[k][tuple(m + o)]] += weights[k] / weights.sum() / len(patch)
    return table


@pytest.mark.parametrize(("radius", "shape"), [(1, (6, 5, 7)), (2, (4, 3, 3))])
def test_weights_agree_with_the_formulas(radius: int, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(radius)
    target = rng.normal(1, 0.3, shape).astype(np.float32)
    images = (target + rng.normal(0, 0.3, (3, *shape))).astype(np.float32)
    labels = np.broadcast_to((np.indices(shape)[0] > 1) + 1, (3, *shape)).astype(np.uint8)
    labels[1, 1:3] = 1
    labels[2, :, 1] = 7
    found = fuse_jointly(Candidates(labels, images, target), radius)
    expected = by_hand(Candidates(labels, images, target), radius)
    assert len(expected) > 15
    for voxel, weights in expected.items():
        own = np.zeros(10)
        np.add.at(own, found.channels[voxel], found.fractions[voxel])
        np.testing.assert_allclose(own, weights, atol=2e-4)
    agreed = (labels == labels[0]).all(axis=0)
    assert (found.channels[..., 0] == labels[0])[agreed].all()
    assert (found.fractions[agreed] == (1, 0, 0, 0)).all()


def test_the_labels_of_the_atlas_win_that_is_the_target_shifted_by_a_voxel() -> None:
    shifted, labels = np.roll(TARGET, 1, axis=0), np.roll(LABELS, 1, axis=0)
    noise = RANDOM.normal(size=TARGET.shape).astype(np.float32)
    candidates = Candidates(np.stack([9 - LABELS, labels]), np.stack([noise, shifted]), TARGET)
    found = fuse_jointly(candidates)
    disputed = candidates.labels[0] != candidates.labels[1]
    assert (found.channels[..., 0] == LABELS)[INNER][disputed[INNER]].all()
    assert found.fractions.sum(axis=-1).max() <= 1 + 1e-5


def test_atlases_that_err_together_share_one_vote() -> None:
    errors = [RANDOM.normal(size=TARGET.shape).astype(np.float32) for _ in range(2)]
    images = np.stack([TARGET + errors[0], TARGET + errors[0], TARGET + errors[1]])
    labels = np.stack([np.full_like(LABELS, label) for label in (1, 1, 2)])
    found = fuse_jointly(Candidates(labels, images, TARGET))
    ones = np.where(found.channels == 1, found.fractions, 0).sum(axis=-1)
    np.testing.assert_allclose(ones.mean(), 0.5, atol=0.06)


def test_the_votes_do_not_depend_on_the_number_of_threads() -> None:
    shape = (40, 30, 20)
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, (4, *shape)).astype(np.uint8)
    images, target = rng.normal(1, 0.3, (4, *shape)).astype(np.float32), rng.normal(1, 0.3, shape).astype(np.float32)
    once = fuse_jointly(Candidates(labels, images, target))
    with Threads(3) as threads:
        again = fuse_jointly(Candidates(labels, images, target), threads=threads)
    assert once.channels.tobytes() == again.channels.tobytes()
    assert once.fractions.tobytes() == again.fractions.tobytes()


def test_atlases_that_agree_everywhere_are_not_compared() -> None:
    labels = np.stack([LABELS, LABELS])
    found = fuse_jointly(Candidates(labels, np.zeros((2, *TARGET.shape), np.float32), TARGET))
    assert (found.channels[..., 0] == LABELS).all()
    assert (found.fractions[..., 0] == 1).all()


def test_one_atlas_is_rejected() -> None:
    with pytest.raises(SettingsError, match="at least 2 atlases, found 1"):
        fuse_jointly(Candidates(LABELS[None], TARGET[None], TARGET))
