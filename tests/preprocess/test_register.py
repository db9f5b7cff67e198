"""Registration works for rotated and distant heads; other images are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from slant.errors import RegistrationError
from slant.grid import Grid, axis_aligned_grid, transform_points
from slant.io.read import read_scan
from slant.io.templates import load_template
from slant.preprocess import register
from slant.preprocess.ants import affine_file, load_ants, to_ants
from slant.preprocess.brain import brain_from_zero_background, extract_brain
from slant.preprocess.register import Registration, register_to_template
from slant.resample import resample
from slant.template import Template
from slant.volume import LabelMap, Volume

HALF_AXES_MM = np.array([32.0, 40.0, 28.0])
BLOBS_MM = np.random.default_rng(3).uniform(-0.8, 0.8, (30, 3)) * HALF_AXES_MM
WEIGHTS = np.random.default_rng(4).uniform(-1, 1, 30)
FAR = (510.0, -480.0, 500.0)


def _world_coordinates(grid: Grid) -> np.ndarray:
    return transform_points(grid.ras_from_voxel, np.indices(grid.shape).reshape(3, -1).T)


def _affine(
    rotation_deg: tuple[float, float, float], translation_mm: tuple[float, float, float], scale: float = 1
) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.from_euler("xyz", rotation_deg, degrees=True).as_matrix()
    matrix[:3, 3] = translation_mm
    return matrix


def _phantom(grid: Grid, template_from_native: np.ndarray) -> tuple[Volume, LabelMap]:
    """An ellipsoid of bright and dark blobs, on any grid."""
    points = transform_points(template_from_native, _world_coordinates(grid))
    squared_mm2 = ((points[:, None] - BLOBS_MM) ** 2).sum(axis=-1)
    inside = (((points / HALF_AXES_MM) ** 2).sum(axis=-1) < 1).reshape(grid.shape)
    image = (100 + 60 * np.exp(-squared_mm2 / (2 * 7**2)) @ WEIGHTS).reshape(grid.shape)
    return Volume(np.where(inside, image, 0), grid), LabelMap(inside, grid)


@pytest.fixture(scope="module")
def template() -> Template:
    grid = axis_aligned_grid((38, 46, 34), 2.0, (-37, -45, -33))
    return Template("phantom", *_phantom(grid, np.eye(4)), axis_aligned_grid((76, 92, 68), 1.0, (-37, -45, -33)), 1e5)


NATIVE_FROM_TEMPLATE = _affine((25, -15, 20), FAR, 1.1)


@pytest.fixture(scope="module")
def scan() -> tuple[Volume, LabelMap]:
    """The phantom, rotated, enlarged and far from the origin, on a left-handed anisotropic grid."""
    matrix = _affine((0, 0, 8), (0, 0, 0)) @ np.diag([-1.8, 1.5, 2.2, 1])
    matrix[:3, 3] += np.array(FAR) - Grid((70, 72, 52), matrix).center_ras_mm
    return _phantom(Grid((70, 72, 52), matrix), np.linalg.inv(NATIVE_FROM_TEMPLATE))


def _max_error_mm(one: np.ndarray, other: np.ndarray, brain: LabelMap) -> float:
    """Largest distance between the brain's voxels mapped by two affines."""
    points = transform_points(brain.grid.ras_from_voxel, np.argwhere(brain.data)[::97])
    difference = transform_points(one, points) - transform_points(other, points)
    return float(np.linalg.norm(difference, axis=1).max())


def test_a_distant_phantom_is_registered_with_identical_results_in_two_runs(template, scan):
    found = register_to_template(*scan, template)
    assert _max_error_mm(found.native_from_template, NATIVE_FROM_TEMPLATE, template.brain) < 1
    assert found.similarity > 0.95
    again = register_to_template(*scan, template)
    assert again.native_from_template.tobytes() == found.native_from_template.tobytes()
    assert again.similarity == found.similarity


def test_noise_in_the_shape_of_a_brain_is_refused(template, scan):
    noise = Volume(np.random.default_rng(0).uniform(1, 100, scan[0].grid.shape), scan[0].grid)
    with pytest.raises(RegistrationError, match=r"failed \(similarity -?0\.\d\d, minimum 0\.30\); is it a T1"):
        register_to_template(noise, scan[1], template)


def test_the_brain_is_centred_at_the_world_origin(scan):
    moving, native_from_moving = register._centered_brain(*scan)
    np.testing.assert_array_equal(native_from_moving[:3, :3], np.eye(3))
    np.testing.assert_allclose(native_from_moving[:3, 3], FAR, atol=0.5)
    np.testing.assert_allclose(moving.grid.voxel_size_mm, register.FINE_MM)
    filled = np.argwhere(moving.data > 0.1)
    np.testing.assert_allclose(transform_points(moving.grid.ras_from_voxel, filled).mean(axis=0), 0, atol=0.5)
    assert (filled.min(axis=0) > 0).all()
    assert (filled.max(axis=0) < np.array(moving.grid.shape) - 1).all()
    assert moving.data.max() == 1


@pytest.mark.parametrize("rotation_deg", [(0, 0, 0), (40, 0, 0), (0, -40, 0), (0, 0, 40), (-60, 10, 30)])
def test_the_initial_transform_finds_the_rotation(template, rotation_deg):
    native_from_template = _affine(rotation_deg, (3, -4, 2))
    moving = _phantom(axis_aligned_grid((50, 50, 50), 2.0, (-49, -49, -49)), np.linalg.inv(native_from_template))[0]
    assert _max_error_mm(register._initial_transform(moving, template), native_from_template, template.brain) < 4


def test_a_start_maps_the_centre_of_the_template_to_its_translation(template, scan):
    moving, _ = register._centered_brain(*scan)
    score = register._CoarseScore.between(moving, template)
    rotation, translation = [0.1, -0.2, 0.3], [0.05, -0.06, 0.07]
    same, larger = (score.matrix(np.array([*rotation, *translation, np.log(scale)])) for scale in (1, 1.2))
    points = transform_points(template.brain.grid.ras_from_voxel, np.argwhere(template.brain.data))
    np.testing.assert_allclose(transform_points(larger, [points.mean(axis=0)]), [[5, -6, 7]], atol=1e-6)
    np.testing.assert_allclose(larger[:3, :3], 1.2 * same[:3, :3])
    np.testing.assert_allclose(Rotation.from_matrix(same[:3, :3]).as_rotvec(), rotation, atol=1e-6)
    assert 1 < np.cbrt(np.linalg.det(same[:3, :3])) < 1.3


def _similarity(template: Template, data: np.ndarray, moving_from_template: np.ndarray | None = None) -> float:
    matrix = np.eye(4) if moving_from_template is None else moving_from_template
    return register._similarity(Volume(data, template.image.grid), template, matrix)


def test_similarity_is_the_correlation_inside_the_border_of_the_brain(template):
    data, inside = template.image.data, template.brain.data
    assert _similarity(template, data) == pytest.approx(1, abs=1e-6)
    assert _similarity(template, 3 * data + 7) == pytest.approx(1, abs=1e-6)
    assert _similarity(template, 200 - data) == pytest.approx(-1, abs=1e-6)
    assert abs(_similarity(template, inside.astype(float))) < 0.1
    assert _similarity(template, np.zeros_like(data)) == 0
    assert _similarity(template, data, _affine((0, 0, 0), (20, 0, 0))) < register.MIN_SIMILARITY


def test_the_bias_field_is_removed_and_the_tissue_contrast_is_preserved():
    grid = axis_aligned_grid((80, 96, 70), 2.0, (-79, -95, -69))
    points = _world_coordinates(grid).reshape(*grid.shape, 3)
    inside = ((points / (70, 85, 60)) ** 2).sum(axis=-1) < 1
    tissue = np.random.default_rng(0).choice([0.7, 1.0], grid.shape)
    biased = np.where(inside, tissue * np.exp(points[..., 2] / 60), 0)
    flat = register._bias_corrected(Volume(biased, grid)).data
    assert np.corrcoef(biased[inside], tissue[inside])[0, 1] < 0.5
    assert np.corrcoef(flat[inside], tissue[inside])[0, 1] > 0.8
    assert not flat[~inside].any()
    assert flat.max() == 1


def test_a_failed_registration_is_repeated_after_bias_correction(monkeypatch, template, scan):
    tried = []

    def search(moving: Volume, template: Template) -> tuple[np.ndarray, float]:
        tried.append(moving.data)
        return np.eye(4), (0.1, 0.4)[len(tried) - 1]

    monkeypatch.setattr(register, "_search", search)
    assert register_to_template(*scan, template).similarity == 0.4
    moving, _ = register._centered_brain(*scan)
    np.testing.assert_array_equal(tried[0], moving.data)
    np.testing.assert_array_equal(tried[1], register._bias_corrected(moving).data)


def test_ants_applies_the_written_affine_to_points_and_images(tmp_path, template, scan):
    path = tmp_path / "scan_from-T1w_to-MNI305_mode-image_xfm.mat"
    path.write_bytes(affine_file(NATIVE_FROM_TEMPLATE))
    ants, lps = load_ants(), np.diag([-1, -1, 1])
    points = np.array([[0, 0, 0], [10, 0, 0], [0, 20, 0], [0, 0, 30], [-7, 8, 9]])
    read = ants.read_transform(str(path))
    for point, native in zip(points, transform_points(NATIVE_FROM_TEMPLATE, points), strict=True):
        np.testing.assert_allclose(lps @ read.apply_to_point((lps @ point).tolist()), native, atol=1e-4)

    moving, native_from_moving = register._centered_brain(*scan)
    path.write_bytes(affine_file(np.linalg.inv(native_from_moving) @ NATIVE_FROM_TEMPLATE))
    by_ants = ants.apply_transforms(to_ants(template.image), to_ants(moving), transformlist=[str(path)]).numpy()
    ours = resample(
        moving, template.image.grid, source_from_target=np.linalg.inv(native_from_moving) @ NATIVE_FROM_TEMPLATE
    )
    inside = template.brain.data != 0
    assert np.abs(by_ants - ours.data)[inside].max() < 0.01


@pytest.fixture(scope="module")
def real(data_dir: Path) -> tuple[Volume, LabelMap]:
    volume = read_scan(data_dir / "miccai2012-train" / "1000_T1w.nii.gz").volume
    return volume, brain_from_zero_background(volume)


@pytest.fixture(scope="module")
def upright(real: tuple[Volume, LabelMap]) -> Registration:
    return register_to_template(*real, load_template())


def _transformed(real: tuple[Volume, LabelMap], new_from_old: np.ndarray) -> tuple[Volume, LabelMap]:
    grid = Grid(real[0].grid.shape, new_from_old @ real[0].grid.ras_from_voxel)
    return Volume(real[0].data, grid), LabelMap(real[1].data, grid)


@pytest.mark.slow
@pytest.mark.parametrize(("axis", "degrees"), list(product(range(3), (-40, 40))))
def test_a_rotated_scan_is_registered_like_the_upright_scan(real, upright, axis, degrees):
    new_from_old = _affine(tuple(degrees * np.eye(3)[axis]), FAR)
    found = register_to_template(*_transformed(real, new_from_old), load_template())
    back = np.linalg.inv(new_from_old) @ found.native_from_template
    assert _max_error_mm(np.linalg.inv(back), np.linalg.inv(upright.native_from_template), real[1]) < 2
    assert found.similarity == pytest.approx(upright.similarity, abs=0.01)


@pytest.mark.slow
def test_a_rotated_and_resampled_head_is_registered_like_the_original(data_dir):
    head = read_scan(data_dir / "single" / "chris_T1w.nii.gz").volume
    new_from_old = _affine((40, 0, 0), (0, 0, 0))
    grid = axis_aligned_grid((150, 180, 200), 1.4, np.zeros(3))
    center = transform_points(new_from_old, [head.grid.center_ras_mm])[0]
    grid = axis_aligned_grid(grid.shape, 1.4, center - grid.center_ras_mm)
    rotated = resample(head, grid, source_from_target=np.linalg.inv(new_from_old))
    brain = extract_brain(head)
    one = register_to_template(head, brain, load_template())
    other = register_to_template(rotated, extract_brain(rotated), load_template())
    back = np.linalg.inv(new_from_old) @ other.native_from_template
    assert _max_error_mm(np.linalg.inv(back), np.linalg.inv(one.native_from_template), brain) < 2


@pytest.mark.slow
def test_another_process_with_other_thread_settings_gives_the_same_bytes(data_dir, upright):
    program = (
        "import sys; from pathlib import Path; from slant.preprocess.brain import brain_from_zero_background;"
        "from slant.io.read import read_scan; from slant.io.templates import load_template;"
        "from slant.preprocess.register import register_to_template; scan = read_scan(Path(sys.argv[1])).volume;"
        "found = register_to_template(scan, brain_from_zero_background(scan), load_template());"
        "print(found.native_from_template.tobytes().hex())"
    )
    threads = {"OMP_NUM_THREADS": "2", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "2", "ANTS_RANDOM_SEED": "7"}
    scan = data_dir / "miccai2012-train" / "1000_T1w.nii.gz"
    run = [sys.executable, "-c", program, str(scan)]
    printed = subprocess.run(run, env={**os.environ, **threads}, check=True, capture_output=True, text=True).stdout
    assert bytes.fromhex(printed) == upright.native_from_template.tobytes()


@pytest.mark.slow
def test_a_brain_with_a_strong_bias_field_and_a_part_of_the_neck_is_registered(data_dir):
    scan = read_scan(data_dir / "ds002748" / "sub-45" / "anat" / "sub-45_T1w.nii.gz").volume
    found = register_to_template(scan, brain_from_zero_background(scan), load_template())
    assert found.similarity > register.MIN_SIMILARITY + 0.05


def _invalid_scan(kind: str, scan: Volume, brain: LabelMap) -> tuple[Volume, LabelMap]:
    if kind == "upside down":
        return _transformed((scan, brain), np.diag([1.0, -1.0, -1.0, 1.0]))
    if kind == "back to front":
        return _transformed((scan, brain), np.diag([-1.0, -1.0, 1.0, 1.0]))
    data = {
        "inverted": scan.data.max() - scan.data,
        "noise": np.random.default_rng(0).uniform(1, 100, scan.grid.shape),
        "flat": np.ones(scan.grid.shape),
    }[kind]
    return Volume(data, scan.grid), brain


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["upside down", "back to front", "inverted", "noise", "flat"])
def test_images_that_do_not_resemble_the_template_are_refused(real, kind):
    with pytest.raises(RegistrationError, match="registration to the template failed"):
        register_to_template(*_invalid_scan(kind, *real), load_template())
