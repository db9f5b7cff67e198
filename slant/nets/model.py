"""A `Model` is everything that was fixed when its networks were trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slant.nets.inputs import Inputs, InputScaling
from slant.nets.predict import Predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slant.labels import LabelProtocol
    from slant.nets.groupwise import Deformation
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

    def predictor(self, image: NDArray[np.float32], deformation: Deformation | None = None) -> Predictor:
        """What runs the networks on one scan.

        Parameters
        ----------
        image : (X, Y, Z) float32 array
            The scan in template space, 0 outside the brain.
        deformation : Deformation, optional
            Its registration with the model's groupwise template; without one that was accepted, the prior is affine.
        """
        networks, scaling, groupwise = self.networks, self.inputs.scaling, self.inputs.groupwise
        if groupwise is None or deformation is None or not deformation.accepted:
            return Predictor(networks.layout, networks.prior, networks.network, scaling)
        displacement = deformation.displacement.astype(np.float32)
        prior = groupwise.prior_at(displacement, image > 0)
        return Predictor(networks.layout, prior, networks.network, scaling, displacement)
