"""Training networks: recipes, one epoch after another, checkpoints, weights."""
