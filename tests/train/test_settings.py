"""Settings of a training run: errors before any work starts, and the shipped files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from slant.config import build, read_toml
from slant.errors import SettingsError
from slant.io.resources import load_protocol, resource
from slant.tiles import TileLayout
from slant.train.assembly_settings import assemblies_of
from slant.train.augment import AugmentSettings
from slant.train.loss import LossSettings
from slant.train.network import NetworkChoice, network_of
from slant.train.settings import TrainSettings
from slant.train.stage_settings import PretrainSettings, SlicesSettings, StageSettings, TileSettings

SHAPE = (32, 40, 36)
STAGE = StageSettings(6)
SETTINGS = TrainSettings("toy", TileLayout(SHAPE, (20, 24, 20), (2, 2, 2)), STAGE, TileSettings(6))
SHIPPED = sorted(path.name for path in resource("configs", "train").glob("*.toml"))
PLAIN = {
    "name": "toy",
    "layout": {"shape": [32, 40, 36], "size": [20, 24, 20], "counts": [2, 2, 2]},
    "whole": {"steps": 2},
    "tile": {"steps": 2},
}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"folds": 1}, "folds must be at least 2, found 1"),
        ({"fold": 5}, "fold must be 0 to 4, found 5"),
        ({"fold": -1}, "fold must be 0 to 4, found -1"),
        ({"layout": TileLayout(SHAPE, (19, 24, 24), (2, 2, 2))}, "size must be even"),
        ({"layout": TileLayout(SHAPE, (8, 24, 24), (4, 2, 2))}, r"at least 16 .* found \(8, 24, 24\)"),
        ({"devices": ()}, "devices is empty"),
        ({"mirror": "alternate"}, r"mirror requires .* \[augment\] flip_probability"),
        ({"pretrain": PretrainSettings(2)}, r"\[pretrain\] uses auxiliary scans"),
        ({"whole": StageSettings(2, auxiliary_probability=0.3)}, r"\[whole\] uses auxiliary scans"),
        ({"tile": TileSettings(2, auxiliary_probability=0.3)}, r"\[tile\] uses auxiliary scans"),
        ({"slices": SlicesSettings(2, auxiliary_probability=0.3)}, r"\[slices\] uses auxiliary scans"),
    ],
)
def test_impossible_settings_are_refused(values, message) -> None:
    with pytest.raises(SettingsError, match=message):
        replace(SETTINGS, **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, found 0"),
        ({"patches": 0}, "patches must be at least 1"),
        ({"validate_every": -1}, "validate_every must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"lr_decay_fraction": 1.1}, "lr_decay_fraction must be from 0 to 1, found 1.1"),
        ({"class_balanced_fraction": -0.1}, "class_balanced_fraction must be from 0 to 1"),
        ({"ema_decay": 1.5}, "ema_decay must be from 0 to 1"),
        ({"auxiliary_probability": 2.0}, "auxiliary_probability must be from 0 to 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, found nan"),
    ],
)
@pytest.mark.parametrize("kind", [StageSettings, SlicesSettings, PretrainSettings, TileSettings])
def test_impossible_stages_are_refused(kind, values, message) -> None:
    with pytest.raises(SettingsError, match=message):
        kind(**{"steps": 6, **values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"soft_sharing": 1.0}, "soft_sharing must be from 0 to below 1"),
        ({"soft_sharing": -0.1}, "soft_sharing must be from 0 to below 1"),
        ({"soft_sharing": 0.1, "rounds": 0}, r"rounds must be from 1 to steps \(6\), found 0"),
        ({"soft_sharing": 0.1, "rounds": 7}, r"rounds must be from 1 to steps \(6\), found 7"),
        ({"rounds": 2}, "set soft_sharing or remove rounds"),
    ],
)
def test_impossible_soft_sharing_is_refused(values, message) -> None:
    with pytest.raises(SettingsError, match=message):
        TileSettings(6, **values)


@pytest.mark.parametrize(
    "name",
    [
        "rotation_deg",
        "scaling",
        "translation_mm",
        "elastic_mm",
        "gamma",
        "bias_field",
        "noise",
        "flip_probability",
        "sulcal_widening_mm",
        "slice_thickness_probability",
    ],
)
def test_augmentation_below_zero_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"\[augment\] {name} must be at least 0"):
        AugmentSettings(**{name: -0.1})


@pytest.mark.parametrize(
    "name", ["mask_perturbation", "flip_probability", "lesion_probability", "slice_thickness_probability"]
)
def test_probabilities_above_one_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} must be .* at most 1"):
        AugmentSettings(**{name: 1.1})


@pytest.mark.parametrize("name", ["dice_weight", "dice_bias", "task_weight"])
def test_weights_of_the_loss_below_zero_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"\[loss\] {name} must be at least 0"):
        LossSettings(**{name: -1.0})


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (NetworkChoice(kind="compct"), "did you mean 'compact'"),
        (NetworkChoice(widths=(0, 4)), "widths of a network must be positive integers"),
        (NetworkChoice(widths=()), "widths of a network"),
        (NetworkChoice(image_channels=0), "image_channels of a network"),
        (NetworkChoice(kind="slant2018", widths=(4, 8)), "must be 5 numbers"),
        (NetworkChoice(kind="slant2018", image_channels=4), r"\[network\]: unknown key 'image_channels'"),
        (NetworkChoice(kind="slant2018", tasks=("tissue",)), r"\[network\]: unknown key 'tasks'"),
        (NetworkChoice(plane="axial"), r"\[network\]: unknown key 'plane'"),
        (
            NetworkChoice(kind="slicewise", plane="axal"),
            r"\[network\]: plane is 'axal' \(did you mean 'axial'\?\), expected",
        ),
        (NetworkChoice(kind="orthogonal", slice_radius=-1), "slice_radius must be at least 0, found -1"),
        (NetworkChoice(kind="adapted", slice_widths=(4, 0)), "slice_widths of a network must be positive integers"),
        (NetworkChoice(kind="fusion", score_channels=0), "score_channels of a network must be positive integers"),
        (NetworkChoice(kind="residual", encoder="resnet12"), r"encoder is 'resnet12' \(did you mean 'resnet1"),
    ],
)
def test_impossible_networks_are_refused(choice: NetworkChoice, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        network_of(choice, load_protocol())


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (("tisue",), r"'tisue' .did you mean 'tissue'.*known tasks: tissue, lobe, brain"),
        (("brain", "brain"), "tasks must be different"),
    ],
)
def test_unknown_or_duplicate_tasks_are_refused(tasks: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        NetworkChoice(tasks=tasks)


@pytest.mark.parametrize(
    ("table", "values", "message"),
    [
        (None, {"datas": "x"}, "unknown key 'datas'.*did you mean 'data'"),
        ("whole", {"step": 2}, r"unknown key 'whole\.step'.*did you mean 'whole\.steps'"),
        ("tile", {"inits": "whole"}, r"did you mean 'tile\.init'"),
        ("augment", {"flip_probabilty": 0.5}, r"did you mean 'augment\.flip_probability'"),
        ("memory", {"gradient_checkpoint": True}, r"did you mean 'memory\.gradient_checkpointing'"),
        ("loss", {"kind": "dice"}, "loss.kind"),
        ("slices", {"steps": 2, "fold": 2}, r"unknown key 'slices\.fold' \(did you mean 'slices\.folds'\?\)"),
        (
            "augment",
            {"slice_thickness_plane": "axil"},
            r"slice_thickness_plane is 'axil' \(did you mean 'axial'\?\), expected 'any'",
        ),
        ("tile", {"init": "left"}, "tile.init"),
        ("memory", {"offload_activations": "yes"}, "memory.offload_activations"),
        ("whole", {"steps": 2.5}, "whole.steps"),
        ("whole", {"steps": True}, "whole.steps"),
        (None, {"unknown_ids": "drop"}, "unknown_ids"),
        (None, {"precision": "half"}, "precision"),
    ],
)
def test_unknown_keys_and_values_of_another_type_are_reported(table, values, message) -> None:
    plain = {**PLAIN, **values} if table is None else {**PLAIN, table: {**PLAIN.get(table, {}), **values}}
    with pytest.raises(SettingsError, match=message):
        build(TrainSettings, plain, "file.toml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resolution": 2}, r"unknown key 'assemblies\.resolution' \(did you mean 'assemblies\.resolution_mm'\?\)"),
        ({"whole": {"step": 2}}, r"'assemblies\.whole\.step' \(did you mean 'assemblies\.whole\.steps'\?\)"),
        ({"network": {"width": [4]}}, r"did you mean 'assemblies\.network\.widths'"),
        ({"whole": {}}, r"missing value .* \"assemblies\.whole\.steps\""),
        ({"mirror": True}, r"file\.toml: assemblies\.mirror is true, expected 'alternate' or 'shared'"),
        ({"resolution_mm": 3}, "the assembly 'first': resolution_mm must be 1 or 2, found 3"),
        ({"earlier_dropout": 1.5}, "the assembly 'first': .* earlier_dropout from 0 to 1, found 1.0, 1.5"),
        ({"layout": {**PLAIN["layout"], "size": [19, 24, 20]}}, r"\[assemblies\.layout of first\] size must be even"),
        ({"name": ""}, "name must be a word .* found ''"),
        ({"tile": {"steps": 2, "auxiliary_probability": 0.5}}, r"\[assemblies\.tile of first\] uses auxiliary scans"),
    ],
)
def test_mistakes_in_an_assembly_are_named(values, message) -> None:
    one = {key: value for key, value in PLAIN.items() if key != "name"}
    plain = {"name": "toy", "assemblies": [{"name": "first", **one}]}
    assert build(TrainSettings, plain, "file.toml").cascade[0].name == "first"
    with pytest.raises(SettingsError, match=message):
        build(TrainSettings, {**plain, "assemblies": [{"name": "first", **one, **values}]}, "file.toml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mirror": True}, r"file\.toml: mirror is true, expected 'alternate' or 'shared'"),
        (
            {"slices": {"steps": 2}, "assemblies": [{**PLAIN, "name": "first"}]},
            r"found layout, whole, tile, slices beside",
        ),
        ({"assemblies": {"name": "first"}}, r"assemblies is one table, expected .* begin each with \[\[assemblies\]\]"),
        (
            {"assemblies": [{**PLAIN, "name": "first"}]},
            r"found layout, whole, tile beside \[\[assemblies\]\]; move them",
        ),
    ],
)
def test_the_two_ways_to_give_assemblies_are_told_apart(values, message) -> None:
    with pytest.raises(SettingsError, match=message):
        build(TrainSettings, {**PLAIN, **values}, "file.toml")


def test_without_assemblies_the_tables_of_one_are_needed() -> None:
    with pytest.raises(
        SettingsError, match=r"\[whole\], \[tile\] missing, expected \[layout\], .* or \[\[assemblies\]\]"
    ):
        build(TrainSettings, {"name": "toy", "layout": PLAIN["layout"]}, "file.toml")


def test_everything_can_be_set_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    path.write_text(
        'name = "toy"\nignore_label = 255\nauxiliary_dir = "aux"\nscans = "scans.tsv"\ndevices = ["cpu", "cpu"]\n'
        "[layout]\nshape = [32, 40, 36]\nsize = [20, 24, 20]\ncounts = [2, 2, 2]\n"
        "[slices]\nsteps = 7\nfolds = 2\n[pretrain]\nsteps = 3\n[whole]\nsteps = 4\nvalidate_every = 2\n"
        '[tile]\nsteps = 5\ninit = "neighbour"\nsoft_sharing = 0.01\nrounds = 2\n'
        '[network]\nkind = "residual"\nwidths = [4, 6]\ntasks = ["tissue", "lobe", "brain"]\n'
        '[augment]\nflip_probability = 0.5\nslice_thickness_plane = "axial"\n[loss]\nkind = "slant2018"\n'
        "[memory]\ngradient_checkpointing = true\noffload_activations = true\n"
    )
    settings = build(TrainSettings, read_toml(path), str(path))
    assert settings.slices == settings.cascade[0].slices == SlicesSettings(7, folds=2)
    assert settings.augment.slice_thickness_plane == "axial"
    assert settings.pretrain == PretrainSettings(3, auxiliary_probability=1.0)
    assert settings.tile == TileSettings(5, init="neighbour", soft_sharing=0.01, rounds=2)
    assert (settings.ignore_label, settings.devices, settings.auxiliary_dir) == (255, ("cpu", "cpu"), Path("aux"))
    network = network_of(settings.network, load_protocol())
    assert network.kind == "residual"
    assert network.settings.as_dict()["tasks"] == {"tissue": 4, "lobe": len(_lobes()), "brain": 2}


def _lobes() -> set[str]:
    return {region.lobe for region in load_protocol().regions}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_settings_are_complete(name: str) -> None:
    path = resource("configs", "train", name)
    settings = build(TrainSettings, {**read_toml(path), "auxiliary_dir": "aux"}, str(path))
    for assembly in assemblies_of(settings.cascade, load_protocol(settings.protocol)):
        assert assembly.template_shape == (172, 220, 156)
        assert assembly.settings.outputs == 133
        assert assembly.kind in ("compact", "residual", "anisotropic")


@pytest.mark.parametrize(("name", "tiles"), [("slant27", 27), ("slant8", 8), ("slant27-all", 27), ("slant8-all", 8)])
def test_the_recipes_of_the_embedded_models_have_their_names_and_tiles(name: str, tiles: int) -> None:
    path = resource("configs", "train", f"{name}.toml")
    settings = build(TrainSettings, {**read_toml(path), "auxiliary_dir": "aux"}, str(path))
    assert settings.name == name.removesuffix("-all")
    assert len(settings.layout) == tiles
    assert "Neuromorphometrics" in settings.credits
