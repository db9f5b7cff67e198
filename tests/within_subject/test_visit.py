"""What needs no other visit is found for each visit alone, as in the segmentation of one scan."""

from __future__ import annotations

import numpy as np
import pytest
from toy import SIMILARITY, native_from_template, quick_stages, toy_grid, toy_model, toy_scan

from slant.config import SegmentSettings
from slant.errors import InputError
from slant.timing import StepProgress
from slant.volume import Volume
from slant.within_subject.visit import align_visit

ONE = SegmentSettings(threads=1)


def test_a_visit_is_aligned_as_a_single_scan_is() -> None:
    told: list[StepProgress] = []
    with quick_stages():
        found = align_visit(toy_scan().volume, toy_model().inputs, ONE, told.append)
    brain = toy_scan().volume.data > 0
    assert ((found.brain.data > 0) == brain).mean() > 0.99
    assert found.brain.grid.same_as(toy_scan().volume.grid)
    assert found.native_from_template.tobytes() == native_from_template().tobytes()
    assert (found.similarity, found.skull_stripped, found.warnings) == (SIMILARITY, True, ())
    steps = [timing.name for timing in found.timings]
    assert steps == ["robust intensities", "brain", "register"]
    assert list(dict.fromkeys(progress.name for progress in told)) == steps


def test_an_empty_scan_is_refused() -> None:
    with quick_stages(), pytest.raises(InputError):
        align_visit(Volume(np.zeros(toy_grid().shape), toy_grid()), toy_model().inputs, ONE)
