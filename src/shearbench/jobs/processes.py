"""Processes that help another and end with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

_LOOK = 0.2  # seconds between two looks at the other process


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
            other = psutil.Process(process)
            # One that has ended is a zombie until its parent has asked for its status, which may never be.
            while other.is_running() and other.status() != psutil.STATUS_ZOMBIE:
                time.sleep(_LOOK)
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
