"""Architectures of networks, one file each. A new file is a new architecture, see `Architecture`."""

from __future__ import annotations

from shearbench.networks.base import Architecture
from shearbench.options import discover


def architecture_kinds() -> dict[str, type[Architecture]]:
    """Return all architectures of this package, keyed by their kind."""
    return discover(__name__, Architecture)
