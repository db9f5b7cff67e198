"""Quality control of finished segmentations: metrics, a grade, and the expected Dice of every region."""
