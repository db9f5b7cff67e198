"""The brain is aligned with a mask from the zero background or by brain extraction; if one fails, the other is used."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from toy import native_from_template, quick_stages, toy_model, toy_prepared, toy_scan

from slant.errors import InputError, RegistrationError
from slant.preprocess.alignment import AlignedBrain, align_brain
from slant.preprocess.brain import without_residual_tissue
from slant.preprocess.register import Registration
from slant.timing import TimingLog
from slant.volume import LabelMap, Volume

TOY_MASK = toy_prepared().brain


def aligned(*, skull_stripped: bool | None = None, scan: Volume | None = None) -> tuple[AlignedBrain, list[str]]:
    clock = TimingLog()
    with quick_stages(), patch("slant.preprocess.brain.without_residual_tissue", without_residual_tissue):
        found = align_brain(
            scan or toy_scan().volume, toy_model().inputs.template, clock, skull_stripped=skull_stripped
        )
    return found, [timing.name for timing in clock.timings]


def head() -> Volume:
    """The toy brain in a head of 3 litres with zero air."""
    grid = toy_scan().volume.grid
    voxels = np.indices(grid.shape) - (np.array(grid.shape)[:, None, None, None] - 1) / 2
    inside = (voxels**2).sum(axis=0) < (3e6 / grid.voxel_volume_mm3 * 3 / 4 / np.pi) ** (2 / 3)
    return Volume(np.where(TOY_MASK.data != 0, toy_scan().volume.data, inside * 10.0), grid)


@pytest.fixture
def extracted(monkeypatch: pytest.MonkeyPatch) -> list[Volume]:
    """The scans given to brain extraction, which finds the toy's brain."""
    scans: list[Volume] = []
    monkeypatch.setattr("slant.preprocess.brain.extract_brain", lambda scan: scans.append(scan) or TOY_MASK)
    return scans


@pytest.mark.parametrize("skull_stripped", [None, True])
def test_the_mask_of_a_skull_stripped_scan_is_its_foreground(skull_stripped, extracted) -> None:
    found, steps = aligned(skull_stripped=skull_stripped)
    np.testing.assert_array_equal(found.brain.data, toy_scan().volume.data != 0)
    assert (found.skull_stripped, found.warnings, steps) == (True, (), ["brain", "register"])
    assert len(extracted) == (skull_stripped is None)


@pytest.mark.parametrize("skull_stripped", [None, True])
def test_residual_tissue_is_left_out_unless_the_scan_is_said_to_be_skull_stripped(skull_stripped, monkeypatch) -> None:
    residual = np.zeros(TOY_MASK.data.shape, dtype=np.bool_)
    residual[:, : residual.shape[1] // 4] = True
    brain = LabelMap(TOY_MASK.data * ~residual, TOY_MASK.grid)
    assert 0 < (TOY_MASK.data.sum() - brain.data.sum()) < 0.1 * TOY_MASK.data.sum()
    monkeypatch.setattr("slant.preprocess.brain.extract_brain", lambda _: brain)
    found, _ = aligned(skull_stripped=skull_stripped)
    left_out = (TOY_MASK.data != 0) & (found.brain.data == 0)
    assert found.skull_stripped
    assert not (left_out & ~residual).any()
    if skull_stripped:
        assert (left_out.any(), found.warnings) == (False, ())
    else:
        assert left_out.any()
        assert "are left out as residual non-brain tissue" in found.warnings[0]


@pytest.mark.parametrize("skull_stripped", [None, False])
def test_the_mask_of_a_head_is_extracted(skull_stripped, extracted) -> None:
    found, _ = aligned(skull_stripped=skull_stripped, scan=head())
    assert found.brain is TOY_MASK
    assert (found.skull_stripped, found.warnings, len(extracted)) == (False, (), 1)


@pytest.mark.slow
def test_the_image_is_zero_outside_the_mask_unless_told() -> None:
    with quick_stages():
        masked = align_brain(head(), toy_model().inputs.template, TimingLog(), skull_stripped=None)
        whole = align_brain(head(), toy_model().inputs.template, TimingLog(), mask_brain=False)
    outside = masked.template_mask.data == 0
    assert not masked.image.data[outside].any()
    assert whole.image.data[outside].any()


def test_a_mask_that_cannot_be_registered_is_made_the_other_way(monkeypatch, extracted) -> None:
    def register(scan: Volume, mask: LabelMap, _: object) -> Registration:
        if mask is not TOY_MASK:
            raise RegistrationError("registration to the template failed")
        return Registration(native_from_template(), 0.6)

    clock = TimingLog()
    monkeypatch.setattr("slant.preprocess.register.register_to_template", register)
    found = align_brain(toy_scan().volume, toy_model().inputs.template, clock)
    assert (found.skull_stripped, len(extracted)) == (False, 2)  # once in search of residual tissue
    assert [timing.name for timing in clock.timings] == ["brain", "brain", "register"]
    (warning,) = found.warnings
    assert warning.startswith("the brain mask was made by brain extraction, because the zero background of a skull-")
    assert "failed (registration to the template failed)" in warning
    assert warning.endswith("choose with --skull-stripped or --no-skull-stripped")
    with pytest.raises(RegistrationError, match=r"scan; choose brain extraction with --no-skull-stripped"):
        align_brain(toy_scan().volume, toy_model().inputs.template, clock, skull_stripped=True)


def test_brain_extraction_that_fails_is_replaced_by_the_zero_background(monkeypatch) -> None:
    def extract(scan: Volume) -> LabelMap:
        raise InputError("no brain was found")

    monkeypatch.setattr("slant.preprocess.brain.extract_brain", extract)
    monkeypatch.setattr("slant.preprocess.brain.is_skull_stripped", lambda _: False)
    found, _ = aligned()
    assert found.skull_stripped
    assert "because brain extraction failed (no brain was found)" in found.warnings[0]


def test_if_both_ways_fail_the_error_tells_both(monkeypatch) -> None:
    def fail(*_: object) -> Registration:
        raise RegistrationError("registration to the template failed")

    monkeypatch.setattr("slant.preprocess.register.register_to_template", fail)
    monkeypatch.setattr("slant.preprocess.brain.extract_brain", lambda _: TOY_MASK)
    with pytest.raises(RegistrationError, match=r"^regis.*; the brain mask was made by the zero .*; brain extr"):
        align_brain(toy_scan().volume, toy_model().inputs.template, TimingLog())
    noise = replace(toy_scan().volume, data=toy_scan().volume.data + 1)
    with pytest.raises(RegistrationError, match=r"made by brain extraction; choose the zero .* with --skull-stripped"):
        align_brain(noise, toy_model().inputs.template, TimingLog())
