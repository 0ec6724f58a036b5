"""Finished runs and trained networks for interactive use.

``import shearbench as sb; sb.load_run("results/quick").accuracy`` (docs/python.md).
"""
