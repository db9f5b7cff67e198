"""Four labelled heads, and the results of a leave-one-out run."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
from fake_task import InlinePool
from toy import quick_stages, run_slant
from toy_atlases import NAMES, OPTIONS, write_subject


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    for seed, name in enumerate(NAMES):
        write_subject(folder, name, seed)
    return folder


@pytest.fixture(scope="session")
def done(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a leave-one-out run; tests that change files copy it."""
    out = tmp_path_factory.mktemp("out")
    with quick_stages(), patch("slant.engine.pools.LocalPool", lambda *_: InlinePool()):
        assert run_slant("multiatlas", out, "--atlases", library, "--leave-one-out", *OPTIONS) == 0
    return out


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "copy"))
