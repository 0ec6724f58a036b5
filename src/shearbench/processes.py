"""Processes that help another and end with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil


def end_with(process: int, folder: str | os.PathLike[str] | None = None) -> None:
    """End this process as soon as another has ended, however that ended.

    Parameters
    ----------
    process : int
        The other's number.
    folder : path-like, optional
        Removed then: the other's temporary files.
    """

    def wait() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(process).wait()
        if folder is not None:
            shutil.rmtree(Path(folder), ignore_errors=True)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Let processes that are started in the block ignore Ctrl-C, which reaches all processes of a terminal.

    The one who started them is interrupted, after the block at the earliest, and ends them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
