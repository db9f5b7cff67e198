"""Training steps stay on the device: nothing is mixed with tensors of the CPU, and nothing waits for the device.

This is checked without a GPU, by tensors on the device ``meta``. They have no values, so that reading one, a boolean
index and an operation with a tensor of the CPU are errors. On a GPU these would fail, or make the CPU wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from phantom_runs import phantom_field
from phantoms import GENTLE, LEFT, NETWORK, OUTPUTS, RIGHT, SHAPE, STAGE, context_of, phantom, scans_of

from slant.grid import axis_aligned_grid
from slant.sparse_votes import KEPT, SparseVotes
from slant.train import draws, loop, on_device
from slant.train.atlas import Atlas, atlas_of
from slant.train.augment import AugmentSettings
from slant.train.checkpoint import new_state
from slant.train.context import StageContext
from slant.train.data import Groupwise, TrainingScans
from slant.train.groupwise import blocks, count_votes
from slant.train.loop import train_stage
from slant.train.on_device import context_on, fits, scan_on
from slant.train.stage_settings import GroupwiseSettings
from slant.train.step import step_loss
from slant.volume import Volume

CPU = torch.device("cpu")
META = torch.device("meta")
EVERYTHING = AugmentSettings(
    lesion_probability=1.0, mask_perturbation=1.0, slice_thickness_probability=1.0, flip_probability=0.5
)
COARSE = tuple(n // 2 for n in SHAPE)
STEPS = 5
"""Number of steps whose random numbers take every way: with and without flips, atrophy, ghosts, blur, affine prior."""


@pytest.fixture(autouse=True)
def field() -> Iterator[None]:
    with phantom_field():
        yield


def training_scans() -> TrainingScans:
    """Two phantoms with a groupwise template; the second with weighted voxels."""
    weights = torch.linspace(0.5, 1.0, OUTPUTS)
    scans = [phantom(0), replace(phantom(1), weights=weights)]
    labels = {s.name: torch.from_numpy(blocks(s.channels.numpy())) for s in scans}
    mean = Volume(torch.ones(COARSE).numpy(), axis_aligned_grid(COARSE, 2.0, (0.5, 0.5, 0.5)))
    shifts = {s.name: torch.full((3, *COARSE), 0.7) for s in scans}
    own = {name: (votes,) for name, votes in labels.items()}
    votes = count_votes(list(labels.values()), OUTPUTS)
    return scans_of(*scans, groupwise=Groupwise(mean, votes, shifts, own, GroupwiseSettings(affine_probability=0.3)))


def steps_without_values(monkeypatch: pytest.MonkeyPatch, scans: TrainingScans, context: StageContext) -> None:
    """Compute the losses of some steps and their gradients with tensors that have no values."""
    monkeypatch.setattr(draws, "noise", lambda _, shape, device: torch.zeros(shape, device=device))
    monkeypatch.setattr(on_device, "fits", lambda *_: True)
    net, there = NETWORK.build().to(META), context_on(context, META)
    atlas = atlas_of(there.scans, META)
    for seed in range(STEPS):
        scan = there.scans.training[seed % len(scans.training)]
        loss = step_loss(net, (scan,), atlas, there, torch.Generator().manual_seed(seed))
        assert loss.device == META
        assert loss.shape == ()
        loss.backward()
    assert all(parameter.grad is not None for parameter in net.encoders.parameters())


def test_steps_neither_leave_the_device_nor_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    scans = training_scans()
    steps_without_values(monkeypatch, scans, context_of(scans=scans, augment=EVERYTHING))


def add_tensor_of_the_cpu(values: torch.Tensor) -> torch.Tensor:
    return values + torch.ones(len(values), 1)


def read_a_value(values: torch.Tensor) -> torch.Tensor:
    return values * float(values.sum())


def select_by_value(values: torch.Tensor) -> torch.Tensor:
    return values[values > 0]


@pytest.mark.parametrize("wrong", [add_tensor_of_the_cpu, read_a_value, select_by_value])
def test_the_check_finds_what_would_fail_or_wait(
    monkeypatch: pytest.MonkeyPatch, wrong: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    scans, real = training_scans(), Atlas.logits
    monkeypatch.setattr(Atlas, "logits", lambda *arguments: wrong(real(*arguments)))
    with pytest.raises((RuntimeError, NotImplementedError)):
        steps_without_values(monkeypatch, scans, context_of(scans=scans, augment=EVERYTHING))


# What is moved


def test_a_scan_moves_with_everything_that_a_step_reads() -> None:
    votes = SparseVotes(
        *(torch.ones(*COARSE, KEPT, dtype=torch.uint8).numpy() for _ in range(2)),
        torch.ones(COARSE, dtype=torch.uint8).numpy() * KEPT,
        2,
    )
    every = torch.ones(OUTPUTS)
    scan = replace(phantom(0), weights=every, covered=every > 0, earlier=votes)
    moved = scan_on(scan, META)
    tensors = {name: value for name, value in vars(moved).items() if isinstance(value, torch.Tensor)}
    assert {"image", "channels", "frequency", "weights", "covered"} == set(tensors)
    assert moved.earlier_tensors is not None
    assert {t.device.type for t in (*tensors.values(), *moved.earlier_tensors)} == {"meta"}
    assert scan_on(moved, META) is moved
    plain = phantom(0)
    assert scan_on(plain, CPU) is plain


def test_scans_stay_in_memory_if_they_would_fill_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    scans = training_scans()
    size = sum(tensor.nbytes for tensor in on_device._tensors(scans))
    assert size > 1e5
    assert fits(scans, CPU)
    for free, expected in ((3 * size, True), (int(1.9 * size), False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 10 * free))
        assert fits(scans, torch.device("cuda:0")) == expected
    assert not fits(scans, torch.device("mps"))
    monkeypatch.setattr(on_device, "fits", lambda *_: False)
    context = context_of(scans=scans)
    assert context_on(context, CPU).scans is scans


# Losses are read in groups on other devices


def test_a_step_read_later_gives_the_same_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECK_EVERY", 4)
    stage = replace(STAGE, steps=7, validate_every=3)
    states, calls = [], []
    for device in ("cpu", "other"):
        context = context_of(stage, scans_of(phantom(0), phantom(1)))
        called: list[int] = []
        with monkeypatch.context() as patch:
            if device == "other":  # the CPU under another type, so that its losses are read as those of a GPU
                patch.setattr("slant.train.loop._due", due_as_on_cuda)
            state = new_state(NETWORK, stage, None)
            states.append(train_stage(state, context, lambda s, called=called: not called.append(s.step)))
        calls.append(called)
    assert calls == [list(range(1, stage.steps + 1)), [3, 4, 6, 7]]
    assert states[0].losses == states[1].losses
    for a, b in zip(states[0].average.parameters(), states[1].average.parameters(), strict=True):
        assert torch.equal(a, b)


REAL_DUE = loop._due


def due_as_on_cuda(step: int, _: torch.device, *rest: Any) -> bool:
    return REAL_DUE(step, SimpleNamespace(type="cuda"), *rest)


# Several scans per step


def test_several_scans_per_step_add_their_gradients() -> None:
    seen = []
    for count in (1, 3):
        stage = replace(STAGE, steps=1, scans_per_step=count)
        state = train_stage(
            new_state(NETWORK, stage, None), context_of(stage, scans_of(phantom(0), phantom(1))), lambda _: True
        )
        seen.append(state.losses[0])
    assert seen[0] != seen[1]
    assert 0.3 < seen[1] / seen[0] < 3  # a mean, not a sum


# Weights of voxels


def test_voxels_of_weight_zero_do_not_count() -> None:
    scan, context = phantom(0), context_of(replace(STAGE, class_balanced_fraction=1.0))
    atlas = atlas_of(scans_of(scan, phantom(1)), CPU)
    net = new_state(NETWORK, STAGE, None).net

    def loss(channels: torch.Tensor, weights: torch.Tensor | None) -> float:
        changed = replace(scan, channels=channels, weights=weights)
        return float(step_loss(net, (changed,), atlas, context, torch.Generator().manual_seed(1)).detach())

    exchanged = torch.where(scan.channels == RIGHT, LEFT, scan.channels).to(torch.uint8)
    without_both = torch.ones(OUTPUTS)
    without_both[[LEFT, RIGHT]] = 0.0
    assert loss(exchanged, without_both) == pytest.approx(loss(scan.channels, without_both), rel=1e-3)
    assert abs(loss(exchanged, None) - loss(scan.channels, None)) > 0.01
    assert loss(scan.channels, torch.full((OUTPUTS,), 0.5)) == pytest.approx(loss(scan.channels, None), rel=1e-5)


# The same on a real GPU; the tests run on the CPU too, so that they are known to work

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_has_the_same_loss_and_gradients_on_every_device(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(draws, "noise", lambda _, shape, device: torch.zeros(shape, device=device))
    scans = training_scans()
    context = context_of(scans=scans, augment=EVERYTHING)
    found = []
    for place in (CPU, torch.device(device)):
        net, there = new_state(NETWORK, STAGE, None).net.to(place), context_on(context, place)
        atlas = atlas_of(there.scans, place)
        for seed in range(6):
            scan, generator = there.scans.manual[seed % 2], torch.Generator().manual_seed(seed)
            step_loss(net, (scan,), atlas, there, generator).backward()
        found.append(torch.cat([p.grad.flatten().cpu() for p in net.parameters() if p.grad is not None]))
    difference = (found[0] - found[1]).norm() / found[0].norm()
    assert float(difference) < 1e-2, f"relative difference of the gradients: {float(difference):.2e}"


@pytest.mark.parametrize("device", DEVICES)
def test_training_learns_and_resumes_on_every_device(device: str) -> None:
    stage = replace(STAGE, steps=24, ema_decay=0.8)
    context = replace(context_of(stage, training_scans(), augment=GENTLE, precision="auto"), device=device)
    state = new_state(NETWORK, stage, None, device)
    train_stage(state, context, lambda _: True, until=12)
    assert (state.step, len(state.losses)) == (12, 12)
    train_stage(state, context, lambda _: True)
    assert len(state.losses) == 24
    assert sum(state.losses[-6:]) < 0.8 * sum(state.losses[:6])


@pytest.mark.parametrize("device", DEVICES)
def test_scans_that_do_not_fit_are_copied_in_each_step(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    losses = []
    for fit in (True, False):
        monkeypatch.setattr(on_device, "fits", lambda *_, fit=fit: fit)
        context = replace(context_of(STAGE, training_scans(), augment=GENTLE), device=device)
        losses.append(train_stage(new_state(NETWORK, STAGE, None, device), context, lambda _: True).losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
