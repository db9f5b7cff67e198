"""Visits are aligned rigidly with each other, no visit is the reference, and change does not pull them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from small_visits import GRID, MOTIONS, RADII_MM, SCALING, aligned, centers, rigid, scan
from toy import native_from_template, toy_grid

from slant.grid import Matrix, transform_points
from slant.io.templates import load_template
from slant.resample import pick_labels, resample
from slant.volume import LabelMap, Volume
from slant.within_subject.rigid import CommonAffines, align_rigidly, common_scaling

CENTER = GRID.center_ras_mm


def surface(radii_mm: np.ndarray = RADII_MM) -> np.ndarray:
    """Points on the surface of an ellipsoidal brain, in RAS mm in template space."""
    directions = np.random.default_rng(0).standard_normal((100, 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True) * radii_mm


def disagreement_mm(found: Sequence[Matrix], true: Sequence[Matrix], points: np.ndarray) -> float:
    """Largest distance between the points of the subject that two visits have at one point of the template."""
    at = [transform_points(np.linalg.inv(own) @ affine, points) for own, affine in zip(true, found, strict=True)]
    return max(float(np.linalg.norm(one - other, axis=1).max()) for one in at for other in at)


def align(visits: Sequence[int], scans: Sequence[Volume] | None = None) -> CommonAffines:
    chosen = [aligned(visit) for visit in visits]
    scans = scans or [scan(visit) for visit in visits]
    return align_rigidly(scans, [own.brain for own in chosen], [own.native_from_template for own in chosen], GRID)


@pytest.mark.parametrize("visits", [(0, 1), (2, 0), (0, 1, 2)])
def test_motions_between_visits_are_found(visits: tuple[int, ...]) -> None:
    true = [MOTIONS[visit] @ SCALING for visit in visits]
    before = [aligned(visit).native_from_template for visit in visits]
    assert disagreement_mm(before, true, surface()) > 0.3
    found = align(visits)
    assert disagreement_mm(found.native_from_template, true, surface()) < 0.05
    for motion in found.native_from_subject:
        assert motion[:3, :3] @ motion[:3, :3].T == pytest.approx(np.eye(3), abs=1e-9)


def test_no_visit_is_the_reference() -> None:
    """The visits move to their mean position: what they are moved by adds up to nothing."""
    start = common_scaling([aligned(visit).native_from_template for visit in range(3)], CENTER)
    moved_mm = [
        transform_points(np.linalg.inv(before) @ after, [CENTER])[0] - CENTER
        for before, after in zip(start.native_from_template, align((0, 1, 2)).native_from_template, strict=True)
    ]
    assert np.linalg.norm(moved_mm, axis=1).max() > 0.3
    assert np.sum(moved_mm, axis=0) == pytest.approx([0, 0, 0], abs=0.05)


def test_changed_tissue_does_not_move_the_visits() -> None:
    true = [MOTIONS[visit] @ SCALING for visit in (0, 1)]
    blob = np.linalg.norm(centers(scan(1).grid, np.linalg.inv(true[1])) - (8, 10, 0), axis=-1) < 5
    changed = Volume(np.where(blob & (scan(1).data > 0), 30, scan(1).data), scan(1).grid)
    found = align((0, 1), [scan(0), changed])
    assert disagreement_mm(found.native_from_template, true, surface()) < 0.1


@pytest.mark.parametrize("changed", [False, True], ids=["same tissue", "with bias and a lesion"])
def test_a_real_brain_on_coarse_grids(changed: bool) -> None:
    """The brain of the template, twice on voxels of 2.6 x 2.3 x 3 mm; 10 % of bias and a lesion of 36 mm change it."""
    template, grid, first = load_template(), toy_grid(), native_from_template()
    center = template.grid.center_ras_mm
    true = [first, rigid((-3, 4, 2), (3, -2, 1)) @ first]
    scans = [resample(template.image, grid, source_from_target=np.linalg.inv(affine)) for affine in true]
    brains = [pick_labels(template.brain, grid, np.linalg.inv(affine)) for affine in true]
    if changed:
        x, y, z = np.moveaxis(centers(grid, np.linalg.inv(true[1])) - center, -1, 0)
        lesion = np.hypot(np.hypot(x - 20, y - 25), z) < 18
        data = np.where(lesion, 0.4 * scans[1].data, scans[1].data)
        scans[1] = Volume(2.5 * data * np.exp(0.1 * np.sin(x / 60) + 0.07 * np.cos(y / 60)), grid)
    start = [true[0] @ rigid((0.5, 0, 0.4), (0.3, -0.3, 0)), true[1]]
    found = align_rigidly(scans, brains, start, template.grid)
    points = center + surface(np.array([65.0, 85.0, 60.0]))
    assert disagreement_mm(start, true, points) > 0.6
    assert disagreement_mm(found.native_from_template, true, points) < 0.1


# Symmetry


def test_copies_stay_where_they_are() -> None:
    for visits in ((1, 1), (1, 1, 1)):
        found = align(visits)
        (one,) = {affine.tobytes() for affine in found.native_from_template}
        start = common_scaling([aligned(1).native_from_template] * len(visits), CENTER).native_from_template[0]
        assert np.frombuffer(one).reshape(4, 4) == pytest.approx(start, abs=1e-12)


def test_exchanged_visits_exchange_their_affines_bit_by_bit() -> None:
    one, other = (align(visits).native_from_template for visits in ((0, 2), (2, 0)))
    assert [affine.tobytes() for affine in one] == [affine.tobytes() for affine in other[::-1]]


def test_another_order_of_three_visits_changes_nothing_but_rounding() -> None:
    """`align_subject` sorts the visits, so that not even rounding differs."""
    one, other = (align(visits).native_from_template for visits in ((0, 1, 2), (2, 0, 1)))
    for visit, place in enumerate((1, 2, 0)):
        assert transform_points(one[visit], surface()) == pytest.approx(
            transform_points(other[place], surface()), abs=1e-4
        )


# Scaling


def test_the_scaling_of_all_visits_is_averaged() -> None:
    """One visit whose affine is 3 % too large makes the common scaling 1 % larger."""
    wrong = np.diag([1.03, 1.03, 1.03, 1.0])
    affines = [MOTIONS[0] @ SCALING, MOTIONS[1] @ SCALING @ wrong, MOTIONS[2] @ SCALING]
    found = common_scaling(affines, np.array([1.0, 2.0, 3.0]))
    assert np.diag(found.subject_from_template)[:3] == pytest.approx(1.01 * np.diag(SCALING)[:3])
    determinants = [np.linalg.det(affine[:3, :3]) for affine in found.native_from_template]
    assert determinants == pytest.approx([1.01**3 * np.linalg.det(SCALING)] * 3)


def test_the_common_scaling_keeps_the_rotations_and_the_center_of_each_visit() -> None:
    shear = SCALING.copy()
    shear[0, 1] = shear[1, 0] = 0.04
    affines, center = [MOTIONS[0] @ SCALING, MOTIONS[1] @ shear], np.array([1.0, 2.0, 3.0])
    found = common_scaling(affines, center)
    assert transform_points(found.subject_from_template, [center])[0] == pytest.approx(center)
    for visit, (affine, motion) in enumerate(zip(affines, found.native_from_subject, strict=True)):
        assert motion[:3, :3] == pytest.approx(MOTIONS[visit][:3, :3])
        same = transform_points(found.native_from_template[visit], [center])
        assert same == pytest.approx(transform_points(affine, [center]))
    assert found.subject_from_template[:3, :3] == pytest.approx((SCALING + shear)[:3, :3] / 2)


def test_equal_affines_are_not_changed() -> None:
    affine = MOTIONS[2] @ SCALING
    for found in common_scaling([affine, affine], CENTER).native_from_template:
        assert found == pytest.approx(affine, abs=1e-12)


def test_a_visit_with_a_wrong_scale_is_aligned_by_the_mean_scale() -> None:
    true = [MOTIONS[visit] @ SCALING for visit in (0, 1, 2)]
    wrong = true[1] @ np.diag([1.03, 1.03, 1.03, 1.0])
    scans = [scan(visit) for visit in (0, 1, 2)]
    brains = [LabelMap((volume.data > 0).astype(np.uint8), volume.grid) for volume in scans]
    found = align_rigidly(scans, brains, [true[0], wrong, true[2]], GRID).native_from_template
    assert disagreement_mm(found, true, surface()) < 0.1
