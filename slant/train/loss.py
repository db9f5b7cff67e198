"""What training makes small: cross-entropy plus soft Dice over the regions that occur."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from slant.errors import SettingsError

IGNORED = 255
"""Channel of voxels that nobody has labelled."""


@dataclass(frozen=True)
class LossSettings:
    """Which loss is made small.

    Attributes
    ----------
    kind : {"regions", "slant2018"}
        See `region_loss` and `slant2018_loss`.
    dice : float
        Weight of the Dice part of ``regions``.
    tasks : float
        Weight of what is learned beside the regions.
    """

    kind: Literal["regions", "slant2018"] = "regions"
    dice: float = 1.0
    tasks: float = 0.2

    def __post_init__(self) -> None:
        for name in ("dice", "tasks"):
            if getattr(self, name) < 0:
                raise SettingsError(f"[loss] {name} must be at least 0, found {getattr(self, name)}")

    def __call__(self, logits: Tensor, channels: Tensor) -> Tensor:
        """Loss of (N, C) logits for (N,) true channels."""
        if self.kind == "slant2018":
            return slant2018_loss(logits, channels)
        return region_loss(logits, channels, self.dice)


def region_loss(logits: Tensor, channels: Tensor, dice_weight: float = 1.0) -> Tensor:
    """Mean cross-entropy plus one minus the mean soft Dice (Milletari et al. 2016) of the channels present.

    Parameters
    ----------
    logits : (N, C) float tensor
    channels : (N,) int64 tensor
        True channel of each sampled voxel; with none at all the loss is 0.
    dice_weight : float
        Weight of the Dice part.
    """
    logits = logits.float()
    if not len(channels):
        return logits.sum()
    log_share = functional.log_softmax(logits, dim=1)
    cross_entropy = functional.nll_loss(log_share, channels)
    share = log_share.exp()
    count = logits.shape[1]
    present = torch.bincount(channels, minlength=count).float()
    right = share.gather(1, channels[:, None])[:, 0]
    overlap = torch.zeros(count, device=logits.device).index_add(0, channels, right)
    dice = 2 * overlap / (share.sum(dim=0) + present).clamp(min=1e-6)
    found = present > 0
    return cross_entropy + dice_weight * (1 - dice[found].mean())


def slant2018_loss(logits: Tensor, channels: Tensor) -> Tensor:
    """The loss of the original: soft Dice with squared denominators of ``softmax(100 * logits)``, all channels.

    Huo et al. 2019 and their released code; a channel that neither occurs nor is predicted counts as perfect.

    Parameters
    ----------
    logits : (N, C) float tensor
    channels : (N,) int64 tensor
    """
    share = functional.softmax(100 * logits.float(), dim=1)
    count = logits.shape[1]
    right = share.gather(1, channels[:, None])[:, 0]
    overlap = torch.zeros(count, device=logits.device).index_add(0, channels, right)
    present = torch.bincount(channels, minlength=count).float()
    tiny = 1e-6
    return 1 - ((2 * overlap + tiny) / ((share**2).sum(dim=0) + present + tiny)).mean()


def merge_unlabelled(logits: Tensor, covered: Tensor) -> Tensor:
    """(N, C) logits in which channel 0 stands for everything that the labels do not tell apart.

    Labels that cover only some regions call the rest background, so the shares of the background and of all regions
    left out are added (the marginal loss of Shi et al. 2021, Medical Image Analysis 70:101979).

    Parameters
    ----------
    logits : (N, C) float tensor
    covered : (C,) bool tensor
        The channels that the labels tell apart; the background is not among them.
    """
    rest = torch.logsumexp(logits.masked_fill(covered, -torch.inf), dim=1)
    out = logits.masked_fill(~covered, -1e4)
    out[:, 0] = rest
    return out
