"""Networks: definitions, weights, and inference over tiles."""
