"""Maximum-likelihood fits of PSF-convolved Gaussian mixtures, many stamps at a time."""
