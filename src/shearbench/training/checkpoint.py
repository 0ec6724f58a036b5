"""Checkpoints: whole or not at all, and of this training or none."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from shearbench.files import atomic


class Checkpoint:
    """A file that keeps the state of a training.

    Parameters
    ----------
    path : path-like or None
        Outside the outputs that a workflow clears before each attempt; None keeps nothing.
    identity : dict
        Plain values that name the training: a state is only taken up by the training that left it.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.identity = identity

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file."""
        if self.path is not None:
            save(self.path, {"identity": self.identity, "state": state})

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Return the state, or None where there is none to go on from; a warning says why."""
        if self.path is None or not self.path.exists():
            return None
        try:
            content = torch.load(self.path, map_location=device, weights_only=True)
            identity, state = content["identity"], content["state"]
        except Exception as error:  # torch raises whatever its zip and pickle readers raise
            cause = f"it cannot be read ({type(error).__name__})"
        else:
            if identity == self.identity:
                return state
            other = sorted(k for k in self.identity if identity.get(k) != self.identity[k])
            cause = f"it is of another training (other {', '.join(other)})"
        warnings.warn(f"checkpoint {self.path} is not used: {cause}; training starts anew", stacklevel=2)
        return None


def save(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write a torch file whole or not at all; equal content gives equal bytes."""
    # Through a handle: given a path, torch writes the (temporary) file name into the archive.
    with atomic(path) as temporary, open(temporary, "wb") as handle:
        torch.save(content, handle)
