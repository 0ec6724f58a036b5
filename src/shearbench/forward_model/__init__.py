"""Images of galaxies from their parameters: batched, differentiable, on CPU and GPU."""
