"""Segment real scans with the embedded models, from the command to the files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from toy import content

from slant.io.models import embedded_models
from slant.io.names import ResultNames
from slant.io.read import read_labels, read_scan
from slant.io.resources import load_protocol
from slant.volume import LabelMap
from slant.volumes import mean_dice

pytestmark = pytest.mark.slow

SLANT = sys.executable, "-c", "from slant.cli import main; main()"
"""A separate process, so that its peak memory is not that of other tests."""

SMOKE_DICE = 0.6
"""Minimum Dice on a scan that the embedded model was trained on, see its test."""


@pytest.fixture(scope="module")
def segmented(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a scan's results; each scan and model is run once."""
    done: dict[tuple[object, ...], Path] = {}

    def run(scan: str, model: str = "slant27", threads: int = 1) -> Path:
        if model not in embedded_models():
            pytest.skip(f"the weights of {model} are not in slant/weights")
        if (scan, model, threads) not in done:
            out = tmp_path_factory.mktemp(model)
            command = [*SLANT, "segment", data_dir / scan, out, "--model", model, "--threads", str(threads)]
            subprocess.run(command, check=True)
            done[scan, model, threads] = out
        return done[scan, model, threads]

    return run


CHRIS, MANUAL = "single/chris_T1w.nii.gz", "miccai2012-train/1000_T1w.nii.gz"
NAMES = ResultNames("chris")


def test_a_whole_head_has_all_regions_in_native_space(data_dir: Path, segmented: Callable[..., Path]) -> None:
    out = segmented(CHRIS)
    found, scan = nib.load(out / NAMES.labels), nib.load(data_dir / CHRIS)
    assert found.shape == scan.shape
    np.testing.assert_array_equal(found.affine, scan.affine)
    for code in ("sform_code", "qform_code"):
        assert found.header[code] == scan.header[code]
    assert set(np.unique(found.dataobj)) == set(load_protocol().ids.tolist())
    record = json.loads((out / NAMES.record).read_text("utf-8"))
    assert record["regions_found"] == 132
    assert record["registration_similarity"] > 0.5
    assert record["deformation"]["accepted"]
    assert record["deformation"]["similarity"] > 0.85 > record["deformation"]["affine_similarity"]
    assert 1.0e6 < record["etiv_mm3"] < 2.2e6
    assert max(timing["peak_mib"] for timing in record["timings"]) < 4096
    assert record["quality"]["grade"] == "pass", record["quality"]["reasons"]
    expected = [dice for dice, *_ in record["quality"]["regions"].values()]
    assert 0.6 < np.mean(expected) < 0.85


def test_two_threads_give_the_same_bytes_as_one(segmented: Callable[..., Path]) -> None:
    one, two = content(segmented(CHRIS)), content(segmented(CHRIS, threads=2))
    assert {name for name in one if one[name] != two[name]} == {NAMES.record, NAMES.report}  # with runtimes


@pytest.mark.parametrize("model", ["slant27", "slant8"])
def test_labels_of_a_training_scan_agree_with_the_manual_labels(
    model: str, data_dir: Path, segmented: Callable[..., Path]
) -> None:
    """A check of geometry and sides, not of accuracy: the embedded models were trained on this scan."""
    scan = read_scan(data_dir / MANUAL)
    manual = read_labels(data_dir / MANUAL.replace("_T1w", "_dseg"), scan)
    found = read_labels(segmented(MANUAL, model) / ResultNames("1000").labels, scan)
    regions = load_protocol().ids[1:].tolist()
    dice = mean_dice(found, manual, regions)
    assert dice > SMOKE_DICE
    swapped = LabelMap(found.data[::-1], found.grid)
    assert mean_dice(swapped, manual, regions) < dice / 2


def test_eight_tiles_agree_with_27(segmented: Callable[..., Path]) -> None:
    eight, all27 = (
        np.asarray(nib.load(segmented(MANUAL, model) / ResultNames("1000").labels).dataobj)
        for model in ("slant8", "slant27")
    )
    either = (eight != 0) | (all27 != 0)
    assert (eight == all27)[either].mean() > 0.7
    assert set(np.unique(eight)) == set(np.unique(all27))
