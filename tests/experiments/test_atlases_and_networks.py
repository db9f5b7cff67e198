"""Joint label fusion finds shifted patches and trusts the atlas that resembles the target."""

from __future__ import annotations

import numpy as np
from atlases_and_networks import JointFusion, evidence_of

from slant.multiatlas.label_fusion import Candidates

RANDOM = np.random.default_rng(0)
TARGET = RANDOM.normal(size=(12, 12, 12)).astype(np.float32)
LABELS = (np.indices(TARGET.shape).sum(axis=0) // 6).astype(np.uint8)
INNER = (slice(2, -2),) * 3


def test_the_labels_of_the_atlas_win_that_is_the_target_shifted_by_a_voxel() -> None:
    shifted, labels = np.roll(TARGET, 1, axis=0), np.roll(LABELS, 1, axis=0)
    noise = RANDOM.normal(size=TARGET.shape).astype(np.float32)
    candidates = Candidates(np.stack([9 - LABELS, labels]), np.stack([noise, shifted]), TARGET)
    disputed, weights = JointFusion().votes(candidates)
    np.testing.assert_array_equal(disputed, candidates.labels[0] != candidates.labels[1])
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    found = evidence_of((disputed, weights), candidates.labels[0])
    assert (found.channels[..., 0] == LABELS)[INNER][disputed[INNER]].all()
    assert (found.fractions[..., 0] == 1)[~disputed].all()


def test_atlases_that_err_together_share_one_vote() -> None:
    errors = [RANDOM.normal(size=TARGET.shape).astype(np.float32) for _ in range(2)]
    images = np.stack([TARGET + errors[0], TARGET + errors[0], TARGET + errors[1]])
    labels = np.stack([np.full_like(LABELS, label) for label in (1, 1, 2)])
    _, weights = JointFusion(search=0).votes(Candidates(labels, images, TARGET))
    np.testing.assert_allclose(weights[:, 1].mean(), 0.5, atol=0.05)
