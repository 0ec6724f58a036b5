"""What every script of the workflow does around its one call: keep a log, and fail in plain words."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from shearbench.errors import ShearbenchError


class _Tee:
    """A text stream that writes to several others."""

    def __init__(self, *streams: IO[str]) -> None:
        self._streams = streams

    def write(self, text: str) -> int:
        for stream in self._streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self._streams:
            stream.flush()

    def isatty(self) -> bool:
        return self._streams[0].isatty()

    def fileno(self) -> int:
        return self._streams[0].fileno()


@contextlib.contextmanager
def logged(log: str) -> Iterator[None]:
    """Copy all that a job prints to its log file, and end it in plain words when it fails.

    Parameters
    ----------
    log : str
        The rule's log file.

    Raises
    ------
    SystemExit
        With status 1, where the block raised; the log has the traceback. An error made for the user
        (`ShearbenchError`, a full disk) is printed without one.
    """
    path = Path(log)
    path.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with open(path, "w", encoding="utf-8", buffering=1) as file:
        stderr, stdout = sys.stderr, sys.stdout
        sys.stderr = sys.stdout = _Tee(stderr, file)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        root = logging.getLogger()
        root.addHandler(handler)
        try:
            yield
            file.write(f"done in {time.monotonic() - started:.1f} s\n")
        except (ShearbenchError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            traceback.print_exc(file=file)
            sys.exit(1)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        finally:
            root.removeHandler(handler)
            sys.stderr, sys.stdout = stderr, stdout
