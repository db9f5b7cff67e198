"""A `Model` is everything that was fixed when its networks were trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slant.errors import ModelError
from slant.nets.inputs import Inputs, InputScaling
from slant.nets.predict import Mirroring, Predictor

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

    @property
    def mirroring(self) -> Mirroring | None:
        """How every second tile labels the mirror image of a scan, if the manifest says so."""
        if not self.networks.manifest.get("mirror", False):
            return None
        return Mirroring(self.protocol.mirrored_channels, self.inputs.template.mirror_x)

    def predictor(self, image: NDArray[np.float32], deformation: Deformation | None = None) -> Predictor:
        """What runs the networks on one scan.

        Parameters
        ----------
        image : (X, Y, Z) float32 array
            The scan in template space, 0 outside the brain.
        deformation : Deformation, optional
            Its registration with the model's groupwise template; if that was not accepted, the prior is affine.

        Raises
        ------
        ModelError
            If the scan was not registered with this model's groupwise template.
        """
        networks, scaling, groupwise = self.networks, self.inputs.scaling, self.inputs.groupwise
        wanted = None if groupwise is None else groupwise.identity
        found = None if deformation is None else deformation.template
        if wanted != found:
            raise ModelError(
                f"the scan was prepared for another model than {self.name}: it was registered with "
                f"{_named(found)}, wanted {_named(wanted)}; prepare it with the inputs of this model"
            )
        mirroring = self.mirroring
        if groupwise is None or deformation is None or not deformation.accepted:
            return Predictor(networks.layout, networks.prior, networks.network, scaling, mirroring=mirroring)
        displacement = deformation.displacement.astype(np.float32)
        prior = groupwise.prior_at(displacement, image > 0)
        return Predictor(networks.layout, prior, networks.network, scaling, displacement, mirroring)


def _named(template: str | None) -> str:
    return (
        "no groupwise template" if template is None else f"the groupwise template {template[:12] or 'without a file'}"
    )
