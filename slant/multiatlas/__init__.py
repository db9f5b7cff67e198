"""Multi-atlas segmentation: pairwise registration of atlases to targets, and label fusion."""
