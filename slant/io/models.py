"""Finds models, embedded or the user's own, with the protocol, template and intensities they name."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slant.errors import ModelError
from slant.io.resources import load_protocol
from slant.io.templates import load_intensity_reference, load_template
from slant.nets.model import Inputs, InputScaling, Model

if TYPE_CHECKING:
    from slant.labels import LabelProtocol
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
        heading = f"{name}: {tiles} tiles, licence of the weights: {manifest['licence']}"
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
    from slant.nets.weights import read_model

    folder = model_folder(name_or_folder)
    networks = read_model(folder)
    manifest = networks.manifest
    try:
        name, template = str(manifest["name"]), str(manifest["template"])
        protocol_name, trained_ids = str(manifest["protocol"]["name"]), list(manifest["protocol"]["ids"])
        scaling = InputScaling(**manifest["input"])
    except (KeyError, TypeError) as error:
        raise ModelError(f"the manifest of {folder} cannot be used: {error!r}; install or export it again") from error
    if template != TEMPLATE:
        raise ModelError(f"{folder} was trained in the template {template!r}, wanted {TEMPLATE!r}")
    protocol = load_protocol(protocol_name)
    _check_protocol(folder, networks, protocol, trained_ids)
    inputs = load_inputs(scaling)
    if inputs.template.grid.shape != networks.layout.shape:
        raise ModelError(
            f"{folder}: the tiles cover {networks.layout.shape} voxels, the template has {inputs.template.grid.shape}"
        )
    return Model(name, protocol, inputs, networks)


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
    name: str, networks: dict[str, Any], protocol: LabelProtocol, training: dict[str, Any], licence: str
) -> dict[str, Any]:
    """The manifest of a new model, without the hashes of its files.

    Parameters
    ----------
    name : str
    networks : dict
        ``layout`` and ``settings`` as plain values.
    protocol : LabelProtocol
    training : dict
        Where the weights come from: data, people, steps, seeds, code version.
    licence : str
        Of the weights.
    """
    return {
        "name": name,
        "licence": licence,
        "layout": networks["layout"],
        "protocol": {"name": protocol.name, "ids": protocol.ids.tolist()},
        "template": TEMPLATE,
        "network": {"kind": "compact", "settings": networks["settings"]},
        "input": dataclasses.asdict(InputScaling()),
        "training": training,
    }
