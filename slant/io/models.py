"""Finds models, embedded or the user's own, with the protocol, template and intensities they name."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slant.config import build
from slant.errors import ModelError, OutputError, SettingsError
from slant.io.resources import load_protocol, shipped_protocols
from slant.io.templates import load_intensity_reference, load_template
from slant.labels import LabelProtocol, Region
from slant.nets.inputs import Inputs, InputScaling
from slant.nets.model import Model
from slant.volume import Volume

if TYPE_CHECKING:
    from slant.nets.weights import NetworkFolder

EMBEDDED = Path(__file__).resolve().parents[1] / "weights"
"""Folder of the models that ship with the package."""

TEMPLATE = "mni305"
"""The space that networks are trained in."""


def embedded_models() -> tuple[str, ...]:
    """Names of the models that ship with the package."""
    return tuple(sorted(manifest.parent.name for manifest in EMBEDDED.glob("*/manifest.json")))


def model_folder(name_or_folder: str) -> Path:
    """Folder of an embedded model or of one's own.

    Raises
    ------
    ModelError
        If it is neither.
    """
    if name_or_folder in embedded_models():
        return EMBEDDED / name_or_folder
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    raise ModelError(
        f"there is no model {name_or_folder!r}: wanted one of {', '.join(embedded_models())} "
        "or a folder with a manifest.json"
    )


def describe_models() -> str:
    """What the embedded models are, with the licence of each and its credits."""
    texts = []
    for name in embedded_models():
        manifest = json.loads((EMBEDDED / name / "manifest.json").read_text(encoding="utf-8"))
        card = EMBEDDED / name / "CARD.md"
        tiles = math.prod(manifest["layout"]["counts"])
        heading = f"{name}: {tiles} tile{'s' if tiles > 1 else ''}, licence of the weights: {manifest['licence']}"
        texts.append(f"{heading}\n\n{card.read_text(encoding='utf-8').strip() if card.is_file() else ''}".strip())
    return "\n\n".join(texts)


def load_inputs(scaling: InputScaling | None = None) -> Inputs:
    """The inputs of networks trained in MNI305 with the shipped intensity reference."""
    return Inputs(load_template(), load_intensity_reference(), scaling or InputScaling())


def load_model(name_or_folder: str = "slant27") -> Model:
    """A model ready to label scans.

    Parameters
    ----------
    name_or_folder : str
        An embedded model's name, or a folder made by `slant train`.

    Raises
    ------
    ModelError
        If it is not there, damaged, or made for another protocol or template.
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
        raise ModelError(f"{folder} was trained in the template {template!r}, wanted {TEMPLATE!r}")
    _check_protocol(folder, networks, protocol, trained_ids)
    inputs = load_inputs(scaling)
    if inputs.template.grid.shape != networks.layout.shape:
        raise ModelError(
            f"{folder}: the tiles cover {networks.layout.shape} voxels, the template has {inputs.template.grid.shape}"
        )
    if networks.groupwise is not None:
        image, votes = networks.groupwise
        identity = str(manifest["files"][GROUPWISE])
        groupwise = GroupwiseTemplate(Volume(image, inputs.template.image.grid), votes, identity)
        inputs = replace(inputs, groupwise=groupwise)
    return Model(name, protocol, inputs, networks)


def _protocol(entry: dict[str, Any]) -> LabelProtocol:
    """The protocol that a manifest names or, if it does not ship with the package, describes."""
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
    here = protocol.ids.tolist()
    if trained != here:
        differing = sorted(set(trained) ^ set(here)) or "only their order"
        raise ModelError(
            f"{folder} was trained for other ids than the protocol {protocol.name!r} has here; differing: {differing}"
        )
    if networks.settings.outputs != len(protocol):
        raise ModelError(f"{folder}: {networks.settings.outputs} outputs for {len(protocol)} channels of the protocol")


def manifest_of(
    name: str,
    networks: dict[str, Any],
    protocol: LabelProtocol,
    training: dict[str, Any],
    licence: str,
    scaling: InputScaling | None = None,
) -> dict[str, Any]:
    """The manifest of a new model, without the hashes of its files.

    Parameters
    ----------
    name : str
    networks : dict
        ``layout`` and ``settings`` as plain values, and the ``kind`` if it is not compact.
    protocol : LabelProtocol
    training : dict
        Where the weights come from: data, people, steps, seeds, code version.
    licence : str
        Of the weights.
    scaling : InputScaling, optional
    """
    return {
        "name": name,
        "licence": licence,
        "layout": networks["layout"],
        "protocol": _protocol_entry(protocol),
        "template": TEMPLATE,
        "network": {"kind": networks.get("kind", "compact"), "settings": networks["settings"]},
        "input": (scaling or InputScaling()).as_dict(),
        "training": training,
    }


def import_original(
    folder: Path, out: Path, *, name: str, tiles: Literal[27, 8], epoch: int, precision: Literal["float32", "float16"]
) -> None:
    """Make a model of the published checkpoints of the original SLANT, one tile in memory at a time.

    Parameters
    ----------
    folder : Path
        The original's ``model_dir``, see `slant.nets.original`.
    out : Path
        Folder of the model; must not exist or be empty.
    name : str
        Of the model.
    tiles : {27, 8}
    epoch : int
        Which checkpoints to take.
    precision : {"float32", "float16"}
        What is stored.

    Raises
    ------
    ModelError
        If tiles are missing or a checkpoint is not the original network's.
    OutputError
        If there is something at ``out``.
    """
    from slant.nets import original
    from slant.nets.weights import write_shards

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} is there already; give a folder that is empty or not there yet")
    paths = original.find_checkpoints(folder, tiles, epoch)
    layout = original.LAYOUTS[tiles]
    plain = {
        "layout": layout.plain,
        "kind": original.KIND,
        "settings": original.SETTINGS.as_dict(),
    }
    training = {
        "source": "MASILab/SLANTbrainSeg, imported",
        "epoch": epoch,
        "citation": "Huo et al. 2019, NeuroImage 194, 105-119",
    }
    licence = "see MASILab/SLANTbrainSeg"
    manifest = manifest_of(name, plain, load_protocol("braincolor"), training, licence, original.SCALING)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as partial:
        write_shards(Path(partial, "model"), original.read_checkpoints(paths), manifest, precision)
        Path(partial, "model").replace(out)
