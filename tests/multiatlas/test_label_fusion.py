"""Majority voting, locally weighted voting and joint label fusion, on arrays small enough to check by eye."""

from __future__ import annotations

import numpy as np
import pytest

from slant.errors import SettingsError
from slant.joint_fusion import Candidates
from slant.multiatlas.label_fusion import fuse, local_weights, weighted_vote

SHAPE = (12, 13, 14)


def candidates(wrong: int) -> Candidates:
    """One atlas resembles the target and has the labels 5 and 132; the wrong ones differ and have 7 everywhere."""
    generator = np.random.default_rng(0)
    target = generator.normal(1, 0.3, SHAPE).astype(np.float32)
    right = np.full(SHAPE, 5, np.uint8)
    right[6:] = 132
    others = [generator.normal(1, 0.3, SHAPE).astype(np.float32) for _ in range(wrong)]
    labels = np.stack([np.full(SHAPE, 7, np.uint8)] * wrong + [right])
    labels[:, :2] = 0
    return Candidates(labels, np.stack([*others, target + np.float32(0.001)]), target)


def test_majority_by_hand() -> None:
    labels = np.uint8([[1, 1, 3, 0], [2, 1, 4, 0], [2, 1, 5, 0]])
    fused = weighted_vote(labels, None)
    assert fused.channels.tolist() == [2, 1, 3, 0]  # three different labels: the most similar atlas's
    assert fused.agreement == pytest.approx([2 / 3, 1, 1 / 3, 1])


def test_weights_are_summed_by_label_never_averaged() -> None:
    labels = np.uint8([[10], [30], [30]])
    fused = weighted_vote(labels, np.float32([[0.5], [0.2], [0.2]]))
    assert fused.channels.tolist() == [10]
    assert fused.agreement == pytest.approx([0.5 / 0.9])


def test_local_fusion_prefers_the_similar_atlas_to_the_majority() -> None:
    atlases = candidates(wrong=3)
    majority, local = fuse(atlases, "majority", 1), fuse(atlases, "local", 1)
    assert set(np.unique(majority.channels)) == {0, 7}
    assert set(np.unique(local.channels)) == {0, 5, 132}
    assert (local.channels[6:] == 132).all()
    assert local.agreement.min() > 0
    assert local.agreement.max() <= 1


def test_local_weights_are_equal_in_uniform_images() -> None:
    flat = Candidates(np.zeros((2, *SHAPE), np.uint8), np.ones((2, *SHAPE), np.float32), np.ones(SHAPE, np.float32))
    weights = local_weights(flat, 2)
    assert np.array_equal(weights[0], weights[1])
    assert np.isfinite(weights).all()


def test_joint_fusion_prefers_the_similar_atlas_and_keeps_undisputed_labels() -> None:
    joint = fuse(candidates(wrong=3), "joint", 1)
    assert (joint.channels[:2] == 0).all()
    assert (joint.agreement[:2] == 1).all()
    assert (joint.channels[2:6] == 5).mean() > 0.95
    assert (joint.channels[6:] == 132).mean() > 0.95
    assert 0 <= joint.agreement.min() <= joint.agreement.max() <= 1 + 1e-5


def test_joint_fusion_of_one_atlas_is_rejected() -> None:
    with pytest.raises(SettingsError, match="at least 2"):
        fuse(candidates(wrong=0), "joint", 1)
