"""The loss of region segmentation: cross-entropy plus soft Dice over the regions that occur."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def region_loss(logits: Tensor, channels: Tensor, dice_weight: float = 1.0) -> Tensor:
    """Mean cross-entropy plus one minus the mean soft Dice (Milletari et al. 2016) of the channels present.

    Parameters
    ----------
    logits : (N, C) float tensor
    channels : (N,) int64 tensor
        True channel of each sampled voxel.
    dice_weight : float
        Weight of the Dice part.
    """
    logits = logits.float()
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
