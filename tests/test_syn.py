"""Symmetric registration finds a known deformation in both directions and is deterministic."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import syn_oracle
import torch
from scipy import ndimage

from slant.config import SynSettings
from slant.displacement import CompositeTransform, DisplacementField, sample_linear
from slant.errors import GeometryError, SettingsError
from slant.grid import axis_aligned_grid
from slant.resample import coarsened, resample
from slant.syn import (
    BETWEEN_SUBJECTS,
    WITHIN_SUBJECT,
    Regularization,
    local_correlation,
    parameters,
    register_syn,
)
from slant.volume import Volume

SHAPE = (38, 44, 32)
GRID = axis_aligned_grid(SHAPE, 4.0, (-70, -90, -50))
IDENTITY = np.eye(4)


def phantom() -> np.ndarray:
    """A textured ellipsoid, zero outside."""
    x, y, z = np.indices(SHAPE, dtype=np.float32)
    inside = ((x - 18) / 14) ** 2 + ((y - 22) / 17) ** 2 + ((z - 16) / 11) ** 2 < 1
    texture = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=SHAPE), 1.5)
    return np.where(inside, 1 + 3 * texture, 0).astype(np.float32)


def pair() -> tuple[Volume, Volume]:
    """The phantom, and the phantom deformed by up to 8 mm along x and 4 mm along y."""
    image, coordinates = phantom(), np.indices(SHAPE, dtype=np.float32)
    bump = np.exp(-((coordinates - np.float32([18, 22, 16])[:, None, None, None]) ** 2).sum(axis=0) / 120)
    coordinates[0] += 2 * bump
    coordinates[1] -= bump
    return Volume(image, GRID), Volume(sample_linear(image, coordinates), GRID)


@pytest.fixture(scope="module")
def warps() -> tuple[DisplacementField, DisplacementField]:
    return register_syn(*pair(), SynSettings(resolution_mm=4.0))


def test_a_known_deformation_is_found(warps: tuple[DisplacementField, DisplacementField]) -> None:
    (fixed, moving), (forward, inverse) = pair(), warps
    inside = ndimage.binary_erosion(fixed.data > 0, iterations=3)
    for warp, target, source in ((forward, fixed, moving), (inverse, moving, fixed)):
        warped = sample_linear(source.data, CompositeTransform(IDENTITY, warp, IDENTITY).voxels(GRID, GRID))
        before = local_correlation(target.data, source.data, 2)[inside].mean()
        after = local_correlation(target.data, warped, 2)[inside].mean()
        assert before < 0.7
        assert after > 0.95
    # at the centre of the bump, a fixed point corresponds to the moving point at x - 8 mm, y + 4 mm
    assert forward.displacement_mm[:, 18, 22, 16] == pytest.approx([-8, 4, 0], abs=1.5)
    assert inverse.displacement_mm[:, 17, 22, 16] == pytest.approx([8, -4, 0], abs=2)


def assert_agree(
    found: tuple[DisplacementField, DisplacementField],
    expected: tuple[DisplacementField, DisplacementField],
    mean_mm: float,
) -> None:
    """Check that displacements and warped images agree in the brains."""
    fixed, moving = pair()
    for ours, theirs, target, source in zip(found, expected, (fixed, moving), (moving, fixed), strict=True):
        inside = target.data > 0
        difference_mm = np.linalg.norm(ours.displacement_mm - theirs.displacement_mm, axis=0)[inside]
        assert difference_mm.mean() < mean_mm
        warped = (
            sample_linear(source.data, CompositeTransform(IDENTITY, w, IDENTITY).voxels(GRID, GRID))
            for w in (ours, theirs)
        )
        similarities = [local_correlation(target.data, image, 2)[inside].mean() for image in warped]
        assert similarities[0] == pytest.approx(similarities[1], abs=0.002)


def test_warps_agree_with_the_oracle(warps: tuple[DisplacementField, DisplacementField]) -> None:
    assert_agree(warps, syn_oracle.register_syn(*pair(), SynSettings(resolution_mm=4.0)), 0.01)


def test_local_correlation_agrees_with_the_oracle() -> None:
    fixed, moving = (image.data for image in pair())
    for radius in (1, 2, 20):  # the last is larger than the image
        found = local_correlation(fixed, moving, radius)
        assert found == pytest.approx(syn_oracle.local_correlation(fixed, moving, radius), abs=1e-3)


@pytest.fixture
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_same_bytes_with_any_number_of_threads(
    threads: int,
    warps: tuple[DisplacementField, DisplacementField],
    torch_threads: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.set_num_threads(threads)
    monkeypatch.setattr("slant.syn._MIN_PARALLEL_VOXELS", 1)
    found = register_syn(*pair(), SynSettings(resolution_mm=4.0))
    assert [w.displacement_mm.tobytes() for w in found] == [w.displacement_mm.tobytes() for w in warps]
    assert torch.get_num_threads() == threads


def test_same_bytes_in_parallel_registrations(
    warps: tuple[DisplacementField, DisplacementField], torch_threads: None
) -> None:
    torch.set_num_threads(2)
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: register_syn(*pair(), SynSettings(resolution_mm=4.0)), range(3)))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 2
    for forward, inverse in runs:
        assert forward.displacement_mm.tobytes() == warps[0].displacement_mm.tobytes()
        assert inverse.displacement_mm.tobytes() == warps[1].displacement_mm.tobytes()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees(warps: tuple[DisplacementField, DisplacementField]) -> None:
    settings = SynSettings(resolution_mm=4.0)
    found = register_syn(*pair(), settings, "cuda")
    assert_agree(found, warps, 0.1)
    inverse, forward = register_syn(*pair()[::-1], settings, "cuda")
    assert np.array_equal(forward.displacement_mm, found[0].displacement_mm)
    assert np.array_equal(inverse.displacement_mm, found[1].displacement_mm)


def test_exchanged_images_exchange_the_warps_bit_by_bit(
    warps: tuple[DisplacementField, DisplacementField],
) -> None:
    fixed, moving = pair()
    forward, inverse = register_syn(moving, fixed, SynSettings(resolution_mm=4.0))
    assert np.array_equal(forward.displacement_mm, warps[1].displacement_mm)
    assert np.array_equal(inverse.displacement_mm, warps[0].displacement_mm)


def test_an_image_registered_to_itself_is_hardly_deformed() -> None:
    image = pair()[0]
    forward, _ = register_syn(image, image, SynSettings(resolution_mm=4.0))
    assert np.abs(forward.displacement_mm).max() < 1


@pytest.mark.parametrize(
    ("resolution_mm", "levels"),
    [(8.0, ((1, 15),)), (4.0, ((2, 40), (1, 15))), (2.0, ((4, 40), (2, 30), (1, 15))), (3.0, ((2, 40), (1, 15)))],
)
def test_levels_start_near_8_mm(resolution_mm: float, levels: tuple[tuple[int, int], ...]) -> None:
    assert SynSettings(resolution_mm=resolution_mm).levels == levels


def test_invalid_input_is_refused() -> None:
    image = pair()[0]
    other = Volume(image.data, axis_aligned_grid(SHAPE, 4.0, (0, 0, 0)))
    with pytest.raises(GeometryError, match="not on the same grid"):
        register_syn(image, other, SynSettings(resolution_mm=4.0))
    with pytest.raises(SettingsError, match=r"0\.1"):
        SynSettings(resolution_mm=0.1)
    with pytest.raises(SettingsError, match="iterations must not be negative"):
        SynSettings(iterations=(40, -1, 15))


def test_local_correlation_does_not_depend_on_contrast_and_bias_field() -> None:
    image = phantom()
    biased = image * np.linspace(1, 1.2, SHAPE[0], dtype=np.float32)[:, None, None] * 3
    inside = ndimage.binary_erosion(image > 0, iterations=3)
    assert local_correlation(image, biased, 2)[inside].mean() > 0.99
    assert local_correlation(image, np.zeros_like(image), 2).max() == 0


def test_a_coarsened_image_is_smooth_and_covers_the_same_box() -> None:
    image = pair()[0]
    assert coarsened(image, 4.0) is image
    found = coarsened(image, 8.0)
    assert found.grid.same_as(GRID.with_voxels_mm(8.0))
    assert found.data.mean() == pytest.approx(image.data.mean(), rel=0.05)
    assert found.data.std() < resample(image, found.grid).data.std()


# Regularization


def noisy(seed: int) -> Volume:
    image = phantom()
    noise = np.random.default_rng(seed).normal(0, 0.05, SHAPE).astype(np.float32)
    return Volume(np.where(image > 0, image + noise, 0), GRID)


def longest_mm(warp: DisplacementField) -> float:
    return float(np.linalg.norm(warp.displacement_mm, axis=0).max())


def test_the_default_is_the_regularization_between_subjects(
    warps: tuple[DisplacementField, DisplacementField],
) -> None:
    found = register_syn(*pair(), SynSettings(resolution_mm=4.0), regularization=Regularization())
    assert [w.displacement_mm.tobytes() for w in found] == [w.displacement_mm.tobytes() for w in warps]
    used = parameters(SynSettings(resolution_mm=4.0))
    assert (used["update_sigma"], used["total_sigma"]) == (2.0, 0.4)
    assert Regularization() == BETWEEN_SUBJECTS != WITHIN_SUBJECT


def test_within_a_subject_noise_deforms_less() -> None:
    images, settings = (noisy(0), noisy(1)), SynSettings(4.0, (0, 20, 10))
    between, within = (
        register_syn(*images, settings, regularization=chosen)[0] for chosen in (BETWEEN_SUBJECTS, WITHIN_SUBJECT)
    )
    assert longest_mm(within) < longest_mm(between) / 3


def test_within_a_subject_a_copy_is_not_deformed() -> None:
    warps = register_syn(pair()[0], pair()[0], SynSettings(4.0), regularization=WITHIN_SUBJECT)
    assert max(map(longest_mm, warps)) < 1e-3


def test_within_a_subject_exchanged_images_exchange_the_warps_bit_by_bit() -> None:
    fixed, moving = pair()
    one = register_syn(fixed, moving, SynSettings(4.0), regularization=WITHIN_SUBJECT)
    other = register_syn(moving, fixed, SynSettings(4.0), regularization=WITHIN_SUBJECT)
    assert np.array_equal(one[0].displacement_mm, other[1].displacement_mm)
    assert np.array_equal(one[1].displacement_mm, other[0].displacement_mm)
    # a real deformation is still found, if only in part
    assert -9 < one[0].displacement_mm[0, 18, 22, 16] < -2


def test_a_larger_gradient_for_the_full_step_deforms_less() -> None:
    found = [
        longest_mm(register_syn(*pair(), SynSettings(4.0), regularization=Regularization(full_step_gradient=least))[0])
        for least in (1e-12, 10.0, 1e3)
    ]
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.2
