"""Training of networks for any task: recipe, loop, optimisers, checkpoints, several processes."""
