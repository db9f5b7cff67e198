"""A `Model` combines networks with everything that was fixed when they were trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from slant.errors import ModelError, SettingsError
from slant.nets.cascade import Cascade
from slant.nets.earlier import prior_at
from slant.nets.mirroring import Mirroring
from slant.nets.predict import Predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slant.labels import LabelProtocol
    from slant.nets.assembly import Assembly
    from slant.nets.groupwise import Deformation
    from slant.nets.inputs import Inputs
    from slant.nets.weights import NetworkFolder


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
    def assemblies(self) -> tuple[Assembly, ...]:
        """The assemblies of the cascade, in the order in which they run."""
        return self.networks.assemblies

    @property
    def one_vote(self) -> bool:
        """Whether each voxel has the vote of only one tile."""
        first = self.assemblies[0].layout
        return len(self.assemblies) == 1 and (len(first) == 1 or first.overlap == "core")

    @property
    def licence(self) -> str:
        """Licence of the weights."""
        return str(self.networks.manifest["licence"])

    def check_mirror(self) -> None:
        """Check that every tile can label both a scan and its mirror image.

        Raises
        ------
        SettingsError
            If the manifest does not say that the networks label mirror images, or a tile and its mirror image share a
            network: each then labels one side of the brain only, and the mirror image gives the same labels once more.
        """
        for assembly in self.assemblies:
            of_model = f"the model {self.name}" + (f", assembly {assembly.name}" if assembly.name else "")
            if assembly.mirror is None:
                raise SettingsError(
                    '--mirror needs networks that label mirror images (mirror = "alternate"), found none in '
                    f"{of_model}; leave --mirror out, use slant27 or whole, or train a model with left-right flips "
                    '([augment] flip_probability) and mirror = "alternate"'
                )
            if assembly.mirror == "shared":
                raise SettingsError(
                    f'--mirror adds nothing to {of_model}, which has mirror = "shared": a network labels one side of '
                    "the brain, and the other side as mirror image already; leave --mirror out"
                )

    def cascade(
        self,
        image: NDArray[np.float32],
        deformation: Deformation | None = None,
        dtype: torch.dtype = torch.float32,
        *,
        mirror: bool = False,
    ) -> Cascade:
        """The assemblies, ready to label one scan.

        Parameters
        ----------
        image : (X, Y, Z) float32 array
            Scan in template space, 0 outside the brain.
        deformation : Deformation, optional
            Registration of the scan to the groupwise template of the model; if it is not accepted, the prior is affine.
        dtype : torch.dtype
            See `slant.nets.predict.Predictor`.
        mirror : bool
            Whether every tile labels both the scan and its mirror image.

        Raises
        ------
        ModelError
            If the scan was not registered to the groupwise template of this model.
        SettingsError
            If every tile is to label the mirror image and cannot, see `check_mirror`.
        """
        if mirror:
            self.check_mirror()
        networks, groupwise = self.networks, self.inputs.groupwise
        expected = None if groupwise is None else groupwise.identity
        found = None if deformation is None else deformation.template
        if expected != found:
            raise ModelError(
                f"the scan was prepared for another model than {self.name}: it was registered to "
                f"{_template_name(found)}, expected {_template_name(expected)}; prepare it with the inputs of this "
                "model"
            )
        prior, displacement = networks.prior, None
        if groupwise is not None and deformation is not None and deformation.accepted:
            displacement = deformation.displacement.astype(np.float32)
            prior = groupwise.prior_at(displacement, image > 0)
        sides = self.protocol.mirrored_channels, self.inputs.template.mirror_x
        predictors = tuple(
            Predictor(
                assembly.layout,
                None if prior is None else prior_at(prior, assembly.resolution_mm),
                partial(networks.network, position=position),
                self.inputs.scaling,
                displacement,
                None if assembly.mirror is None else Mirroring(*sides, "both" if mirror else assembly.mirror),
                dtype,
                assembly.resolution_mm,
            )
            for position, assembly in enumerate(networks.assemblies)
        )
        return Cascade(networks.assemblies, predictors)


def _template_name(template: str | None) -> str:
    return (
        "no groupwise template" if template is None else f"the groupwise template {template[:12] or 'without a file'}"
    )
