"""Net2Net: a larger network starts with the function of a smaller one (Chen et al. 2016)."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor

from slant.nets.network import Network
from slant.nets.unet import CompactUNet, ResidualUNet

NEW_PARTS = ("refine.", "embedding.")
"""Parts of a `CompactUNet` that a smaller one may lack; their fresh weights do not change its function."""

FIRST_LAYERS = ("encoders.0.0.0.weight", "encoders.0.first.0.weight", "encoders.0.shortcut.weight")
"""Tensors of both kinds of encoders that read the blocks of the image, the coordinates and the earlier result."""


def net2net_growth(weights: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    """The weights of a smaller network, expanded to those of this one.

    A wider network, or one that sees an earlier result in addition, starts with exactly the function of the smaller
    one: new channels have random weights, and no existing channel reads them yet. A deeper one starts almost with it,
    see `slant.nets.layers.RefinementBlock`. A network of ``stem=1`` takes the weights of one of ``stem=2``, to work at
    the voxel size of its blocks: features of the backbone are the same for an image that is constant in every block.

    Parameters
    ----------
    network : Network
        The larger network with random weights, in float32 on the CPU. Its new channels and layers keep these weights.

    Returns
    -------
    dict of Tensor
        The unchanged ``weights`` if this network is not larger, or is not a network of the kind compact or residual
        with at least the same tensors and as many channels everywhere; loading them then reports what does not fit.
    """
    if not _can_grow(network):
        return weights
    own = network.state_dict()
    old = {name: tensor for name, tensor in own.items() if name.startswith(NEW_PARTS)} | weights
    if set(own) != set(old):
        return weights
    if network.settings.stem == 1 and _block(old) == 8:
        old = _without_blocks(old)
    if _block(old) != network.settings.stem**3 or not all(_fits(name, old[name], own[name]) for name in own):
        return weights
    return {name: _expanded(fresh, old[name], _inputs(name, old, network)) for name, fresh in own.items()}


def _can_grow(network: Network) -> TypeGuard[CompactUNet]:
    """Whether a network is of the kind compact or residual, without an encoder of chosen depth."""
    if type(network) is ResidualUNet:
        return network.settings.encoder is None
    return type(network) is CompactUNet


def _block(weights: dict[str, Tensor]) -> int:
    """Number of voxels in a block of the network with these weights, from the outputs of ``unfold``."""
    return weights["unfold.weight"].shape[0] // _upsampled(weights)


def _upsampled(weights: dict[str, Tensor]) -> int:
    """Number of channels after depth-to-space: those inputs of ``mix`` that do not come from ``detail``."""
    return weights["mix.weight"].shape[1] - weights["detail.weight"].shape[0]


def _without_blocks(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights for single voxels instead of blocks of 2 x 2 x 2 voxels with the same intensity."""
    out = dict(weights)
    for name in set(FIRST_LAYERS) & set(weights):
        tensor = weights[name].float()
        out[name] = torch.cat([tensor[:, :8].sum(dim=1, keepdim=True), tensor[:, 8:]], dim=1)
    for name in ("unfold.weight", "unfold.bias"):
        tensor = weights[name].float()
        out[name] = tensor.reshape(-1, 8, *tensor.shape[1:]).mean(dim=1)
    return out


def _fits(name: str, old: Tensor, new: Tensor) -> bool:
    """Whether a tensor has no more outputs and inputs than the new one, and the same kernel and logits."""
    if old.ndim != new.ndim or old.shape[2:] != new.shape[2:]:
        return False
    if name.startswith("head") and old.shape[0] != new.shape[0]:  # logits of another protocol
        return False
    return all(a <= b for a, b in zip(old.shape, new.shape, strict=True))


def _inputs(name: str, weights: dict[str, Tensor], network: CompactUNet) -> Tensor:
    """Positions of the existing inputs of a layer among those of the larger network."""
    tensor = weights[name]
    inputs = torch.arange(tensor.shape[1] if tensor.ndim > 1 else 0)
    if name == "mix.weight":  # its inputs are the upsampled channels, then those of the image
        upsampled = _upsampled(weights)
        inputs = inputs + (inputs >= upsampled) * (network.settings.upsampled - upsampled)
    return inputs


def _expanded(fresh: Tensor, old: Tensor, inputs: Tensor) -> Tensor:
    """The fresh tensor with the old one at the given inputs; the weights from new inputs to old outputs are 0."""
    out, rows = fresh.clone(), old.shape[0]
    if old.ndim == 1:
        out[:rows] = old
        return out
    out[:rows] = 0
    out[:rows, inputs] = old.to(out)
    return out
