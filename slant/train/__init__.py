"""Training: preparing labelled scans, augmentation, the loop, and export."""
