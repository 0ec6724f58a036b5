"""shearbench: a reproducible benchmark of weak-lensing shear estimators."""

__version__ = "0.1.0"
