"""Training losses: cross-entropy plus soft Dice over the regions that are present."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from slant.errors import SettingsError

IGNORED = 255
"""Channel of voxels that nobody has labelled; the loss ignores them."""


@dataclass(frozen=True)
class LossSettings:
    """Choice and weights of the training loss.

    Attributes
    ----------
    kind : {"regions", "slant2018"}
        See `region_loss` and `slant2018_loss`.
    dice_weight : float
        Weight of the Dice part of the loss ``regions``.
    dice_bias : float
        Bias of this part towards small regions, see `region_loss`.
    task_weight : float
        Weight of the additional tasks, see `slant.train.settings.NetworkChoice`.
    """

    kind: Literal["regions", "slant2018"] = "regions"
    dice_weight: float = 1.0
    dice_bias: float = 0.0
    task_weight: float = 0.2

    def __post_init__(self) -> None:
        for name in ("dice_weight", "dice_bias", "task_weight"):
            if getattr(self, name) < 0:
                raise SettingsError(f"[loss] {name} must be at least 0, found {getattr(self, name)}")
        if self.dice_bias and self.kind != "regions":
            raise SettingsError(
                f"[loss] dice_bias is a setting of kind = 'regions', found kind = {self.kind!r}; remove one of them"
            )

    def __call__(self, logits: Tensor, channels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Loss of (N, C) logits for (N,) reference channels, whose voxels may have (N,) weights."""
        if self.kind == "slant2018":
            return slant2018_loss(logits, channels, weights)
        return region_loss(logits, channels, weights, self.dice_weight, self.dice_bias)


def region_loss(
    logits: Tensor,
    channels: Tensor,
    weights: Tensor | None = None,
    dice_weight: float = 1.0,
    dice_bias: float = 0.0,
) -> Tensor:
    """Mean cross-entropy plus one minus the mean soft Dice (Milletari et al. 2016) of the channels present.

    With ``dice_bias``, this mean is weighted by the sizes of the regions, so that small ones count more. The idea is
    that of the bias-weighted Dice loss of Chen et al. 2019; their formula was not available, so the formula is ours.

    Parameters
    ----------
    logits : (N, C) float tensor
    channels : (N,) int64 tensor
        Reference channel of each sampled voxel; the loss of no voxels is 0.
    weights : (N,) float tensor, optional
        Weight of each voxel in the cross-entropy and in all sums of the Dice (default: 1).
    dice_weight : float
        Weight of the Dice part.
    dice_bias : float
        The Dice of a channel of n voxels has the weight ``n ** -dice_bias``, divided by the sum of these. 0: all
        channels present have the same weight.
    """
    logits = logits.float()
    if not len(channels):
        return logits.sum()
    log_probability = functional.log_softmax(logits, dim=1)
    of_voxels = -log_probability.gather(1, channels[:, None])[:, 0]
    cross_entropy = of_voxels.mean() if weights is None else (weights * of_voxels).sum() / weights.sum()
    overlap, predicted, voxels = _sums(log_probability.exp(), channels, weights)
    dice = 2 * overlap / (predicted + voxels).clamp(min=1e-6)
    importance = torch.where(voxels > 0, voxels.clamp(min=1e-6) ** -dice_bias, 0.0)
    return cross_entropy + dice_weight * (1 - (importance * dice).sum() / importance.sum())


def _sums(probability: Tensor, channels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sums over voxels, (C,) each: probability of the reference, all probabilities, the reference.

    On CUDA the first is added in no fixed order, so its last bits vary.
    """
    reference = probability.gather(1, channels[:, None])[:, 0]
    ones = torch.ones_like(reference) if weights is None else weights
    zeros = torch.zeros(probability.shape[1], device=probability.device)
    overlap = zeros.index_add(0, channels, reference if weights is None else reference * weights)
    predicted = probability.sum(dim=0) if weights is None else weights @ probability
    return overlap, predicted, zeros.index_add(0, channels, ones)


def slant2018_loss(logits: Tensor, channels: Tensor, weights: Tensor | None = None) -> Tensor:
    """The loss of the original SLANT: soft Dice of ``softmax(100 * logits)`` with squared denominators, all channels.

    See Huo et al. 2019 and their released code. A channel that is neither present nor predicted has a Dice of 1.

    Parameters
    ----------
    logits : (N, C) float tensor
    channels : (N,) int64 tensor
        Reference channel of each sampled voxel.
    weights : (N,) float tensor, optional
        Weight of each voxel in all sums (default: 1).
    """
    probability = functional.softmax(100 * logits.float(), dim=1)
    overlap, _, voxels = _sums(probability, channels, weights)
    squares = probability**2
    squared = squares.sum(dim=0) if weights is None else weights @ squares
    epsilon = 1e-6
    return 1 - ((2 * overlap + epsilon) / (squared + voxels + epsilon)).mean()


def merge_unlabelled(logits: Tensor, covered: Tensor) -> Tensor:
    """(N, C) logits in which channel 0 stands for the background and all regions that the labels do not cover.

    Partial labels mark all other regions as background, so the probabilities of the background and of these regions
    are added (the marginal loss of Shi et al. 2021, Medical Image Analysis 70:101979).

    Parameters
    ----------
    logits : (N, C) float tensor
    covered : (C,) bool tensor
        Whether the labels cover each channel; False for the background.
    """
    uncovered = torch.logsumexp(logits.masked_fill(covered, -torch.inf), dim=1)
    out = logits.masked_fill(~covered, -1e4)
    out[:, 0] = uncovered
    return out
