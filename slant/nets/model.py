"""A `Model` combines networks with everything that was fixed when they were trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slant.errors import ModelError
from slant.nets.predict import Mirroring, Predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slant.labels import LabelProtocol
    from slant.nets.groupwise import Deformation
    from slant.nets.inputs import Inputs
    from slant.nets.weights import NetworkFolder
    from slant.tiles import TileLayout


@dataclass(frozen=True, eq=False)
class Model:
    """Networks with the inputs and the label protocol (regions of the output channels) for which they were trained."""

    name: str
    protocol: LabelProtocol
    inputs: Inputs
    networks: NetworkFolder

    @property
    def identity(self) -> str:
        """SHA-256 of the manifest, which contains the hashes of the weights."""
        return self.networks.identity

    @property
    def layout(self) -> TileLayout:
        """Tile layout of the networks."""
        return self.networks.layout

    @property
    def licence(self) -> str:
        """Licence of the weights."""
        return str(self.networks.manifest["licence"])

    @property
    def mirroring(self) -> Mirroring | None:
        """Parameters of mirroring, if every second tile labels the mirror image of a scan; otherwise None."""
        if not self.networks.manifest.get("mirror", False):
            return None
        return Mirroring(self.protocol.mirrored_channels, self.inputs.template.mirror_x)

    def predictor(self, image: NDArray[np.float32], deformation: Deformation | None = None) -> Predictor:
        """A predictor that runs the networks on one scan.

        Parameters
        ----------
        image : (X, Y, Z) float32 array
            Scan in template space, 0 outside the brain.
        deformation : Deformation, optional
            Registration of the scan to the groupwise template of the model; if it is not accepted, the prior is affine.

        Raises
        ------
        ModelError
            If the scan was not registered to the groupwise template of this model.
        """
        networks, scaling, groupwise = self.networks, self.inputs.scaling, self.inputs.groupwise
        expected = None if groupwise is None else groupwise.identity
        found = None if deformation is None else deformation.template
        if expected != found:
            raise ModelError(
                f"the scan was prepared for another model than {self.name}: it was registered to "
                f"{_template_name(found)}, expected {_template_name(expected)}; prepare it with the inputs of this "
                "model"
            )
        mirroring = self.mirroring
        if groupwise is None or deformation is None or not deformation.accepted:
            return Predictor(networks.layout, networks.prior, networks.network, scaling, mirroring=mirroring)
        displacement = deformation.displacement.astype(np.float32)
        prior = groupwise.prior_at(displacement, image > 0)
        return Predictor(networks.layout, prior, networks.network, scaling, displacement, mirroring)


def _template_name(template: str | None) -> str:
    return (
        "no groupwise template" if template is None else f"the groupwise template {template[:12] or 'without a file'}"
    )
