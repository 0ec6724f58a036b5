"""Checkpoints: whole or not at all, and of this training or none."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from shearbench.errors import ContractError
from shearbench.files.origin import Origin
from shearbench.files.text import read_sealed, write_sealed
from shearbench.jobs.locks import lock


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
            content = load(self.path, "train", device=device)
            identity, state = content["identity"], content["state"]
        except OSError:
            raise
        except Exception as error:  # torch raises whatever its zip and pickle readers raise
            cause = f"it cannot be read ({error})"
        else:
            if identity == self.identity:
                return state
            other = sorted(k for k in self.identity if identity.get(k) != self.identity[k])
            cause = f"it is of another training (other {', '.join(other)})"
        warnings.warn(f"checkpoint {self.path} is not used: {cause}; training starts anew", stacklevel=2)
        return None

    def step(self) -> int | None:
        """Return the step that the training is at, or None where it has ended."""
        state = self.load(torch.device("cpu"))
        if state is None:
            return 0
        return None if state["ended"] else state["step"]


@contextlib.contextmanager
def claimed(own: Checkpoint, others: Mapping[int, Checkpoint], most: int) -> Iterator[list[int]]:
    """Keep trainings for this process: no other call has them as long as the block lasts.

    Where another process trains this one among its own, it is waited for. The claims are locks on files
    beside the states, which the kernel drops when the process ends, however it ends.

    Parameters
    ----------
    own : Checkpoint
        Of the training itself.
    others : mapping of int to Checkpoint
        Of trainings that could be trained with it, by their seeds.
    most : int
        How many of them to take.

    Yields
    ------
    list of int
        The seeds of the first that no other process has, and that are at the same step.
    """
    with contextlib.ExitStack() as held:
        taken: list[int] = []
        if own.path is not None:
            file = held.enter_context(_lock_file(own.path))
            if not lock(file):
                print("another job trains this seed together with its own: waiting for it", file=sys.stderr)
                lock(file, wait=True)
            step = own.step() if others else None
            for seed, other in others.items():
                if other.path is None or step is None or len(taken) >= most:
                    break
                file = _lock_file(other.path)
                if lock(file) and other.step() == step:
                    held.enter_context(file)
                    taken.append(seed)
                else:
                    file.close()
        yield taken


def _lock_file(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path.with_name(f"{path.name}.lock"), "ab")


def save(path: str | os.PathLike[str], content: dict[str, Any], origin: Origin | None = None) -> None:
    """Write a torch file whole or not at all; equal content gives equal bytes."""
    # Into memory: given a path, torch writes the (temporary) file name into the archive.
    archive = io.BytesIO()
    torch.save(content, archive)
    write_sealed(path, archive.getvalue(), origin)


def load(
    path: str | os.PathLike[str],
    rule: str,
    expected: Origin | None = None,
    device: torch.device | str = "cpu",
) -> Any:
    """Read what `save` wrote.

    Parameters
    ----------
    path : path-like
    rule : str
        The rule that makes the file, named in errors.
    expected : Origin, optional
        What the file must be.
    device : torch.device or str
        Where tensors are put.

    Raises
    ------
    ContractError
        It is not as it was written, of another origin, or would take more memory than its size.
    OSError
        It cannot be read.
    """
    data = read_sealed(path, rule, expected)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > len(data):  # torch compresses nothing
        raise ContractError.of(path, "size", f"{size} bytes once read", f"at most {len(data)}", rule)
    return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
