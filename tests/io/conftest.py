"""Fixtures for the tests of reading and writing."""

from __future__ import annotations

import pytest

from slant.preprocess.intensity_range import IntensityRange


@pytest.fixture
def stored_intensities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans keep the intensities of their files: noise is not a scan, whose background and range can be found."""
    monkeypatch.setattr("slant.io.read.robust_intensities", lambda volume: (volume, IntensityRange()))
