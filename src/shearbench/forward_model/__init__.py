"""The forward model: images of galaxies and their derivatives from parameters, in batches, on CPU and GPU."""
