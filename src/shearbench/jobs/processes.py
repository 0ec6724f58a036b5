"""Helper processes, which end together with the process that they help."""

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

_LOOK = 0.2  # seconds between two checks of the other process


def end_with(process: int, folder: str | os.PathLike[str] | None = None) -> None:
    """End this process as soon as another process has ended, even if that was killed.

    Parameters
    ----------
    process : int
        Number of the other process.
    folder : path-like, optional
        Folder of the other's temporary files, which is removed when it has ended.
    """

    def wait() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            other = psutil.Process(process)
            # An ended process is a zombie until its parent asks for its status, which may never happen.
            while other.is_running() and other.status() != psutil.STATUS_ZOMBIE:
                time.sleep(_LOOK)
        if folder is not None:
            shutil.rmtree(Path(folder), ignore_errors=True)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Make the processes started in the block ignore Ctrl-C, which a terminal sends to all its processes.

    The process that started them receives the interrupt, at the earliest after the block, and ends them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
