"""The built-in fits of PSF-convolved Gaussian mixtures: maximum likelihood, many stamps at a time."""
