"""Random intensity changes: thick slices, and the same changes as before there were settings for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from phantoms import STILL, phantom
from torch import Generator, Tensor
from torch.nn import functional

from slant.errors import SettingsError
from slant.train import intensity
from slant.train.augment import AugmentSettings, smooth_field
from slant.train.draws import noise, normal, uniform

THICK = replace(STILL, slice_thickness_probability=1.0, slice_thickness_mm=6.0)


def seeded(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


def varied_as_before(image: Tensor, settings: AugmentSettings, generator: Generator) -> Tensor:
    """`vary_intensity` as it was with thick slices of any plane in a quarter of the steps."""
    if uniform(generator) < settings.mask_perturbation:
        image = intensity._perturb_mask(image, generator)
    brain = image > 0
    image = intensity._gamma(image, settings, generator)
    image = intensity._contrast_curve(image, settings, generator)
    if uniform(generator) < 0.25:
        image = intensity._add_ghost(image, settings, generator)
    if uniform(generator) < 0.5:
        image = image * torch.exp(smooth_field(image.shape, 50, 1, generator)[0] * settings.bias_field)
    if uniform(generator) < 0.4:
        image = intensity.gaussian_blur(image, uniform(generator) * settings.blur_mm)
    if uniform(generator) < 0.25:
        axis = int(torch.randint(3, (1,), generator=generator))
        thickness = 1 + uniform(generator) * (settings.slice_thickness_mm - 1)
        sizes = list(image.shape)
        sizes[axis] = max(4, round(sizes[axis] / thickness))
        coarse = functional.interpolate(image[None, None], size=sizes, mode="area")
        image = functional.interpolate(coarse, size=image.shape, mode="trilinear", align_corners=False)[0, 0]
    if uniform(generator) < 0.5:
        image = image + noise(generator, image.shape, image.device) * (settings.noise * uniform(generator))
    shift, scale = normal(generator, 2).tolist()
    factor = float(torch.tensor(scale * 0.05, dtype=torch.float64).exp())
    return torch.where(brain, image * factor + shift * 0.05, torch.zeros(()))


def test_default_settings_give_the_images_of_before_bit_by_bit() -> None:
    image = phantom(0).image
    for seed in range(24):  # about six of them with thick slices
        generators = seeded(seed), seeded(seed)
        found = intensity.vary_intensity(image, AugmentSettings(), generators[0])
        assert torch.equal(found, varied_as_before(image, AugmentSettings(), generators[1]))
        assert torch.equal(generators[0].get_state(), generators[1].get_state())


@pytest.mark.parametrize(("plane", "axis"), [("sagittal", 0), ("coronal", 1), ("axial", 2)])
def test_thick_slices_blur_along_the_normal_of_their_plane_only(
    plane: Literal["sagittal", "coronal", "axial"], axis: int
) -> None:
    shape = [30, 40, 36]
    stripes = torch.arange(shape[axis]).remainder(2).add(1).float()  # change from voxel to voxel along the normal
    sizes = [1, 1, 1]
    sizes[axis] = shape[axis]
    across = stripes.reshape(sizes).expand(shape).contiguous()
    sizes[axis - 1], sizes[axis] = shape[axis - 1], 1
    within = torch.arange(shape[axis - 1]).remainder(2).add(1).float().reshape(sizes).expand(shape).contiguous()
    for seed in range(4):
        settings = replace(THICK, slice_thickness_plane=plane)
        thick, plain = (intensity._thick_slices(image, settings, seeded(seed)) for image in (across, within))
        torch.testing.assert_close(plain, within)
        assert thick.std() < 0.6 * across.std()


def test_any_plane_draws_all_three_and_the_plane_changes_no_random_numbers() -> None:
    image, states, drawn = torch.rand(24, 28, 20), [], set()
    for seed in range(12):
        by_plane = {}
        for plane in ("sagittal", "coronal", "axial", "any"):
            generator = seeded(seed)
            by_plane[plane] = intensity._thick_slices(image, replace(THICK, slice_thickness_plane=plane), generator)
            states.append(generator.get_state())
        assert all(torch.equal(state, states[-1]) for state in states[-4:])
        drawn |= {plane for plane, out in by_plane.items() if plane != "any" and torch.equal(out, by_plane["any"])}
    assert drawn == {"sagittal", "coronal", "axial"}


@pytest.mark.parametrize(("probability", "count"), [(0.0, 0), (1.0, 12)])
def test_the_probability_of_thick_slices(probability: float, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(intensity, "_thick_slices", lambda image, *_: calls.append(1) or image)
    settings = replace(STILL, slice_thickness_probability=probability)
    for seed in range(12):
        intensity.vary_intensity(torch.ones(8, 9, 10), settings, seeded(seed))
    assert len(calls) == count


def test_unknown_planes_are_refused() -> None:
    with pytest.raises(
        SettingsError, match="slice_thickness_plane must be any, sagittal, coronal, axial; found 'axal'"
    ):
        AugmentSettings(slice_thickness_plane="axal")
