"""`slant train`: a killed run resumes to the same bytes; wrong settings are refused before any work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from phantoms import SHAPE, toy_settings
from toy import run_slant, the_line

from slant.nets.weights import read_model
from slant.train import context, run
from slant.train.settings import TrainSettings

CONFIG = """\
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
[whole]
steps = 3
learning_rate = 1e-2
patches = 4
ema_decay = 0.5
[tile]
steps = 2
learning_rate = 1e-2
patches = 4
ema_decay = 0.5
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "toy.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainSettings:
    """Prepared phantoms; the whole-brain stages see only their small grid."""
    small_field(monkeypatch)
    return toy_settings(tmp_path, subjects=2)


def small_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "WHOLE_START", (0, 0, 0))
    monkeypatch.setattr(context, "WHOLE_SHAPE", SHAPE)


def options(toy: TrainSettings) -> list[object]:
    return ["--data", toy.data, "--work-dir", toy.work_dir]


def train(config: Path, *arguments: object) -> int:
    return run_slant("train", config, *arguments)


def test_training_and_export_from_the_command_line(toy: TrainSettings, config: Path, capfd) -> None:
    assert train(config, *options(toy), "--stages", "whole", "--stages", "tiles") == 0
    assert (toy.run / "curves.png").is_file()
    assert not list(toy.run.glob("model-*"))
    assert train(config, *options(toy), "--stages", "export") == 0
    output = capfd.readouterr()
    assert output.out == f"model  {toy.run / 'model-whole'}\nmodel  {toy.run / 'model-toy'}\n"
    assert "whole" in output.err
    assert "3/3" in output.err
    assert read_model(toy.run / "model-toy").manifest["training"]["subjects"] == ["p0", "p1"]


def test_a_network_from_slices_from_the_command_line(toy: TrainSettings, config: Path, capfd) -> None:
    """The stage `slices` runs before the others, although it is given last."""
    slices = "[slices]\nsteps = 2\npatches = 4\n[layout]"
    config.write_text(CONFIG.replace("[network]", '[network]\nkind = "anisotropic"').replace("[layout]", slices))
    assert train(config, *options(toy), "--stages", "whole", "--stages", "slices") == 0
    assert sorted(p.name for p in toy.run.glob("*.pt")) == ["slices-axial.pt", "whole.pt"]
    assert (toy.run / "slices-axial.tsv").is_file()
    assert (toy.run / "curves.png").is_file()
    assert "2/2" in capfd.readouterr().err


def test_one_tile_at_a_time(toy: TrainSettings, config: Path) -> None:
    assert train(config, *options(toy), "--stages", "whole", "--stages", "tiles", "--tiles", "2_1_1") == 0
    assert sorted(p.name for p in toy.run.rglob("*.pt")) == ["2_1_1.pt", "whole.pt"]


def test_a_run_stops_at_the_time_limit_and_resumes(toy: TrainSettings, config: Path, capsys) -> None:
    assert train(config, *options(toy), "--stages", "whole", "--time-limit", "0") == 0
    assert "time limit reached; rerun to resume" in capsys.readouterr().out
    assert torch.load(toy.run / "whole.pt", weights_only=True)["step"] == 1
    assert train(config, *options(toy), "--stages", "whole") == 0
    assert torch.load(toy.run / "whole.pt", weights_only=True)["step"] == 3


def test_export_without_checkpoints_is_refused(toy: TrainSettings, config: Path, capsys) -> None:
    assert train(config, *options(toy), "--stages", "export") == 2
    assert (
        "contains neither whole.pt nor the checkpoints of all tiles of 'toy'; run the stage whole or tiles first"
        in the_line(capsys)
    )


# Refused before any work


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the work was started")

    for name in ("prepare_scans", "load_training", "train_whole", "train_tiles", "export"):
        monkeypatch.setattr(run, name, never)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "cuda:99"], "device 'cuda:99' was asked for, but"),
        (["--devices", "cpu", "--devices", "cuda:99"], "device 'cuda:99' was asked for, but"),
        (["--devices", "tpu"], "unknown device 'tpu'"),
        (["--tiles", "9_9_9"], "no tile 9_9_9 to train; the tiles are 1_1_1, 2_1_1"),
        (["--fold", "2"], "fold must be 0 to 1, found 2"),
        (["--stages", "wholes"], "wholes"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    no_work, toy: TrainSettings, config: Path, capsys, arguments: list[str], message: str
) -> None:
    assert train(config, *options(toy), *arguments) == 2
    assert message in the_line(capsys)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 3", "step = 3", "unknown key 'whole.step' (did you mean 'whole.steps'?)"),
        ("head_channels = 4", 'kind = "residul"', "unknown kind of network 'residul' (did you mean 'residual'?)"),
        ("head_channels = 4", 'tasks = ["lobes"]', "unknown task 'lobes' (did you mean 'lobe'?)"),
        ("[layout]", "[layuot]", "unknown key 'layuot' (did you mean 'layout'?)"),
        ("[tile]", "[pretrain]\nsteps = 1\n[tile]", "[pretrain] uses auxiliary scans"),
        ("[tile]", "[slices]\nsteps = 1\n[tile]", "but the kind 'compact' has none; remove [slices]"),
        ("[tile]", "[slices]\nsteps = 1\nfolds = 1\n[tile]", "[slices] folds must be 0 or at least 2, found 1"),
        ("head_channels = 4", 'kind = "fusion"', "the network 'fusion' needs trained 2D networks; add [slices]"),
        ('precision = "float32"', 'protocol = "brainclor"', "brainclor"),
        ("folds = 2", "folds = ", "is not a TOML file"),
    ],
)
def test_mistakes_in_the_file_are_reported(
    no_work, toy: TrainSettings, config: Path, capsys, old: str, new: str, message: str
) -> None:
    config.write_text(CONFIG.replace(old, new))
    assert train(config, *options(toy)) == 2
    assert message in the_line(capsys)


def test_a_missing_data_folder_is_an_error(no_work, config: Path, tmp_path: Path, capsys) -> None:
    nowhere = tmp_path / "nowhere"
    assert train(config, "--data", nowhere, "--work-dir", tmp_path / "work") == 2
    assert f"{nowhere} is not a folder; give the folder of labelled scans with --data FOLDER" in the_line(capsys)
    assert not (tmp_path / "work").exists()


def test_a_missing_settings_file_is_an_error(tmp_path: Path, capsys) -> None:
    assert train(tmp_path / "none.toml") == 2
    assert "none.toml" in the_line(capsys)


# Killed runs


DRIVER = """\
import os, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from phantoms import SHAPE
from slant.cli import main
from slant.train import context, log
torch.set_num_threads(1)
log.SAVE_SECONDS = -1.0
context.WHOLE_START, context.WHOLE_SHAPE = (0, 0, 0), SHAPE
if sys.argv[2] != "never":
    real, left = torch.save, int(sys.argv[2])
    def save(stored, target):
        global left
        left -= 1
        if left < 0:
            Path(target).write_bytes(b"half a checkpoint")
            os.kill(os.getpid(), signal.SIGKILL)
        real(stored, target)
    torch.save = save
main(sys.argv[3:])
"""


def drive(toy: TrainSettings, config: Path, kill: str = "never") -> subprocess.Popen[str]:
    """Run the program in a separate process that writes a checkpoint after every step."""
    arguments = ["train", config, *options(toy), "--stages", "whole", "--stages", "tiles"]
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, Path(__file__).parents[1], kill, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str]) -> int:
    out, err = process.communicate(timeout=600)
    assert process.returncode in (0, -9), out + err
    return process.returncode


def stored(toy: TrainSettings) -> dict[str, dict[str, torch.Tensor]]:
    found = {}
    for path in sorted(toy.run.rglob("*.pt")):
        state = torch.load(path, weights_only=True)
        found[path.stem] = {**state["net"], "losses": torch.tensor(state["losses"])}
    return found


@pytest.mark.slow  # several new processes
def test_a_run_killed_while_writing_a_checkpoint_resumes_to_the_same_bytes(tmp_path: Path, config: Path) -> None:
    plain, killed = (toy_settings(tmp_path / name, subjects=2) for name in ("plain", "killed"))
    assert finish(drive(plain, config)) == 0
    assert finish(drive(killed, config, kill="2")) == -9
    assert torch.load(killed.run / "whole.pt", weights_only=True)["step"] == 2
    assert finish(drive(killed, config, kill="3")) == -9
    assert finish(drive(killed, config)) == 0
    check_same_run(plain, killed)
    assert not list(killed.run.rglob("*.part"))


@pytest.mark.slow  # several new processes
def test_a_run_killed_at_a_random_moment_resumes_to_the_same_bytes(tmp_path: Path, config: Path) -> None:
    config.write_text(CONFIG.replace("steps = 3", "steps = 12").replace("steps = 2", "steps = 6"))
    plain, killed = (toy_settings(tmp_path / name, subjects=2) for name in ("plain", "killed"))
    assert finish(drive(plain, config)) == 0
    process = drive(killed, config)
    while process.poll() is None and not (killed.run / "whole.tsv").exists():
        time.sleep(0.01)
    time.sleep(int.from_bytes(os.urandom(1)) / 256)
    process.kill()
    finish(process)
    assert finish(drive(killed, config)) == 0
    check_same_run(plain, killed)


def check_same_run(a: TrainSettings, b: TrainSettings) -> None:
    one, two = stored(a), stored(b)
    assert one.keys() == two.keys() == {"whole", "1_1_1", "2_1_1"}
    for name, tensors in one.items():
        assert all(torch.equal(tensors[key], two[name][key]) for key in tensors), name
    tables = [{p.name: without_hours(p) for p in s.run.rglob("*.tsv")} for s in (a, b)]
    assert tables[0] == tables[1]


def without_hours(table: Path) -> list[list[str]]:
    """The cells of a table of steps except the hours, which are never the same."""
    rows = [line.split("\t") for line in table.read_text("utf-8").splitlines()]
    index = rows[0].index("hours")
    return [row[:index] + row[index + 1 :] for row in rows]
