"""Torch modules from which the architectures are built."""
