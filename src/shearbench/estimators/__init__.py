"""Shear estimators other than networks: one file each, found by `shearbench.options.discover`."""
