"""Checkpoints: written atomically, and refused by another network, protocol or set of scans."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from phantoms import (
    NETWORK,
    OUTPUTS,
    STAGE,
    context_of,
    identity_of,
    network_of_kind,
    phantom,
    same_tensors,
    same_weights,
    trained,
)

from slant.errors import ModelError, TrainingError
from slant.train import loop
from slant.train.checkpoint import averaged_weights, load_checkpoint, new_state, save_checkpoint, save_round
from slant.train.stage_settings import StageSettings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint before the first step."""
    save_checkpoint(tmp_path / "whole.pt", new_state(NETWORK, STAGE, None), identity_of())
    return tmp_path / "whole.pt"


def test_a_checkpoint_restores_the_whole_state(tmp_path: Path) -> None:
    state = new_state(NETWORK, STAGE, None)
    state.step, state.losses, state.scores = 2, [0.5, 0.25], [(2, 0.75)]
    save_checkpoint(tmp_path / "a.pt", state, identity_of("p1", "p0"))
    back = new_state(NETWORK, replace(STAGE, seed=5), None)
    assert not same_weights(back.net, state.net)
    load_checkpoint(tmp_path / "a.pt", back, identity_of("p0", "p1"))
    assert same_weights(back.net, state.net)
    assert (back.step, back.losses, back.scores) == (2, [0.5, 0.25], [(2, 0.75)])
    assert same_tensors(averaged_weights(tmp_path / "a.pt", 2), state.average.state_dict())
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_a_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"checkpoint .*whole\.pt does not exist; run the stage that writes it first"):
        averaged_weights(tmp_path / "whole.pt")


@pytest.mark.parametrize(
    "content", [b"", b"no checkpoint", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x00" * 999, b"a=1\n", bytes(range(256))]
)
def test_files_that_are_not_checkpoints_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "whole.pt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a checkpoint of this version"):
        averaged_weights(path)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(path: Path, fraction: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(ModelError, match="not a checkpoint of this version"):
        load_checkpoint(path, new_state(NETWORK, STAGE, None), identity_of())


@pytest.mark.parametrize("stored", [[1, 2], {"net": {}}, torch.zeros(3)])
def test_other_torch_files_are_refused(tmp_path: Path, stored: object) -> None:
    torch.save(stored, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="not a checkpoint of this version"):
        averaged_weights(tmp_path / "a.pt")


def test_an_unfinished_stage_passes_no_weights_on(path: Path) -> None:
    with pytest.raises(ModelError, match="has seen 0 of 6 steps; run its stage again"):
        averaged_weights(path, 6)


def test_every_tensor_of_another_network_is_listed(path: Path) -> None:
    other = replace(NETWORK, settings=replace(NETWORK.settings, widths=(4, 6), head_channels=5, tasks={"brain": 2}))
    with pytest.raises(TrainingError, match="belong to another network or protocol") as caught:
        load_checkpoint(path, new_state(other, STAGE, None), identity_of())
    text = str(caught.value)
    assert str(path) in text
    assert "missing: heads.brain.bias, heads.brain.weight;" in text
    stored = torch.load(path, weights_only=True)["net"]
    extra = [name for name in stored if name.startswith(("encoders.2.", "lifts.1.", "decoders.1."))]
    assert len(extra) == 11
    assert all(name in text.split("unexpected: ")[1].split(";", maxsplit=1)[0] for name in extra)
    assert f"head.weight is ({OUTPUTS}, 6), expected ({OUTPUTS}, 5)" in text.split("of another shape: ")[1]
    assert "mix.weight is (6, 4, 3, 3, 3), expected (5, 4, 3, 3, 3)" in text


def test_initial_weights_must_fit(path: Path) -> None:
    other = replace(NETWORK, settings=replace(NETWORK.settings, outputs=5))
    with pytest.raises(TrainingError, match=rf"head\.bias is \({OUTPUTS},\), expected \(5,\)"):
        new_state(other, STAGE, averaged_weights(path))


def test_weights_that_do_not_fit_leave_the_network_unchanged(path: Path) -> None:
    state = new_state(network_of_kind("residual"), STAGE, None)
    before = {name: value.clone() for name, value in state.net.state_dict().items()}
    with pytest.raises(TrainingError, match=r"missing: .*unexpected: "):
        load_checkpoint(path, state, identity_of())
    assert same_tensors(before, state.net.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subjects": ("p0", "p7")}, r"another set of scans: found \['p0'\], expected \['p0', 'p7'\]"),
        ({"protocol": "aseg"}, "another protocol: found braincolor, expected aseg"),
        ({"network": {"kind": "residual", "settings": {}}}, "another network: found .*compact.* expected .*residual"),
    ],
)
def test_a_checkpoint_of_other_scans_or_another_protocol_is_refused(path: Path, change, message: str) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        load_checkpoint(path, new_state(NETWORK, STAGE, None), replace(identity_of(), **change))
    assert "use another --work-dir, or delete the checkpoint" in str(caught.value)


# A full disk


def fail_to_save(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `torch.save` write a partial file, then fail."""

    def save(_: object, target: Path) -> None:
        Path(target).write_bytes(b"a part")
        raise error

    monkeypatch.setattr(torch, "save", save)


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError("[enforce fail at inline_container.cc:626] . unexpected pos 128 vs 22"),
]


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_keeps_the_previous_checkpoint(path: Path, monkeypatch, error: Exception) -> None:
    before = path.read_bytes()
    fail_to_save(monkeypatch, error)
    state = new_state(NETWORK, STAGE, None)
    state.step = 4
    with pytest.raises(TrainingError, match=r"whole\.pt at step 4: .*the previous one is kept; check free space"):
        save_checkpoint(path, state, identity_of())
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["whole.pt"]


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_at_the_first_checkpoint_leaves_no_file(tmp_path: Path, monkeypatch, error: Exception) -> None:
    state = new_state(NETWORK, STAGE, None)
    fail_to_save(monkeypatch, error)
    with pytest.raises(TrainingError, match="there is no earlier one"):
        save_checkpoint(tmp_path / "whole.pt", state, identity_of())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_between_rounds_is_reported_too(path: Path, monkeypatch, error: Exception) -> None:
    fail_to_save(monkeypatch, error)
    with pytest.raises(TrainingError, match=r"cannot write the weights .*1_1_1\.round1\.pt"):
        save_round(path.with_name("1_1_1.round1.pt"), path, 0)
    assert [p.name for p in path.parent.iterdir()] == ["whole.pt"]


def test_an_interrupt_while_writing_leaves_no_partial_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    state = new_state(NETWORK, STAGE, None)
    fail_to_save(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, state, identity_of())
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["whole.pt"]


def test_a_round_is_saved_only_at_its_last_step(path: Path) -> None:
    kept = path.with_name("round1.pt")
    save_round(kept, path, 3)
    assert not kept.exists()
    save_round(kept, path, 0)
    assert same_tensors(averaged_weights(kept), averaged_weights(path))


# Non-finite values, and lack of memory


def test_a_non_finite_loss_stops_with_the_state_unchanged() -> None:
    state = new_state(NETWORK, STAGE, None)
    with torch.no_grad():
        state.net.head.bias[0] = torch.nan
    before = [p.clone() for p in state.net.encoders.parameters()]
    with pytest.raises(TrainingError, match=r"non-finite loss \(nan\) at step 0; resume .* lower learning_rate"):
        trained([phantom(0)], context_of(), state=state)
    assert state.step == 0
    assert all(torch.equal(a, b) for a, b in zip(before, state.net.encoders.parameters(), strict=True))


def test_a_non_finite_gradient_stops_before_the_weights_change(monkeypatch) -> None:
    state = new_state(NETWORK, STAGE, None)
    before = {name: value.clone() for name, value in state.net.state_dict().items()}

    def loss(net: torch.nn.Module, *_: object) -> torch.Tensor:
        return (net.head.weight * 0).sum().sqrt()  # 0, but of infinite slope

    monkeypatch.setattr(loop, "step_loss", loss)
    with pytest.raises(TrainingError, match=r"non-finite gradient \(nan\) at step 0"):
        trained([phantom(0)], context_of(), state=state)
    assert same_tensors(before, state.net.state_dict())


def fails_with(error: BaseException) -> Callable[..., torch.Tensor]:
    def fail(*_: object) -> torch.Tensor:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: not enough memory: you tried"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."),
        MemoryError(),
    ],
)
def test_out_of_memory_errors_name_the_settings_that_need_less(monkeypatch, error: BaseException) -> None:
    monkeypatch.setattr(loop, "step_loss", fails_with(error))
    with pytest.raises(TrainingError) as caught:
        trained([phantom(0)], context_of())
    text = str(caught.value)
    assert "\n" not in text
    for expected in (
        "out of memory (",
        "gradient_checkpointing = true",
        "offload_activations = true",
        "patches",
        "widths",
        "checkpoint is kept",
    ):
        assert expected in text


def test_other_torch_errors_are_not_reported_as_lack_of_memory(monkeypatch) -> None:
    monkeypatch.setattr(loop, "step_loss", fails_with(RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        trained([phantom(0)], context_of())


def test_initial_weights_go_to_the_network_and_its_average(path: Path) -> None:
    state = new_state(NETWORK, StageSettings(3, seed=8), averaged_weights(path))
    assert same_tensors(state.net.state_dict(), averaged_weights(path))
    assert same_tensors(state.average.state_dict(), averaged_weights(path))
    assert not same_weights(state.net, new_state(NETWORK, StageSettings(3, seed=8), None).net)
