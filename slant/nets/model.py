"""A `Model` is everything that was fixed when its networks were trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slant.nets.predict import Predictor

if TYPE_CHECKING:
    from slant.intensity import IntensityReference
    from slant.labels import LabelProtocol
    from slant.nets.weights import NetworkFolder
    from slant.template import Template
    from slant.tiles import TileLayout


@dataclass(frozen=True)
class InputScaling:
    """What a harmonized intensity becomes before it enters a network: ``(value + offset) * scale`` in the brain.

    Attributes
    ----------
    offset, scale : float
    floor : float
        Smallest value inside the brain; outside it is 0.
    """

    offset: float = 3.0
    scale: float = 1 / 3
    floor: float = 1e-3

    def __call__(self, harmonized: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.float32]:
        """(X, Y, Z) float32 network input."""
        scaled = np.maximum((harmonized + np.float32(self.offset)) * np.float32(self.scale), np.float32(self.floor))
        return np.where(brain, scaled, np.float32(0))


@dataclass(frozen=True, eq=False)
class Inputs:
    """How a scan must look when it enters the networks.

    Attributes
    ----------
    template : Template
        The space and grid they see.
    reference : IntensityReference
        The intensities they expect.
    scaling : InputScaling
    """

    template: Template
    reference: IntensityReference
    scaling: InputScaling


@dataclass(frozen=True, eq=False)
class Model:
    """Networks with the inputs and the label protocol they were trained for.

    Attributes
    ----------
    name : str
    protocol : LabelProtocol
        Which region each output channel is.
    inputs : Inputs
    networks : NetworkFolder
        Layout, prior and weights.
    """

    name: str
    protocol: LabelProtocol
    inputs: Inputs
    networks: NetworkFolder

    @property
    def identity(self) -> str:
        """SHA-256 of the manifest, which holds the hashes of the weights."""
        return self.networks.identity

    @property
    def layout(self) -> TileLayout:
        """The tiles."""
        return self.networks.layout

    @property
    def licence(self) -> str:
        """Licence of the weights."""
        return str(self.networks.manifest["licence"])

    @property
    def predictor(self) -> Predictor:
        """What runs the networks."""
        return Predictor(self.networks.layout, self.networks.prior, self.networks.network)
