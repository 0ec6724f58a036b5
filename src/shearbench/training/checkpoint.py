"""Checkpoints of trainings: files that are never half written, and that only the same training can load."""

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
    """The file with the state of a training.

    Parameters
    ----------
    path : path-like or None
        It must not be among the outputs that a workflow deletes before each attempt. With None, nothing is
        saved.
    identity : dict
        Plain values that identify the training. A state is loaded only if its identity is equal.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.identity = identity

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file by this state."""
        if self.path is not None:
            save(self.path, {"identity": self.identity, "state": state})

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Return the state with its tensors on a device, or None if there is none.

        A file that cannot be used (damaged, or of another training) gives a warning and None.

        Raises
        ------
        OSError
            The file exists and cannot be read.
        """
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
            cause = f"it belongs to another training (different {', '.join(other)})"
        warnings.warn(f"checkpoint {self.path} is not used: {cause}; training starts anew", stacklevel=2)
        return None

    def step(self) -> int | None:
        """Return the number of steps that the training has made, or None if it has ended."""
        state = self.load(torch.device("cpu"))
        if state is None:
            return 0
        return None if state["ended"] else state["step"]


@contextlib.contextmanager
def claimed(own: Checkpoint, others: Mapping[int, Checkpoint], most: int) -> Iterator[list[int]]:
    """Reserve trainings for this process inside the block, so that no other process works on them.

    If another process is training `own`, wait until it has ended. A reservation is a lock on a file beside
    the checkpoint; the operating system removes it when the process ends.

    Parameters
    ----------
    own : Checkpoint
        The checkpoint of this training. It is always reserved.
    others : mapping of int to Checkpoint
        Checkpoints of further trainings that could be computed together with it, by their seeds.
    most : int
        How many of the others to reserve at most.

    Yields
    ------
    list of int
        The seeds of the others that are reserved: the first ones that no other process has reserved and that
        have made the same number of steps.
    """
    with contextlib.ExitStack() as held:
        taken: list[int] = []
        if own.path is not None:
            file = held.enter_context(_lock_file(own.path))
            if not lock(file):
                print("another job is training this seed together with its own; waiting", file=sys.stderr)
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
    """Write a torch file, completely or not at all; equal content gives equal bytes."""
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
    """Read a file that `save` wrote.

    Parameters
    ----------
    path : path-like
    rule : str
        Name of the rule that makes the file, for errors.
    expected : Origin, optional
        The origin that the file must have.
    device : torch.device or str
        Device of the tensors.

    Raises
    ------
    ContractError
        The file is damaged or changed, has another origin, or would take more memory than its size.
    OSError
        The file cannot be read.
    """
    data = read_sealed(path, rule, expected)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > len(data):  # torch compresses nothing
        raise ContractError.of(path, "size", f"{size} bytes once read", f"at most {len(data)}", rule)
    return torch.load(io.BytesIO(data), map_location=device, weights_only=True)


def check_format(content: Any, wanted: str, path: str | os.PathLike[str], rule: str) -> None:
    """Check that the content of a model file has a format.

    Raises
    ------
    ContractError
        It is of another format, or no mapping.
    """
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found != wanted:
        raise ContractError.of(path, "format", repr(found), repr(wanted), rule)
