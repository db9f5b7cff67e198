"""A `Model` is everything that was fixed when its networks were trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slant.nets.inputs import Inputs, InputScaling
from slant.nets.predict import Predictor

if TYPE_CHECKING:
    from slant.labels import LabelProtocol
    from slant.nets.weights import NetworkFolder
    from slant.tiles import TileLayout

__all__ = ["InputScaling", "Inputs", "Model"]


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
        return Predictor(self.networks.layout, self.networks.prior, self.networks.network, self.inputs.scaling)
