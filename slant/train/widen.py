"""A network that goes on as a wider one (Net2Net, Chen et al. 2016).

The wider network begins with the very function of the narrow one: channels that are new are computed from random
weights, but nothing that was there before reads them. Training then finds out what they are good for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from slant.nets.unet import CompactUNet

if TYPE_CHECKING:
    from torch import Tensor

    from slant.nets.network import Network


def widened(weights: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    """Weights of a narrower network of the same kind as those of this one.

    Parameters
    ----------
    weights : dict of Tensor
    network : Network
        The wider one, fresh, in float32 on the CPU; where its channels are new, its weights are taken.

    Returns
    -------
    dict of Tensor
        ``weights`` themselves where nothing is wider, or where the two are no `CompactUNet` with the same tensors and
        at least as many channels everywhere; loading those says what does not fit.
    """
    own = network.state_dict()
    if not isinstance(network, CompactUNet) or set(own) != set(weights) or not _wider(own, weights):
        return weights
    out = {}
    for name, fresh in own.items():
        old = weights[name]
        into = torch.arange(old.shape[1] if old.ndim > 1 else 0)
        if name == "mix.weight":  # its inputs are those unfolded from 2 mm, then those of the image
            narrow = weights["unfold.weight"].shape[0] // 8
            into = into + (into >= narrow) * (network.settings.unfolded - narrow)
        out[name] = _grown(fresh, old, into)
    return out


def _wider(own: dict[str, Tensor], weights: dict[str, Tensor]) -> bool:
    pairs = [(own[name].shape, weights[name].shape) for name in own]
    return all(
        len(new) == len(old) and new[2:] == old[2:] and all(a >= b for a, b in zip(new, old, strict=True))
        for new, old in pairs
    ) and any(new != old for new, old in pairs)


def _grown(fresh: Tensor, old: Tensor, into: Tensor) -> Tensor:
    """The fresh tensor with the old one in it, at these inputs; what its outputs would read of new inputs is 0."""
    out, rows = fresh.clone(), old.shape[0]
    if old.ndim == 1:
        out[:rows] = old
        return out
    out[:rows] = 0
    out[:rows, into] = old.to(out)
    return out
