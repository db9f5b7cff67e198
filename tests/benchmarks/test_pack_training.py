"""A training that was packed and unpacked goes on as before, from 8-bit images."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from phantom_runs import phantom_field, started, train_whole
from phantoms import LEFT, phantom_arrays, toy_settings

from slant.errors import InputError, SettingsError
from slant.grid import axis_aligned_grid
from slant.io.resources import load_protocol
from slant.quality.reference import load_reference
from slant.train.settings import TrainSettings
from slant.train.stage_settings import SlicesSettings

TOML = """
name = "toy"
folds = 2
precision = "float32"

[network]
widths = [4, 6]
image_channels = 2
head_channels = 4

[layout]
shape = [32, 40, 36]
size = [20, 40, 36]
counts = [2, 1, 1]
overlap = "core"

[whole]
steps = {steps}
learning_rate = 1e-2
patches = 4
ema_decay = 0.5
auxiliary_probability = {auxiliary}

[tile]
steps = 2
"""


@pytest.fixture(scope="module")
def tools() -> SimpleNamespace:
    """The modules, which are not part of the package."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    with patch.object(sys, "path", [str(folder), *sys.path]):
        names = ("pack_training", "unpack_training", "packed_scans", "unlabelled_scans")
        pack, unpack, scans, unlabelled = map(importlib.import_module, names)
    return SimpleNamespace(pack=pack, unpack=unpack, scans=scans, unlabelled=unlabelled)


@pytest.fixture(autouse=True)
def _field(tools: SimpleNamespace) -> Iterator[None]:
    def in_process(n_jobs: int) -> object:
        return lambda jobs: [function(*arguments) for function, arguments, _ in jobs]

    with (
        phantom_field(),
        patch.object(tools.pack, "Parallel", in_process),
        patch.object(tools.unpack, "Parallel", in_process),
    ):
        yield


def run_on_phantoms(folder: Path, tools: SimpleNamespace, steps: int = 3, auxiliary: float = 0.5) -> TrainSettings:
    """The settings of a run on 3 phantoms and 2 auxiliary ones, fold 0, with its configuration file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy.toml").write_text(TOML.format(steps=steps, auxiliary=auxiliary))
    toy_settings(folder, subjects=3, auxiliary=2, fold=0)
    return tools.pack.settings_from(options_of(folder))


def options_of(folder: Path, *more: str) -> argparse.Namespace:
    """Options of `pack_training.py` for the run of a folder."""
    defaults = {"scans": None, "init_from": None, "checkpoint": None, "native_scan": None, "limit_mib": 60.0}
    defaults |= {"levels": 255, "no_checkpoint": False, "unlabelled_dir": [], "label_with": "whole"}
    given = dict(zip(more[::2], more[1::2], strict=True))
    fixed = {"config": folder / "toy.toml", "work_dir": folder / "work", "data": folder / "data", "fold": 0}
    options = argparse.Namespace(**{**defaults, **fixed, "auxiliary_dir": [folder / "aux"]})
    if "limit_mib" in given:
        options.limit_mib = float(given["limit_mib"])
    return options


def packed(folder: Path, tools: SimpleNamespace, out: Path, *more: str) -> None:
    options = options_of(folder, *more)
    tools.pack.pack_training(tools.pack.settings_from(options), options).write(out)


@pytest.mark.parametrize("values", [[0, 1, 2.5], [0, -0.5, 1], [0, 0], [0, 1.25], [3, 4]])
def test_levels_are_near_and_zero_stays_zero(tools: SimpleNamespace, values: list[float]) -> None:
    image = np.array(values, np.float16).reshape(-1, 1, 1)
    levels = tools.scans.levels_of(image)
    found = levels.image()
    np.testing.assert_allclose(found, image, atol=levels.step / 2 + 2e-3)
    np.testing.assert_array_equal(found == 0, image == 0)
    few = tools.scans.levels_of(image, 3)
    assert few.levels.max() <= 3
    np.testing.assert_allclose(few.image(), image, atol=few.step / 2 + 2e-3)


def test_residuals_are_inverted(tools: SimpleNamespace) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (7, 8, 9)).astype(np.uint8)
    left = tools.scans.residuals(levels)
    assert left.dtype == np.uint8
    np.testing.assert_array_equal(tools.scans.from_residuals(left), levels)


@pytest.mark.parametrize("kind", ["pack.tar", "pack"])
def test_unpacked_scans_are_the_same(tmp_path: Path, tools: SimpleNamespace, kind: str) -> None:
    settings = run_on_phantoms(tmp_path / "a", tools)
    packed(tmp_path / "a", tools, tmp_path / kind)

    other = tools.unpack.unpack(tmp_path / kind, tmp_path / "b")

    (_, before), (_, after) = started(settings), started(other)
    for one, two in zip([*before.training, *before.held_out], [*after.training, *after.held_out], strict=True):
        assert one.name == two.name
        assert torch.equal(one.channels, two.channels)
        assert torch.equal(one.frequency, two.frequency)
        assert torch.equal(one.image == 0, two.image == 0)
        assert (one.image - two.image).abs().max() < 0.01
    assert [len(scans.auxiliary) for scans in (before, after)] == [2, 2]
    assert "--stages groupwise --stages whole --stages export" in tools.unpack.command_of(tmp_path / "b", other)


def test_training_goes_on_with_nearly_the_same_loss(tmp_path: Path, tools: SimpleNamespace) -> None:
    settings = run_on_phantoms(tmp_path / "a", tools, steps=4)
    one = replace(settings, whole=replace(settings.whole, steps=2))
    train_whole(one)
    packed(tmp_path / "a", tools, tmp_path / "pack.tar")
    stored = torch.load(one.run / "whole.pt", weights_only=True)

    other = tools.unpack.unpack(tmp_path / "pack.tar", tmp_path / "b")

    copied = torch.load(other.run / "whole.pt", weights_only=True)
    assert copied["step"] == 2
    assert (other.run / "whole.pt").read_bytes() == (one.run / "whole.pt").read_bytes()
    assert all(torch.equal(stored["net"][key], copied["net"][key]) for key in stored["net"])
    assert train_whole(settings)
    assert train_whole(other)
    losses = [torch.load(run / "whole.pt", weights_only=True)["losses"] for run in (settings.run, other.run)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0][:2] == losses[1][:2]


def test_what_does_not_fit_is_left_out(
    tmp_path: Path, tools: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = run_on_phantoms(tmp_path / "a", tools)
    train_whole(replace(settings, whole=replace(settings.whole, steps=1)))
    packed(tmp_path / "a", tools, tmp_path / "large.tar")
    size = (tmp_path / "large.tar").stat().st_size
    limit = (size + 256 * 1024 - 12 * 1024 - 10 * 512) / 2**20  # less than a scan below what all needs

    packed(tmp_path / "a", tools, tmp_path / "small.tar", "limit_mib", str(limit))

    assert "1 of 2 auxiliary scans" in capsys.readouterr().out
    assert (tmp_path / "small.tar").stat().st_size <= limit * 2**20
    other = tools.unpack.unpack(tmp_path / "small.tar", tmp_path / "b")
    assert "has seen 3 scans, and goes on with 2" in capsys.readouterr().out
    assert train_whole(other)
    with pytest.raises(SettingsError, match="does not fit into 0 MiB"):
        packed(tmp_path / "a", tools, tmp_path / "none.tar", "limit_mib", "0.3")
    assert not (tmp_path / "none.tar").exists()


def test_without_auxiliary_scans_none_are_drawn(tmp_path: Path, tools: SimpleNamespace) -> None:
    run_on_phantoms(tmp_path / "a", tools)
    packed(tmp_path / "a", tools, tmp_path / "pack")
    description = json.loads((tmp_path / "pack" / "pack.json").read_text())
    (tmp_path / "pack" / "pack.json").write_text(json.dumps({**description, "auxiliary": []}))

    other = tools.unpack.unpack(tmp_path / "pack", tmp_path / "b")

    assert other.auxiliary_dir is None
    assert other.whole is not None
    assert other.whole.auxiliary_probability == 0
    assert train_whole(other)


def test_what_is_not_a_pack_is_an_error(tmp_path: Path, tools: SimpleNamespace) -> None:
    (tmp_path / "pack.tar").write_text("no tar")
    with pytest.raises(InputError, match="expected a pack"):
        tools.unpack.unpack(tmp_path / "pack.tar", tmp_path / "b")
    with pytest.raises(InputError, match="is not a pack"):
        tools.unpack.description_of(tmp_path)
    (tmp_path / "pack.json").write_text('{"format": 0}')
    with pytest.raises(InputError, match="has the format 0, expected 1"):
        tools.unpack.description_of(tmp_path)


def test_what_cannot_be_packed_is_an_error(tmp_path: Path, tools: SimpleNamespace) -> None:
    settings = run_on_phantoms(tmp_path / "a", tools)
    for changes in ({"prior": "folder"}, {"slices": SlicesSettings(2)}):
        with pytest.raises(SettingsError, match="packs are for models"):
            tools.pack.check_settings(replace(settings, **changes))
    with pytest.raises(SettingsError, match="expected an embedded model or a checkpoint"):
        tools.pack.add_initial_weights(tools.pack.Pack(1000), replace(settings, init_from=tmp_path), None)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    with pytest.raises(SettingsError, match="is not an empty folder"):
        tools.pack.Pack(1000).write(tmp_path / "out")
    with pytest.raises(InputError, match="run `slant train CONFIG --stages prepare` first"):
        tools.scans.pack_scan(tmp_path / "missing.npz", tmp_path / "missing.labels.npz")
    (tmp_path / "whole.pt").write_text("no checkpoint")
    with pytest.raises(InputError, match="is not a checkpoint"):
        tools.pack.add_checkpoint(tools.pack.Pack(10**6), tmp_path / "whole.pt")


def test_an_initial_checkpoint_travels_without_its_optimizer(tmp_path: Path, tools: SimpleNamespace) -> None:
    settings = run_on_phantoms(tmp_path / "a", tools)
    train_whole(settings)
    pack, source = tools.pack.Pack(10**7), settings.run / "whole.pt"
    tools.pack.add_initial_weights(pack, replace(settings, init_from=source), None)
    assert 0 < len(pack.files["initial.pt"]) < 0.5 * source.stat().st_size


def test_scans_without_labels_are_labelled_where_the_training_goes_on(
    tmp_path: Path, tools: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_on_phantoms(tmp_path / "a", tools, auxiliary=0.0)
    image, channels = phantom_arrays(60)
    scan, folder = tmp_path / "new" / "u0_T1w.nii.gz", tmp_path / "a" / "work" / "prepared"
    scan.parent.mkdir()
    scan.touch()
    np.savez(folder / "abc.npz", image=image.astype(np.float16), identity=np.array("x"))
    monkeypatch.setattr(tools.pack, "prepared_scan", lambda *_: SimpleNamespace(sha256="abc"))
    options = options_of(tmp_path / "a")
    options.auxiliary_dir, options.unlabelled_dir = [], [scan.parent]
    tools.pack.pack_training(tools.pack.settings_from(options), options).write(tmp_path / "pack.tar")

    other = tools.unpack.unpack(tmp_path / "pack.tar", tmp_path / "b")

    known = tools.unpack.description_of(tmp_path / "b")
    assert known["unlabelled"] == {"u0": "abc"}
    assert other.whole is not None
    assert other.whole.auxiliary_probability == 0.5
    fraction = np.where(channels > 0, 0.75, 1.0).astype(np.float32)
    vote = SimpleNamespace(winners=channels, fraction=fraction)
    model = SimpleNamespace(
        protocol=load_protocol(),
        identity="m",
        inputs=SimpleNamespace(groupwise=None),
        cascade=lambda *_: SimpleNamespace(vote=lambda *_: vote),
    )
    grid = axis_aligned_grid(image.shape, 1.0, (0, 0, 0))
    monkeypatch.setattr(tools.unlabelled, "load_template", lambda: SimpleNamespace(grid=grid))
    monkeypatch.setattr(tools.unlabelled, "load_model", lambda _: model)
    monkeypatch.setattr(tools.unlabelled, "Parallel", lambda **_: lambda jobs: [f(*a) for f, a, _ in jobs])
    assert tools.unlabelled.label_scans(other, known["unlabelled"], "whole", "cpu") == pytest.approx(0.75)
    _, scans = started(other)
    (new,) = scans.auxiliary
    assert torch.equal(new.channels, torch.from_numpy(channels))
    assert new.weights is not None
    base = load_reference("whole").dice.base[int(load_protocol().ids[LEFT])]
    assert new.weights[[0, LEFT]].tolist() == pytest.approx([1.0, base])
    assert 0.5 < base < 0.95
    assert (new.image - torch.from_numpy(image)).abs().max() < 0.02
    assert train_whole(other)
