"""The progress line of a training: it is rewritten on a terminal; in a log there is a line for each epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO


class ProgressLine:
    """Report progress on a stream.

    Parameters
    ----------
    label : str
        Name of the training, at the start of each line.
    total : int
        Number of stamps that the training shows in all.
    stream : file, optional
        Standard error by default.
    """

    def __init__(self, label: str, total: int, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.label, self.total = label, total
        self.live = self.stream.isatty()
        self.start = self.last = time.monotonic()
        self.first: int | None = None

    def step(self, views: int, status: Callable[[], str]) -> None:
        """Rewrite the line on a terminal, at most twice a second.

        Parameters
        ----------
        views : int
            Number of stamps shown so far.
        status : callable
            It returns a text for the line, and is called only when the line is written.
        """
        if self.first is None:
            self.first = views
        now = time.monotonic()
        if self.live and now - self.last >= 0.5:
            self.last = now
            self._write(views, status())

    def line(self, views: int, status: str) -> None:
        """Write a line that later ones do not replace."""
        self._write(views, status)
        if self.live:
            self.stream.write("\n")

    def note(self, text: str) -> None:
        """Write a text on a line of its own."""
        end = "\n" if self.live else ""
        self.stream.write(f"{end}{self.label}: {text}\n")
        self.stream.flush()

    def _write(self, views: int, status: str) -> None:
        rate = (views - (self.first or 0)) / max(time.monotonic() - self.start, 1e-9)
        left = f"{(self.total - views) / rate:.0f} s left" if rate > 0 else "..."
        text = f"{self.label}: {views}/{self.total} stamps, {status}, {rate:.0f} stamps/s, {left}"
        self.stream.write(f"\r\x1b[K{text}" if self.live else text + "\n")
        self.stream.flush()
