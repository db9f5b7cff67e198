"""Every kind of network between 2D and 3D learns to label another phantom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from phantom_runs import labelled, phantom_field
from phantoms import GENTLE, dice, phantom_arrays, toy_settings

from slant.train.network import NetworkChoice
from slant.train.run import run_stages
from slant.train.stage_settings import SlicesSettings, StageSettings

STAGE = {"learning_rate": 2e-2, "patches": 10, "ema_decay": 0.8}
SMALL = {"widths": (4, 6), "image_channels": 2, "head_channels": 6}


@pytest.fixture(autouse=True)
def field() -> Iterator[None]:
    with phantom_field():
        yield


@pytest.mark.parametrize(
    ("network", "slices"),
    [
        (NetworkChoice("residual", (4, 6, 8, 8), 2, 6, encoder="resnet10"), None),
        (NetworkChoice("slicewise", **SMALL), None),
        (NetworkChoice("anisotropic", **SMALL, plane="coronal"), None),
        (NetworkChoice("anisotropic", **SMALL), SlicesSettings(20, **STAGE)),
        pytest.param(NetworkChoice("orthogonal", **SMALL), None, marks=pytest.mark.slow),
        pytest.param(NetworkChoice("adapted", **SMALL, slice_widths=(4, 6)), None, marks=pytest.mark.slow),
        pytest.param(
            NetworkChoice("fusion", **SMALL, slice_widths=(4, 6), score_channels=4),
            SlicesSettings(20, **STAGE),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["resnet10", "slicewise", "anisotropic", "anisotropic-from-slices", "orthogonal", "adapted", "fusion"],
)
def test_a_small_network_learns_to_label_another_phantom(
    tmp_path: Path, network: NetworkChoice, slices: SlicesSettings | None
) -> None:
    """The prior alone has a Dice of 0.35."""
    whole = StageSettings(40, validate_every=40, **STAGE)
    settings = toy_settings(tmp_path, subjects=4, network=network, slices=slices, whole=whole, fold=0, augment=GENTLE)
    assert run_stages(settings, ("slices", "whole", "export"), (), None)
    assert pd.read_csv(settings.run / "whole.tsv", sep="\t").val_dice.iloc[-1] > 0.7
    image, reference = phantom_arrays(7)
    assert min(dice(labelled(settings.run / "model-whole", image), reference)) > 0.7
