"""`slant models import-original`: a model from checkpoints in the folder layout of the original."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy import content, run_slant, the_line

from slant.errors import ModelError
from slant.io.models import load_model
from slant.io.resources import load_protocol
from slant.nets import import_original
from slant.nets.import_original import LAYOUTS, read_checkpoint
from slant.nets.predict import label_tile
from slant.nets.registry import build_network
from slant.nets.slant2018 import Slant2018Settings
from slant.nets.weights import MANIFEST

SMALL = Slant2018Settings(widths=(2, 2, 2, 2, 2))
CORNERS = [f"{x}_{y}_{z}" for x in "13" for y in "13" for z in "13"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """An original network with only two channels before the last layers."""
    monkeypatch.setattr(import_original, "SETTINGS", SMALL)


def weights(seed: int = 0, settings: Slant2018Settings = SMALL) -> OrderedDict[str, Tensor]:
    """A state dict as in the original, with batch norm statistics."""
    torch.manual_seed(seed)
    stored: OrderedDict[str, Tensor] = OrderedDict()
    for name, value in build_network("slant2018", settings).state_dict().items():
        stored[name] = value
        if name.endswith(".1.bias"):
            stored[name.replace("bias", "running_mean")] = torch.full_like(value, 1e6)  # too large for half precision
            stored[name.replace("bias", "running_var")] = torch.ones_like(value)
    return stored


class OldPickler(pickle._Pickler):  # type: ignore[name-defined]
    """Pickles strings and tensors as PyTorch 0.2 did in Python 2."""

    dispatch = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]  # noqa: RUF012

    def save_str(self, text: str) -> None:
        """Save a string as a byte string of Python 2."""
        data = text.encode("ascii")
        self.write(pickle.SHORT_BINSTRING + struct.pack("<B", len(data)) + data)
        self.memoize(text)

    dispatch[str] = save_str

    def reducer_override(self, value: Any) -> Any:
        """Reduce state dicts and tensors."""
        if isinstance(value, OrderedDict):
            return OrderedDict, ([[key, entry] for key, entry in value.items()],)
        if isinstance(value, Tensor):
            shape, stride = tuple(value.shape), tuple(value.stride())
            return torch._utils._rebuild_tensor, (value.storage(), value.storage_offset(), shape, stride)
        return NotImplemented

    def persistent_id(self, value: Any) -> Any:
        """Refer to storages, which follow the pickle."""
        if isinstance(value, torch.storage.TypedStorage):
            return "storage", torch.FloatStorage, str(value.data_ptr()), "cuda:0", len(value), None
        return None


def save_old(path: Path, stored: OrderedDict[str, Tensor]) -> None:
    """Write the file that `torch.save` of PyTorch 0.2 writes for tensors on a GPU."""
    with path.open("wb") as stream:
        for value in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}, stored):
            OldPickler(stream, protocol=2).dump(value)
        storages = {str(value.storage().data_ptr()): value for value in stored.values()}
        OldPickler(stream, protocol=2).dump(sorted(storages))
        for key in sorted(storages):
            data = storages[key].numpy()
            stream.write(struct.pack("<q", data.size) + data.tobytes())


def write_checkpoints(folder: Path, tiles: list[str], *, weights_folder: str = "finetune_out", epoch: int = 27) -> Path:
    """Write checkpoints of these tiles where the original expects them."""
    for i, tile in enumerate(tiles):
        path = folder / tile / weights_folder / "models" / f"model_epoch_{epoch:04d}.pth"
        path.parent.mkdir(parents=True)
        torch.save(weights(i), path)
    return folder


def import_corners(tmp_path: Path, *options: object) -> int:
    return run_slant("models", "import-original", tmp_path / "original", tmp_path / "imported", "--tiles", 8, *options)


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_checkpoint_of_pytorch_0_2_and_python_2_is_read(small: None, tmp_path: Path) -> None:
    save_old(tmp_path / "old.pth", weights())
    found = read_checkpoint(tmp_path / "old.pth")
    expected = {name: value for name, value in weights().items() if "running" not in name}
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_eight_corner_tiles_become_a_model(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoints(tmp_path / "original", CORNERS)
    assert import_corners(tmp_path, "--name", "mine") == 0
    assert capsys.readouterr().out.startswith("wrote 8 tiles to ")
    model = load_model(str(tmp_path / "imported"))
    assert (model.name, model.assemblies[0].layout, model.assemblies[0].kind) == ("mine", LAYOUTS[8], "slant2018")
    assert model.protocol is load_protocol("braincolor")
    assert model.networks.prior is None
    scaling = model.inputs.scaling
    assert (scaling.mask_brain, scaling.tile_rescale, scaling.axes, scaling.min_value) == (False, (0, 255), "zxy", None)
    for i, tile in enumerate(model.assemblies[0].layout):  # tile 2_2_2 is 3_3_3 in the original, in the same order
        stored, expected = model.networks.network(tile.name).state_dict(), weights(i)
        assert all(torch.equal(value, expected[name]) for name, value in stored.items()), tile.name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["imported", "original"]


def test_half_precision_takes_half_the_space(small: None, tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "original", CORNERS, weights_folder="test_out", epoch=5)
    assert import_corners(tmp_path, "--epoch", 5, "--precision", "float16") == 0
    tile = tmp_path / "imported" / "1_1_1.safetensors"
    parameters = sum(value.numel() for name, value in weights().items() if "running" not in name)
    assert tile.stat().st_size == pytest.approx(2 * parameters, rel=0.01)
    stored = load_model(str(tmp_path / "imported")).networks.network("1_1_1").state_dict()
    torch.testing.assert_close(stored["dc1.0.weight"], weights()["dc1.0.weight"], rtol=1e-3, atol=1e-6)


def test_fine_tuned_weights_are_preferred(small: None, tmp_path: Path) -> None:
    folder = write_checkpoints(write_checkpoints(tmp_path, CORNERS, weights_folder="test_out"), ["1_1_1"])
    paths = import_original.find_checkpoints(folder, 8, 27)
    assert [path.parts[-3] for path in paths.values()] == ["finetune_out"] + 7 * ["test_out"]


def test_missing_tiles_are_all_named(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoints(tmp_path / "original", CORNERS[:-2])
    assert import_corners(tmp_path) == 2
    assert "for 2 of 8 tiles: 3_3_1, 3_3_3; give" in the_line(capsys)
    assert run_slant("models", "import-original", tmp_path / "original", tmp_path / "imported") == 2
    assert "for 21 of 27 tiles: 1_1_2, 1_2_1" in the_line(capsys)
    assert not (tmp_path / "imported").exists()


def test_all_missing_and_unexpected_tensors_are_named_and_no_files_are_left(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoints(tmp_path / "original", CORNERS)
    last, stored = tmp_path / "original/3_3_3/finetune_out/models/model_epoch_0027.pth", weights()
    stored["ec8.0.bias"], stored["dc1.0.offset"] = stored.pop("ec3.0.bias"), stored.pop("dc1.0.bias")
    torch.save(stored, last)
    assert import_corners(tmp_path) == 2
    line = the_line(capsys)
    assert "missing tensors: ['dc1.0.bias', 'ec3.0.bias']; unexpected: ['dc1.0.offset', 'ec8.0.bias']" in line
    assert str(last) in line
    assert [path.name for path in tmp_path.iterdir()] == ["original"]


class Code:
    """An object that would run code if it were unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("never",)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text("no checkpoint"), "cannot be read as a file of tensors"),
        (lambda path: path.write_bytes(b""), "cannot be read as a file of tensors"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5000]), "cannot be read as a file of tensors"),
        (lambda path: torch.save({"weights": Code()}, path), "cannot be read as a file of tensors"),
        (lambda path: torch.save([1], path), "is not a state dict, found list"),
        (lambda path: torch.save({"epoch": 27, "state": weights()}, path), "is not a state dict, found dict"),
        (lambda path: torch.save(weights(0, Slant2018Settings(7, SMALL.widths)), path), "another shape.*dc1.0.weight"),
        (
            lambda path: torch.save({**weights(), "dc1.0.bias": torch.full((133,), torch.nan)}, path),
            "is damaged: dc1.0.bias contain NaN",
        ),
    ],
)
def test_files_that_are_not_checkpoints_are_refused(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model_epoch_0027.pth"
    torch.save(weights(), path)
    damage(path)
    with pytest.raises(ModelError, match=message):
        read_checkpoint(path)
    assert not (tmp_path / "never").exists()


def test_a_folder_that_is_not_empty_is_not_changed(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoints(tmp_path / "original", CORNERS)
    (tmp_path / "imported").mkdir()
    (tmp_path / "imported" / "mine.txt").write_text("kept", "utf-8")
    before = content(tmp_path)
    assert import_corners(tmp_path) == 2
    assert "already exists and is not an empty folder" in the_line(capsys)
    assert content(tmp_path) == before


def test_channels_are_those_of_the_original() -> None:
    spans = [(100, 109), (112, 125), (128, 129), (132, 157), (160, 187), (190, 207)]
    first = "0 4 11 23 30 31 32 35 36 37 38 39 40 41 44 45 47 48 49 50 51 52 55 56 57 58 59 60 61 62 71 72 73 75 76"
    ids = [*map(int, first.split()), *(i for a, b in spans for i in range(a, b + 1))]
    assert load_protocol("braincolor").ids.tolist() == ids


@pytest.mark.slow
def test_one_tile_of_full_size_is_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Slant2018Settings()
    path = write_checkpoints(tmp_path / "original", CORNERS) / "1_1_1/finetune_out/models/model_epoch_0027.pth"
    torch.save(weights(0, settings), path)
    monkeypatch.setattr(import_original, "find_checkpoints", lambda *_: {tile.name: path for tile in LAYOUTS[8]})
    assert import_corners(tmp_path) == 0
    model = load_model(str(tmp_path / "imported"))
    assert (
        json.loads((tmp_path / "imported" / MANIFEST).read_text("utf-8"))["network"]["settings"] == settings.as_dict()
    )
    image = np.random.default_rng(0).random(LAYOUTS[8].shape, dtype=np.float32)
    predictor = model.cascade(image).predictors[0]
    votes = label_tile(predictor, predictor.layout.tiles[0], image, torch.device("cpu"))
    assert votes.shape == (96, 128, 88)
    assert len(np.unique(votes)) > 1
