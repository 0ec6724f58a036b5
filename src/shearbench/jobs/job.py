"""What every script of the workflow does around its one call: keep a log, and fail in plain words."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
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

    Snakemake shows the log of a job that failed (``show-failed-logs``), so an error is written there and
    nowhere else. Where it is made for the user (`ShearbenchError`, `OSError`), the log has its message, and
    a file beside it with the suffix ``.traceback`` has its traceback; otherwise the log has both.

    Parameters
    ----------
    log : str
        The rule's log file.

    Raises
    ------
    SystemExit
        With status 1 where the block raised an error, and 130 where it was interrupted by Ctrl-C.
    """
    path = Path(log)
    started = time.monotonic()
    stderr, stdout = sys.stderr, sys.stdout
    details = path.with_suffix(".traceback")
    # Unbuffered: what a full disk refuses is lost at once, and does not come back when the file is closed.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        details.unlink(missing_ok=True)
        raw = open(path, "wb", buffering=0)  # noqa: SIM115  (closed below, with its text)
    except OSError as error:
        print(f"error: {error}", file=stderr)
        sys.exit(1)
    with io.TextIOWrapper(raw, "utf-8", write_through=True) as file:
        sys.stderr = sys.stdout = tee = _Tee(stderr, file)
        handler = logging.StreamHandler(tee)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        root = logging.getLogger()
        root.addHandler(handler)

        def fail(text: str) -> None:
            data = text.encode()
            try:
                whole = raw.write(data) == len(data)
            except OSError:
                whole = False
            if not whole:  # the log's disk is full
                stderr.write(text)
            sys.exit(1)

        try:
            yield
            with contextlib.suppress(OSError):
                file.write(f"done in {time.monotonic() - started:.1f} s\n")
        except (ShearbenchError, OSError) as error:
            text = f"error: {error}\n"
            with contextlib.suppress(OSError):
                details.write_text(traceback.format_exc(), encoding="utf-8")
                text += f"traceback: {details}\n"
            fail(text)
        except KeyboardInterrupt:
            print("interrupted", file=tee)
            sys.exit(128 + signal.SIGINT)
        except Exception:
            fail(traceback.format_exc())
        finally:
            root.removeHandler(handler)
            sys.stderr, sys.stdout = stderr, stdout
