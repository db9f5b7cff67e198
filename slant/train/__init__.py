"""Training: preparation of labelled scans, augmentation, training loop, evaluation and export."""

from slant.extras import require_extra

require_extra("train", "tensorboardX")
