"""Torch modules that architectures are built of."""
