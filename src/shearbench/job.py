"""What every script of the workflow does around its one call: keep a log, and fail in plain words."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from shearbench.errors import ShearbenchError


class _Tee:
    """A text stream with a copy in a file, as far as the file's disk has room."""

    def __init__(self, stream: IO[str], copy: IO[str]) -> None:
        self._stream, self._copy = stream, copy

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._copy.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._copy.flush()
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


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
    stderr, stdout = sys.stderr, sys.stdout
    # Unbuffered: what a full disk refuses is lost at once, and does not come back when the file is closed.
    with open(path, "wb", buffering=0) as raw, io.TextIOWrapper(raw, "utf-8", write_through=True) as file:
        sys.stderr = sys.stdout = tee = _Tee(stderr, file)
        handler = logging.StreamHandler(tee)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        root = logging.getLogger()
        root.addHandler(handler)
        try:
            yield
            with contextlib.suppress(OSError):
                file.write(f"done in {time.monotonic() - started:.1f} s\n")
        except (ShearbenchError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            with contextlib.suppress(OSError):
                traceback.print_exc(file=file)
            sys.exit(1)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        finally:
            root.removeHandler(handler)
            sys.stderr, sys.stdout = stderr, stdout
