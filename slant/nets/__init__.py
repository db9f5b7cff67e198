"""Networks: their definition, their weights, and running them over tiles."""
