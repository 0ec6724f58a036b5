"""SIGTERM and Ctrl-C: noted, so that the state can be saved before the process ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Terminated(SystemExit):
    """SIGTERM or Ctrl-C came, and the state is saved; the process ends with status 143 or 130.

    Parameters
    ----------
    signum : int
        The signal.
    """

    def __init__(self, signum: int = signal.SIGTERM) -> None:
        super().__init__(128 + signum)


class Termination(threading.Event):
    """Set when the process is asked to end; `signal` is the one that came."""

    signal: int = signal.SIGTERM


@contextlib.contextmanager
def termination() -> Iterator[Termination]:
    """Yield an event that is set when SIGTERM or Ctrl-C comes, instead of the process dying at once.

    A second Ctrl-C is obeyed at once. Outside the main thread, where Python takes no signals, the event is
    never set.
    """
    event = Termination()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and event.is_set():
            raise KeyboardInterrupt
        event.signal = signum
        event.set()

    before = {signum: signal.signal(signum, note) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
