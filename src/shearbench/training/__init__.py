"""Training of networks: recipe, data, loop, checkpoints, prediction."""
