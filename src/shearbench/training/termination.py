"""Handling of SIGTERM and Ctrl-C, so that the state of a training is saved before the process ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Terminated(SystemExit):
    """The process received SIGTERM or Ctrl-C, and the state is saved; its exit status is 143 or 130.

    Parameters
    ----------
    signum : int
        Number of the signal.
    """

    def __init__(self, signum: int = signal.SIGTERM) -> None:
        super().__init__(128 + signum)


class Termination(threading.Event):
    """An event that is set when the process receives SIGTERM or Ctrl-C; `signal` is the signal's number."""

    signal: int = signal.SIGTERM


@contextlib.contextmanager
def termination() -> Iterator[Termination]:
    """Yield an event that is set by SIGTERM or Ctrl-C; inside the block, neither ends the process.

    A second Ctrl-C raises KeyboardInterrupt. Python handles signals in the main thread only; in another
    thread, the event is never set.
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
