"""Comparison of estimates with true shapes and bounds; all functions read and return tables."""
