"""Visits are registered to their mean, and coordinates go through the fields of several visits."""

from __future__ import annotations

from functools import cache

import numpy as np
from small_visits import GRID, brightness, centers, in_brain

from slant.nets.groupwise import Deformation
from slant.volume import Volume
from slant.within_subject.deformation import VisitField, deform_visits, displaced, through_template
from slant.within_subject.differential_bias import mean_image

CELLS = (30, 36, 28)
POINTS = centers(GRID)
INSIDE = in_brain(POINTS)


def cells() -> np.ndarray:
    """(3, X/2, Y/2, Z/2) template voxels at the centers of the cells."""
    return np.indices(CELLS) * 2 + 0.5


def constant(shift: tuple[float, float, float]) -> np.ndarray:
    return np.broadcast_to(np.float16(shift)[:, None, None, None], (3, *CELLS))


def smooth(voxels: np.ndarray, seed: int) -> np.ndarray:
    """A smooth displacement of up to 3 voxels at (3, ...) template voxels."""
    phases = np.random.default_rng(seed).uniform(0, 6, 3)
    return np.stack([3 * np.sin(voxels[(axis + seed) % 3] / 14 + phases[axis]) for axis in range(3)])


# Coordinates


def test_a_constant_field_moves_every_point() -> None:
    voxels = np.random.default_rng(0).uniform(-3, 70, (3, 50)).astype(np.float32)
    found = displaced(constant((1.5, -2, 0.25)), voxels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, voxels + np.float32([[1.5], [-2], [0.25]]), atol=1e-5)


def test_a_field_on_cells_of_2_mm_is_sampled_at_voxels() -> None:
    field = 0.01 * cells()
    voxels = np.stack([part.ravel() for part in np.indices((10, 9, 8))]).astype(np.float32) + 3
    np.testing.assert_allclose(displaced(field, voxels), 1.01 * voxels, atol=1e-4)


def test_constant_fields_through_the_template_add_up() -> None:
    visit = VisitField(constant((1, 0, -2)), constant((-1, 0, 2)))
    deformation = Deformation(constant((0.5, 3, 1)), 0.91, 0.85, "identity")
    found = through_template(visit, deformation)
    np.testing.assert_allclose(found.displacement, constant((1.5, 3, -1)), atol=2e-3)
    assert found.displacement.dtype == np.float16
    assert (found.similarity, found.affine_similarity, found.template) == (0.91, 0.85, "identity")


def test_smooth_fields_through_the_template_agree_with_direct_evaluation() -> None:
    visit = VisitField(smooth(cells(), 0).astype(np.float16), constant((0, 0, 0)))
    deformation = Deformation(smooth(cells(), 1).astype(np.float16), 0.9, 0.8)
    found = through_template(visit, deformation).displacement.astype(np.float64)
    at_template = cells() + smooth(cells(), 0)
    expected = at_template + smooth(at_template, 1) - cells()
    inner = (slice(None), *(slice(3, n - 3) for n in CELLS))  # beyond the grid the nearest displacement counts
    np.testing.assert_allclose(found[inner], expected[inner], atol=0.03)


# Registration


def expansion(points: np.ndarray) -> np.ndarray:
    """Displacement in mm of a region that grows by about a third."""
    offset = points - np.array([6.0, 8.0, -2.0])
    return offset / 10 * np.exp(-0.5 * (offset**2).sum(axis=-1, keepdims=True) / 10**2)


def visit(sign: float, seed: int) -> Volume:
    """A visit in which the region has grown (or shrunk), with 2 % of noise."""
    image = brightness(POINTS + sign * expansion(POINTS)) / 100
    noise = np.random.default_rng(seed).normal(0, 0.02, GRID.shape)
    return Volume(np.where(image > 0, image + noise, 0), GRID)


@cache
def changed() -> tuple[VisitField, ...]:
    """Fields of two visits between which the region shrinks."""
    images = [visit(1, 0), visit(-1, 1)]
    return deform_visits(images, mean_image(images))


def between(fields: tuple[VisitField, ...], one: int, other: int) -> np.ndarray:
    """(3, N) displacements of the points of the brain in one visit to another."""
    voxels = np.stack(np.nonzero(INSIDE)).astype(np.float32)
    return displaced(fields[other].from_template, displaced(fields[one].to_template, voxels)) - voxels


def test_copies_are_not_deformed() -> None:
    image = visit(0, 0)
    fields = deform_visits([image] * 2, mean_image([image] * 2))
    for field in fields:
        assert np.abs(field.to_template).max() < 1e-3
        assert field.to_template.tobytes() == fields[0].to_template.tobytes()


def test_noise_hardly_deforms() -> None:
    images = [visit(0, seed) for seed in (0, 1)]
    fields = deform_visits(images, mean_image(images))
    assert fields[0].to_template.dtype == fields[0].from_template.dtype == np.float16
    assert fields[0].to_template.shape == fields[0].from_template.shape == (3, *CELLS)
    assert np.abs(between(fields, 0, 1)).max() < 0.03


def test_a_change_between_two_visits_is_found_in_both_directions() -> None:
    """Smooth fields find four fifths of a change within 20 mm."""
    inside = POINTS[INSIDE]
    moved = inside.copy()
    for _ in range(30):  # the point of the second visit that shows what a point of the first one shows
        moved = inside + expansion(inside) + expansion(moved)
    true = (moved - inside).T
    forward, backward = between(changed(), 0, 1), between(changed(), 1, 0)
    assert np.abs(true).max() > 1
    for found, sign in ((forward, 1), (backward, -1)):
        part = (found * true).sum() / (true**2).sum()
        assert 0.7 < sign * part < 1.05
    assert np.sqrt(((forward - true) ** 2).mean()) < 0.4 * np.sqrt((true**2).mean())


def test_exchanged_visits_exchange_their_fields() -> None:
    images = [visit(-1, 1), visit(1, 0)]
    exchanged = deform_visits(images, mean_image(images))
    for own, same in zip(changed(), exchanged[::-1], strict=True):
        assert own.to_template.tobytes() == same.to_template.tobytes()
        assert own.from_template.tobytes() == same.from_template.tobytes()
