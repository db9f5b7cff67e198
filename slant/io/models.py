"""Find and load models, embedded or in a folder, with the protocol, template and intensity settings they name."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slant.config import build
from slant.errors import ModelError, OutputError, SettingsError
from slant.io.resources import load_protocol, shipped_protocols
from slant.io.templates import load_intensity_reference, load_template
from slant.labels import LabelProtocol, Region
from slant.nets.assembly import ASSEMBLIES, Assembly, manifest_entries
from slant.nets.inputs import Inputs, InputScaling
from slant.nets.model import Model
from slant.volume import Volume

if TYPE_CHECKING:
    from slant.nets.weights import NetworkFolder

EMBEDDED = Path(__file__).resolve().parents[1] / "weights"
"""Folder of the models that ship with the package."""

TEMPLATE = "mni305"
"""Template space that the networks are trained in."""


def embedded_models() -> tuple[str, ...]:
    """Names of the models that ship with the package."""
    return tuple(sorted(manifest.parent.name for manifest in EMBEDDED.glob("*/manifest.json")))


def model_folder(name_or_folder: str) -> Path:
    """Folder of an embedded model, or a model folder given by its path.

    Raises
    ------
    ModelError
        If there is neither an embedded model of this name nor such a folder.
    """
    if name_or_folder in embedded_models():
        return EMBEDDED / name_or_folder
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    raise ModelError(
        f"unknown model {name_or_folder!r}: expected one of {', '.join(embedded_models())} "
        "or a folder with a manifest.json"
    )


def describe_models() -> str:
    """Description of the embedded models: tiles, licence of the weights and model card of each."""
    texts = []
    for name in embedded_models():
        manifest = json.loads((EMBEDDED / name / "manifest.json").read_text(encoding="utf-8"))
        card = EMBEDDED / name / "CARD.md"
        tiles = sum(math.prod(entry["layout"]["counts"]) for entry in manifest.get(ASSEMBLIES, [manifest]))
        heading = f"{name}: {tiles} tile{'s' if tiles > 1 else ''}, licence of the weights: {manifest['licence']}"
        texts.append(f"{heading}\n\n{card.read_text(encoding='utf-8').strip() if card.is_file() else ''}".strip())
    return "\n\n".join(texts)


def load_inputs(scaling: InputScaling | None = None) -> Inputs:
    """Inputs of networks that were trained in MNI305 with the shipped intensity reference."""
    return Inputs(load_template(), load_intensity_reference(), scaling or InputScaling())


def load_model(name_or_folder: str = "slant27") -> Model:
    """Load a model that is ready to label scans.

    Parameters
    ----------
    name_or_folder : str
        Name of an embedded model, or a folder written by `slant train`.

    Raises
    ------
    ModelError
        If the model does not exist, is damaged, or was made for another protocol or template.
    """
    from slant.nets.groupwise import GroupwiseTemplate
    from slant.nets.weights import GROUPWISE, read_model

    folder = model_folder(name_or_folder)
    networks = read_model(folder)
    manifest = networks.manifest
    try:
        name, template = str(manifest["name"]), str(manifest["template"])
        protocol, trained_ids = _protocol(manifest["protocol"]), list(manifest["protocol"]["ids"])
        scaling = build(InputScaling, manifest["input"], "input")
    except (KeyError, TypeError, SettingsError) as error:
        raise ModelError(f"the manifest of {folder} cannot be used: {error!r}; install or export it again") from error
    if template != TEMPLATE:
        raise ModelError(f"{folder} was trained in the template {template!r}, expected {TEMPLATE!r}; use another model")
    _check_protocol(folder, networks, protocol, trained_ids)
    inputs = load_inputs(scaling)
    covered = networks.assemblies[0].template_shape
    if inputs.template.grid.shape != covered:
        raise ModelError(f"{folder}: the tiles cover {covered} voxels, the template has {inputs.template.grid.shape}")
    if networks.groupwise is not None:
        image, votes = networks.groupwise
        identity = str(manifest["files"][GROUPWISE])
        groupwise = GroupwiseTemplate(Volume(image, inputs.template.image.grid), votes, identity)
        inputs = replace(inputs, groupwise=groupwise)
    return Model(name, protocol, inputs, networks)


def _protocol(entry: dict[str, Any]) -> LabelProtocol:
    """Protocol that a manifest names or, if it does not ship with the package, describes."""
    if "regions" not in entry:
        return load_protocol(str(entry["name"]))
    regions = tuple(Region(**{**region, "color": tuple(region["color"])}) for region in entry["regions"])
    return LabelProtocol(str(entry["name"]), regions)


def _protocol_entry(protocol: LabelProtocol) -> dict[str, Any]:
    entry = {"name": protocol.name, "ids": protocol.ids.tolist()}
    if protocol.name in shipped_protocols() and load_protocol(protocol.name) == protocol:
        return entry
    regions = [{**asdict(region), "color": list(region.color)} for region in protocol.regions]
    return {**entry, "regions": regions}


def _check_protocol(folder: Path, networks: NetworkFolder, protocol: LabelProtocol, trained: list[int]) -> None:
    ids = protocol.ids.tolist()
    if trained != ids:
        differing = sorted(set(trained) ^ set(ids)) or "only their order"
        raise ModelError(
            f"{folder} was trained for other ids than the protocol {protocol.name!r} has in this version; "
            f"differing: {differing}; use another model"
        )
    outputs = networks.assemblies[0].settings.outputs
    if outputs != len(protocol):
        raise ModelError(f"{folder}: {outputs} outputs for {len(protocol)} channels of the protocol")


def manifest_of(
    name: str,
    assemblies: Sequence[Assembly],
    protocol: LabelProtocol,
    training: dict[str, Any],
    licence: str,
    scaling: InputScaling | None = None,
) -> dict[str, Any]:
    """Manifest of a new model, without the hashes of its files.

    Parameters
    ----------
    assemblies : sequence of Assembly
        In the order in which they run.
    training : dict
        Provenance of the weights: data, subjects, steps, seeds, code version.
    licence : str
        Licence of the weights.
    """
    return {
        "name": name,
        "licence": licence,
        **manifest_entries(assemblies),
        "protocol": _protocol_entry(protocol),
        "template": TEMPLATE,
        "input": (scaling or InputScaling()).as_dict(),
        "training": training,
    }


def import_original(
    folder: Path, out: Path, *, name: str, tiles: Literal[27, 8], epoch: int, precision: Literal["float32", "float16"]
) -> None:
    """Convert the published checkpoints of the original SLANT to a model, with one tile in memory at a time.

    Parameters
    ----------
    folder : Path
        ``model_dir`` of the original, see `slant.nets.import_original`.
    out : Path
        Folder of the model; must be empty or not exist.
    precision : {"float32", "float16"}
        Type of the stored weights.

    Raises
    ------
    ModelError
        If tiles are missing or a checkpoint does not fit the original network.
    OutputError
        If ``out`` exists and is not an empty folder.
    """
    from slant.nets import import_original as import_weights
    from slant.nets.weights import write_shards

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} already exists and is not an empty folder; give an empty or a new folder")
    paths = import_weights.find_checkpoints(folder, tiles, epoch)
    networks = ((tile, import_weights.read_checkpoint(path)) for tile, path in paths.items())
    layout = import_weights.LAYOUTS[tiles]
    assembly = Assembly("", layout, import_weights.KIND, import_weights.SETTINGS)
    training = {
        "source": "MASILab/SLANTbrainSeg, imported",
        "epoch": epoch,
        "citation": "Huo et al. 2019, NeuroImage 194, 105-119",
    }
    licence = "see MASILab/SLANTbrainSeg"
    manifest = manifest_of(name, [assembly], load_protocol("braincolor"), training, licence, import_weights.SCALING)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as partial:
        write_shards(Path(partial, "model"), networks, manifest, precision)
        Path(partial, "model").replace(out)
