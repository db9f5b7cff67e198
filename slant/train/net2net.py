"""Net2Net widening: initializes a network with the weights of a narrower one (Chen et al. 2016).

The wider network starts with exactly the function of the narrow one. The new channels have random weights, and no
existing channel reads them yet; training then makes use of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from slant.nets.unet import CompactUNet

if TYPE_CHECKING:
    from torch import Tensor

    from slant.nets.network import Network


def net2net_widening(weights: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    """Expand the weights of a narrower network of the same kind to the shapes of this network.

    Parameters
    ----------
    weights : dict of Tensor
        Weights of the narrower network.
    network : Network
        The wider network with random weights, in float32 on the CPU. Its new channels keep these weights.

    Returns
    -------
    dict of Tensor
        The unchanged ``weights`` if no tensor is wider, or if this network is not a `CompactUNet` with the same tensors
        and at least as many channels everywhere; loading them then reports what does not fit.
    """
    own = network.state_dict()
    if not isinstance(network, CompactUNet) or set(own) != set(weights) or not _wider(own, weights):
        return weights
    out = {}
    for name, fresh in own.items():
        old = weights[name]
        inputs = torch.arange(old.shape[1] if old.ndim > 1 else 0)
        if name == "mix.weight":  # its inputs are the channels upsampled from 2 mm, then those of the image
            upsampled = weights["unfold.weight"].shape[0] // 8
            inputs = inputs + (inputs >= upsampled) * (network.settings.upsampled - upsampled)
        out[name] = _expanded(fresh, old, inputs)
    return out


def _wider(own: dict[str, Tensor], weights: dict[str, Tensor]) -> bool:
    pairs = [(own[name].shape, weights[name].shape) for name in own]
    return all(
        len(new) == len(old) and new[2:] == old[2:] and all(a >= b for a, b in zip(new, old, strict=True))
        for new, old in pairs
    ) and any(new != old for new, old in pairs)


def _expanded(fresh: Tensor, old: Tensor, inputs: Tensor) -> Tensor:
    """The fresh tensor with the old one at the given inputs; the weights from new inputs to old outputs are 0."""
    out, rows = fresh.clone(), old.shape[0]
    if old.ndim == 1:
        out[:rows] = old
        return out
    out[:rows] = 0
    out[:rows, inputs] = old.to(out)
    return out
