"""Studies: many runs of one plan, over seeds and a grid of choices."""
